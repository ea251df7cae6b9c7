"""The process of one target: `fuzz.py` starts it, with the target's name and its folder."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
import traceback
from pathlib import Path
from random import Random

import atheris
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

with atheris.instrument_imports(include=["emcl_plugin"]):
    from targets import TARGETS

SLOW = 5.0
"""Seconds of CPU time."""
LARGE = 1 << 30
"""Bytes by which one input may raise the process's memory, and which it may ask for at once."""


def main() -> None:
    """Fuzz until the time is over."""
    target, work = TARGETS[sys.argv[1]], Path(sys.argv[2])
    counts = np.memmap(work / "counts", np.int64, "r+")
    scratch = work / "scratch"
    for seed in target.seeds(scratch):  # imports what it needs, before memory is limited
        target.accepts(seed, scratch)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * LARGE, resource.RLIM_INFINITY))

    def keep(kind: str, data: bytes, text: str) -> None:
        """An input of each kind of loss, the smallest."""
        path = work / "losses" / f"{hashlib.sha1(kind.encode()).hexdigest()[:12]}.bin"
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(f"{kind}\n\n{text}", errors="backslashreplace")

    def one(data: bytes) -> None:
        counts[0] += 1
        start, before = time.process_time(), _most_memory()
        try:
            counts[1 if target.accepts(data, scratch) else 2] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f for f in frames if "emcl_plugin" in f.filename or "targets.py" in f.filename]
            places = [f"{Path(f.filename).name}:{f.name}" for f in own[-2:]]
            keep(f"{type(error).__name__} {' '.join(places)}", data, traceback.format_exc())
        taken, grown = time.process_time() - start, _most_memory() - before
        if taken > SLOW:
            keep("slow", data, f"{taken:.1f} s")
        if grown > LARGE:
            keep("large", data, f"{grown} bytes")

    def changed(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)

        def inner(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, max(2 * len(part), 64)))

        if target.change is not None and random.random() < 0.6:
            try:
                return target.change(data, random, inner)[:most]
            except Exception:  # it has not the form that this change knows
                pass
        return bytes(atheris.Mutate(data, most))

    atheris.Setup([sys.argv[0], *sys.argv[3:]], one, custom_mutator=changed)
    atheris.Fuzz()


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
