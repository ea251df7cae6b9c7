"""Speed and memory of the core, side by side with the plain ways, in one run.

Medians of ratios measured in turn (A B A B ...), on the CPU or with --device cuda:

1. 20 Sinkhorn iterations: stored kernel against POT's `sinkhorn_log` on tensors of the same type.
2. The EMCL fit on the second moments against the plain EM loop over the rows, and trying eight
   settings against eight loops; extra memory of both.
3. One Sinkhorn sweep against the bandwidth that plain matrix-vector products reach.
4. The whole, `rescore(None, (text, video))` with no option, against one product of the features,
   and where its time goes.

    python benchmarks/core_speed.py [--repeats 5] [--device cpu] [--small] [--json FILE]
        [--only whole]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ot
import torch
from candidates import pairs

from emcl_plugin import rescore
from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
from emcl_plugin.ncl import NCL, Problem, fit_biases
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores import Dense, FeaturePair, Features

Work = Callable[[], object]

GRID = [EMCL(subspaces=k, sigma=s, iterations=10) for k, s in product((8, 16, 32, 64), (0.1, 1.0))]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def side_by_side(ours: Work, theirs: Work, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of both and the median ratio theirs / ours, run in turn after a warm-up."""
    ours()
    pairs = [(seconds(ours, device), seconds(theirs, device)) for _ in range(repeats)]
    return {
        "ours_s": statistics.median(a for a, _ in pairs),
        "theirs_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def extra_memory(what: str, rows: int, dimension: int) -> float:
    """Peak MiB that a new process needs beyond its data and the libraries' own buffers."""
    command = [sys.executable, __file__, "--extra-memory-of", what, str(rows), str(dimension)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors leave the process
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)


def measure_extra_memory(what: str, rows: int, dimension: int) -> float:
    """The same inside that process: peak less what was held, after a warm-up on fewer rows."""

    def work(x: torch.Tensor) -> None:
        if what == "loop":
            for config in GRID:
                plain_loop(x, config.subspaces, 10, config.sigma)
            return
        moments = second_moments(Features(x, metric="dot"))
        for config in GRID:
            fit_subspaces(moments, config)

    def status(key: str) -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split(f"{key}:")[1].split()[0]) / 1024

    x = torch.nn.functional.normalize(torch.randn(rows, dimension), dim=1)
    work(x[: 4 * dimension])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    work(x)
    return status("VmHWM") - before


def sinkhorn(n: int, repeats: int, device: torch.device) -> dict[str, float]:
    """20 iterations on n x n float32 scores."""
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(2, n, 64, device=device), dim=2)
    scores = features[0] @ features[1].T
    tau = 0.15 * float(scores.std())
    config = NCL(temperature=tau, iterations=20, tolerance=0.0, solver="stored")
    uniform = torch.full((n,), 1 / n, device=device)
    source = Dense(scores, device=device)

    def ours() -> object:
        return fit_biases(source, config, std=tau / 0.15)

    def theirs() -> object:
        return ot.bregman.sinkhorn_log(
            uniform, uniform, -scores, reg=tau, numItermax=20, stopThr=0.0, warn=False
        )

    return {"n": n, **side_by_side(ours, theirs, repeats, device)}


def plain_loop(x: torch.Tensor, subspaces: int, iterations: int, sigma: float) -> torch.Tensor:
    """The EM loop over the rows, as the paper writes it, from Gaussian bases."""
    bases = torch.nn.functional.normalize(torch.randn(len(x), subspaces).to(x), dim=0)
    for _ in range(iterations):
        z = torch.softmax(x.T @ bases / sigma, dim=1)
        z = z / (1e-6 + z.sum(0))
        bases = x @ z
        bases = bases / (1e-6 + bases.norm(dim=0))
    return z


