"""Time, peak memory and error against size: ours in every mode, other solvers, other corrections.

One run measures all of it on the same made pairs (`pairs()` of candidates.py, 512 dimensions), each
in a process of its own, the quickest first at every size; sizes double. A method is left out where
its last two sizes say that it would take more than twice its equal part of the time, or more memory
than is free. Laws are fitted to the times, checked on the largest run of each, and used to predict
a million by a million.

    python benchmarks/scale.py [--sizes 1000 2000 4000 ...] [--seconds 600] [--methods a,b,c]
        [--device cpu] [--json FILE] [--plot FILE] [--docs docs/scale.md] [--from FILE]

Peers that are not installed are left out and named; to have them:
pip install geomloss pykeops, and where there is CUDA flash-sinkhorn. KeOps needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
LIBRARIES = ("torch", "numpy", "scipy", "POT", "faiss-cpu", "geomloss", "pykeops", "flash-sinkhorn")
PRELOADED = ("torch", "ot", "faiss", "scipy.stats", "emcl_plugin.reranker", "emcl_plugin.baselines")
_APART = 20.0  # seconds for what is not measured: loading, the first small run, the judgement


@dataclass
class Run:
    """What was measured so far, and the time that is left.

    ``left_out`` holds methods with the size from which they are missing, and why.
    """

    seconds: float
    device: str
    methods: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self.started)

    @property
    def share(self) -> float:
        """Seconds that a method may take at a size: twice its equal part."""
        return min(2 * self.seconds / len(self.methods), self.left)

    def expected(self, name: str, size: int, key: str) -> float:
        """Seconds or MiB at a size, from the last two; 0 where nothing is known."""
        seen = [(row["size"], row[key]) for row in self.rows if row["method"] == name and row[key]]
        if not seen:
            return 0.0
        power = 2.0
        if len(seen) > 1:
            (a, low), (b, high) = seen[-2:]
            power = min(2.5, max(1.0, math.log(high / low) / math.log(b / a)))
        return float(seen[-1][1] * (size / seen[-1][0]) ** power)

    def leave_out(self, name: str, size: int, why: str) -> None:
        self.left_out.append({"method": name, "size": size, "why": why})
        print(f"{size:>7}  {name:16} {why}", file=sys.stderr)

    def gone(self, name: str) -> bool:
        return any(entry["method"] == name for entry in self.left_out)


def apart(work: Callable[..., Any], *given: Any, limit: float) -> dict[str, Any]:
    """What ``work`` returns in a process of its own, or {"failed": why}."""
    context = multiprocessing.get_context("forkserver")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, work, given), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(max(0.0, limit)):
            return {"failed": f"stopped after {limit:.0f} s"}
        answer: dict[str, Any] = receive.recv()
        return answer
    except EOFError:
        process.join()
        return {"failed": f"its process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _child(send: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # compilers and libraries talk
    try:
        send.send(work(*given))
    except Exception as error:  # a peer may fail in any way; the others go on
        text = str(error).strip().splitlines()
        send.send({"failed": f"{type(error).__name__}: {text[0][:100] if text else ''}"})


def measure_all(run: Run, sizes: list[int]) -> None:
    """Every method at every size that the time allows."""
    from scale_measure import make, measure
    from scale_methods import METHODS

    for name in run.methods:
        if why := METHODS[name].missing(run.device):
            run.leave_out(name, sizes[0], why)
    for size in sizes:
        for name in run.methods:
            need = run.expected(name, size, "seconds")
            if not run.gone(name) and need > run.share:
                run.leave_out(name, size, f"about {need:.0f} s, its share is {run.share:.0f} s")
        here = [name for name in run.methods if not run.gone(name)]
        if not here:
            return
        orders = {METHODS[name].order for name in here} - {""}
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            made = apart(make, at, size, run.device, orders, limit=run.left)
            for name in sorted(here, key=lambda x: run.expected(x, size, "seconds")):
                need = run.expected(name, size, "seconds")
                room = run.expected(name, size, "peak_mib")
                room += run.expected(name, size, "loaded_mib")
                limit = min(run.share + _APART, run.left)
                if "failed" in made:
                    run.leave_out(name, size, f"no data: {made['failed']}")
                elif need > run.share:
                    run.leave_out(
                        name, size, f"about {need:.0f} s, {max(0, run.left):.0f} are left"
                    )
                elif room > 0.8 * made["free"] / (1 << 20):
                    free = made["free"] / (1 << 20)
                    run.leave_out(name, size, f"about {room:.0f} MiB, of {free:.0f} that are free")
                else:
                    row = apart(measure, name, at, run.device, run.share, limit=limit)
                    if "failed" in row:
                        run.leave_out(name, size, row["failed"])
                        continue
                    run.rows.append({"method": name, "size": size, **row})
                    print(f"{size:>7}  {name:16} {row['seconds']:9.3f} s", file=sys.stderr)


def machine(device: str) -> dict[str, Any]:
    """Where it ran."""
    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    cpu = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    return {
        "cpu": f"{os.cpu_count()} cores of a virtual machine, {cpu or platform.machine()}",
        "device": device,
        "python": platform.python_version(),
        "versions": {name: found[name] for name in LIBRARIES if name in found},
    }


def main() -> None:
    from scale_methods import CANDIDATES, METHODS
    from scale_report import draw_plot, report, rewrite

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=600, help="for everything together")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keep the figures there")
    parser.add_argument("--plot", type=Path, help="draw them, .svg or .png")
    parser.add_argument("--docs", type=Path, help="rewrite the marked part of this page")
    parser.add_argument("--from", type=Path, dest="source", help="measure nothing, read this JSON")
    given = parser.parse_args()
    methods = given.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method has this name: {', '.join(unknown)}; known: {', '.join(METHODS)}")
    if min(given.sizes) < 100:
        parser.error("sizes are 100 or more")
    figures: Mapping[str, Any]
    if given.source is not None:
        figures = json.loads(given.source.read_text())
    else:
        os.environ.update({"PYKEOPS_VERBOSE": "0", "KEOPS_VERBOSE": "0"})
        multiprocessing.set_forkserver_preload(list(PRELOADED))
        run = Run(given.seconds, given.device, methods)
        measure_all(run, sorted(given.sizes))
        figures = {
            "command": " ".join(["python", "benchmarks/scale.py", *sys.argv[1:]]),
            "machine": machine(given.device),
            "seconds": round(run.seconds - run.left, 1),
            "dimension": 512,
            "candidates": CANDIDATES,
            "rows": run.rows,
            "left_out": run.left_out,
        }
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    text = report(figures)
    print(text)
    if given.docs is not None:
        rewrite(given.docs, text)
    if given.plot is not None:
        draw_plot(figures, given.plot)


if __name__ == "__main__":
    main()
