"""The parts of `scale.py` that run in processes of their own: making a set, measuring a method."""

from __future__ import annotations

import ctypes
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from candidates import pairs
from scale_methods import ITERATIONS, METHODS, Method, Potentials, Problem, Watch, geomloss

from emcl_plugin.pipeline.memory_plan import available, estimate

REFERENCE = 4000  # items up to which solvers are compared with float64
QUIET = 0.1  # cores' worth that others may take
_CLOCK = 0.2  # seconds below which the system's clock is too coarse to tell
_WARM = 64  # pairs of the run that comes before, so that threads, code and buffers are there


def make(folder: Path, size: int, device: str, orders: set[str]) -> dict[str, float]:
    """Write a set of this size, tau and what solvers of these orders should find.

    The first ``size`` of twice as many pairs; the other texts are the bank.
    """
    torch.set_grad_enabled(False)
    text, video = pairs(2 * size)
    for name, x in (("text", text[:size]), ("video", video[:size]), ("bank", text[size:])):
        np.save(folder / f"{name}.npy", x)
    text, video = (x[:size].astype(np.float64) for x in (text, video))
    mean = text.mean(0) @ video.mean(0)
    square = ((text.T @ text) * (video.T @ video)).sum() / size**2
    (folder / "tau.txt").write_text(repr(0.15 * math.sqrt(square - mean**2)))
    if size <= REFERENCE:
        problem = Problem.load(folder, device)
        for order in orders:
            f, g = reference(problem, order)
            np.savez(folder / f"{order}.npz", f=f.cpu().numpy(), g=g.cpu().numpy())
    return {"free": available(torch.device(device)), "dimension": text.shape[1]}


def reference(problem: Problem, order: str) -> Potentials:
    """The same iterations in the same order in float64 in the log domain."""
    text, video, bank = (x.double() for x in (problem.text, problem.video, problem.bank))
    exact = Problem(text, video, bank, problem.tau)
    if order == "annealed":
        found: Potentials = geomloss(exact, Watch(), "tensorized")()
        return found
    scaled = problem.scores.double() / problem.tau
    turned = scaled.T.contiguous()
    f = -torch.logsumexp(scaled, 1) if order == "text" else scaled.new_zeros(problem.size)
    for _ in range(ITERATIONS):
        g = -torch.logsumexp(turned + f, 1)
        f = -torch.logsumexp(scaled + g, 1)
    return f, g


def measure(name: str, folder: Path, device: str, limit: float) -> dict[str, float]:
    """Seconds, peak memory and error of one method on the set in a folder.

    `peak_mib` is how far the process's resident memory rose during the first run above what it
    held when everything was imported, the input was loaded and 64 pairs had been run: its peak
    (VmHWM, reset before) less VmRSS; on CUDA the same of torch's allocator. `loaded_mib` is what
    the input took before that. `seconds` is the quickest run's: of one, of three where it took less
    than a second, and of up to five within the limit while other processes took more than a tenth
    of a core. `others` is how many cores' worth they took during the quickest.
    """
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    method, watch = METHODS[name], Watch()
    problem = Problem.load(folder, device)
    method.prepare(problem.first(_WARM), watch)()
    bare = held(device, peak=False)
    run = method.prepare(problem, watch)
    row = plan(method, problem)
    before = held(device, peak=False)
    row["loaded_mib"] = max(0.0, before - bare)
    times: list[tuple[float, float, float]] = []  # seconds, what others took, of them the search
    found = None
    while _again(times, limit):
        del found
        elsewhere = busy() - time.process_time()
        watch.start()
        found = run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - watch.started
        elsewhere = max(0.0, busy() - time.process_time() - elsewhere) / seconds
        times.append((seconds, elsewhere if seconds > _CLOCK else 0.0, watch.search_s))
        if len(times) == 1:
            row["peak_mib"] = max(0.0, held(device, peak=True) - before)
    row["seconds"], row["others"], search_s = min(times)
    if watch.iterations:
        row["iterations"] = watch.iterations
    if search_s:
        row["search_s"] = search_s
    return row | judge(method, problem, found, folder)


def _again(times: list[tuple[float, float, float]], limit: float) -> bool:
    """Whether one more run is wanted and there is time for it."""
    if not times:
        return True
    quickest, others, _ = min(times)
    wanted = (quickest < 1 and len(times) < 3) or (others > QUIET and len(times) < 5)
    return wanted and sum(seconds for seconds, *_ in times) + 2 * quickest < limit


def busy() -> float:
    """Seconds that all cores together have worked so far, for whichever process."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def plan(method: Method, problem: Problem) -> dict[str, float]:
    """What `--plan` says, in seconds, for the methods that it knows."""
    if method.budget is None:
        return {}
    told = estimate(
        (problem.size, problem.size),
        problem.text.shape[1],
        torch.float32,
        method.budget(problem.size),
        kernel=torch.float32,
        candidates=method.candidates,
    )
    return {"plan_s": told.seconds(problem.text.device, torch.float32)}


def held(device: str, peak: bool) -> float:
    """MiB held by this process, or at most since this was last asked without ``peak``."""
    if device.startswith("cuda"):
        if peak:
            return torch.cuda.max_memory_allocated() / (1 << 20)
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / (1 << 20)
    if not peak:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be taken again unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:" if peak else "VmRSS:")[1].split()[0]) / 1024


def judge(method: Method, problem: Problem, found: object, folder: Path) -> dict[str, float]:
    """R@1 of scores or best videos; of potentials what is wrong with them."""
    if method.group == "whole":
        assert isinstance(found, torch.Tensor)
        best = found.argmax(1) if found.ndim == 2 else found
        right = best.cpu() == torch.arange(problem.size)
        return {"R@1": 100 * float(right.double().mean())}
    if method.group != "solver" or problem.size > REFERENCE:
        return {}
    assert isinstance(found, tuple)
    sides = [x.double() for x in found]
    p = (problem.scores.double() / problem.tau + sides[0][:, None] + sides[1]).exp_()
    errors = {"marginal": max(float((p.sum(axis) - 1).abs().max()) for axis in (0, 1))}
    if method.order:
        exact = np.load(folder / f"{method.order}.npz")
        off = [x.cpu() - torch.from_numpy(exact[side]) for x, side in zip(sides, "fg", strict=True)]
        errors["rounding"] = max(float((x - x.mean()).abs().max()) for x in off)
    return errors