def subspaces(n: int, dimension: int, repeats: int, device: torch.device) -> dict[str, float]:
    """The fit on n rows: K 32 and 10 iterations once, and eight settings of K and sigma."""
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(n, dimension, device=device), dim=1)
    side = Features(x, metric="dot", device=device)

    def ours() -> object:
        return fit_subspaces(second_moments(side), EMCL(iterations=10))

    def ours_grid() -> object:
        moments = second_moments(side)
        return [fit_subspaces(moments, config) for config in GRID]

    def theirs() -> object:
        return plain_loop(x, 32, 10, 0.3)

    def theirs_grid() -> object:
        return [plain_loop(x, c.subspaces, 10, c.sigma) for c in GRID]

    one = side_by_side(ours, theirs, repeats, device)
    eight = side_by_side(ours_grid, theirs_grid, max(1, repeats // 2), device)
    eight_of_32 = one["theirs_s"] * 8
    return {
        "rows": n,
        "dimension": dimension,
        **one,
        "eight_ours_s": eight["ours_s"],
        "eight_theirs_s": eight["theirs_s"],
        "eight_ratio": eight["ratio"],
        "eight_ratio_to_eight_k32_loops": eight_of_32 / eight["ours_s"],
        "eight_ours_extra_mib": extra_memory("fit", n, dimension),
        "eight_theirs_extra_mib": extra_memory("loop", n, dimension),
    }


def bandwidth(n: int, repeats: int, device: torch.device) -> dict[str, float]:
    """One sweep, which uses the kernel twice, against one plain matrix-vector product."""
    scores = torch.rand(n, n, device=device)
    g = torch.zeros(n, device=device)
    kernel = StoredKernel(Dense(scores, device=device), 0.1, g, 1.0, g)
    kernel.sweep(g)
    kernel.sweep(g)
    narrow = StoredKernel(Dense(scores, device=device), 0.1, g, 1.0, g, torch.bfloat16)
    vector = torch.rand(n, device=device)
    array = kernel.kernel
    found = side_by_side(lambda: kernel.sweep(g), lambda: array @ vector, 4 * repeats, device)
    half = side_by_side(lambda: narrow.sweep(g), lambda: kernel.sweep(g), 4 * repeats, device)
    return {
        "n": n,
        "sweep_ms": 1e3 * found["ours_s"],
        "matvec_ms": 1e3 * found["theirs_s"],
        "matvec_gb_s": n * n * 4 / found["theirs_s"] / 1e9,
        "sweep_in_matvecs": 1 / found["ratio"],
        "bfloat16_sweep_in_sweeps": 1 / half["ratio"],
    }


_CORRECT = import_module("emcl_plugin.pipeline.correct")
_STRENGTHS = import_module("emcl_plugin.emcl.strength_search")
_STAGES: list[tuple[Any, str, str]] = [
    (FeaturePair, "dense", "products"),
    (FeaturePair, "rows", "products"),
    (_CORRECT, "_best_matches", "best matches of the input"),
    (_CORRECT, "duplicate_weights", "near-duplicate queries"),
    (_CORRECT, "propose", "EMCL's fit"),
    (_CORRECT, "try_strengths", "strengths"),
    (Problem, "__init__", "kernels"),
    (Problem, "solve", "Sinkhorn runs"),
    (Problem, "log_masses", "Sinkhorn runs"),
    (_CORRECT, "moments", "spread of a strength"),
    (_STRENGTHS, "moments", "spread of a strength"),
    (_CORRECT, "nearest", "matches after NCL"),
    (Job, "__init__", "input"),
    (Job, "collect", "output"),
]


@contextmanager
def stopwatch(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds by stage while this is open, each without the stages inside it."""
    spent: dict[str, float] = defaultdict(float)
    inside = [0.0]

    def timed(work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            inside.append(0.0)
            results: list[Any] = []
            elapsed = seconds(lambda: results.append(work(*args, **named)), device)
            spent[name] += elapsed - inside.pop()
            inside[-1] += elapsed
            return results[0]

        return run

    patches = [patch.object(at, n, timed(getattr(at, n), stage)) for at, n, stage in _STAGES]
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()


def whole(n: int, repeats: int, device: torch.device) -> dict[str, float]:
    """The whole on n x n pairs of 512 dimensions, and the median run's seconds by stage."""
    text, video = (torch.from_numpy(x).to(device) for x in pairs(n))

    def ours() -> object:
        return rescore(None, (text, video))

    found = side_by_side(ours, lambda: text @ video.T, repeats, device)
    runs = []
    for _ in range(repeats):
        with stopwatch(device) as spent:
            total = seconds(ours, device)
        runs.append((total, dict(spent)))
    total, stages = sorted(runs, key=lambda run: run[0])[repeats // 2]
    stages = dict(sorted(stages.items(), key=lambda stage: -stage[1]))
    return {
        "n": n,
        "whole_s": found["ours_s"],
        "product_s": found["theirs_s"],
        "whole_in_products": 1 / found["ratio"],
        **stages,
        "the rest": total - sum(stages.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a quick look at small sizes")
    parser.add_argument("--only", choices=["sinkhorn", "emcl", "sweep", "whole"])
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--extra-memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.extra_memory_of:
        what, rows, dimension = arguments.extra_memory_of
        print(measure_extra_memory(what, int(rows), int(dimension)))
        return
    device = torch.device(arguments.device)
    warnings.simplefilter("ignore")
    repeats, small = arguments.repeats, arguments.small
    n, rows = (512, 5_000) if small else (4096, 100_000)
    sections: dict[str, tuple[str, Callable[[], dict[str, float]]]] = {
        "sinkhorn": (
            "sinkhorn, 20 iterations, against POT sinkhorn_log",
            lambda: sinkhorn(n, repeats, device),
        ),
        "emcl": ("EMCL fit against the plain loop", lambda: subspaces(rows, 512, repeats, device)),
        "sweep": (
            "one sweep against one matrix-vector product",
            lambda: bandwidth(n if small else 2 * n, repeats, device),
        ),
        "whole": (
            "the whole against one product of the features",
            lambda: whole(1000 if small else 5000, repeats, device),
        ),
    }
    figures: dict[str, object] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "torch": torch.__version__,
    }
    for short, (name, measure) in sections.items():
        if arguments.only in (None, short):
            figures[name] = measure()
    for name, values in figures.items():
        if isinstance(values, dict):
            print(f"\n{name}")
            for key, value in values.items():
                print(f"  {key:32}{value:12.4g}")
        else:
            print(f"{name}: {values}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
