"""Candidates against one exhaustive FAISS search and, where it fits, against the dense result.

For each size: seconds of one FAISS flat search of the texts among the videos (100 answers),
seconds of `rerank_top` on memory-mapped features with a memory budget, in a process of its own,
the ratio, its peak memory, and R@1 of the input, of candidates and of the dense way.

    python benchmarks/candidates.py [--sizes 5000 20000] [--memory 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

K = 100


def pairs(count: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Texts and videos of 512 dimensions: 64 directions of falling variance, a cone, a gap."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, 65) ** -0.4
    basis = np.linalg.qr(rng.standard_normal((512, 66)))[0].T
    items = rng.standard_normal((count, 64)) * spectrum
    texts = items + 1.3 * rng.standard_normal((count, 64)) * spectrum
    length = np.linalg.norm(spectrum)
    cone, gap = 1.2 * length * basis[64], 0.8 * length * basis[65]
    video, text = items @ basis[:64] + cone + gap, texts @ basis[:64] + cone - gap
    sides = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video))
    text, video = (x.astype(np.float32) for x in sides)
    return text, video


def search(folder: Path) -> float:
    """Seconds of one exhaustive FAISS search."""
    import faiss

    text, video = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("text", "video"))
    started = time.perf_counter()
    index = faiss.IndexFlatIP(text.shape[1])
    index.add(np.ascontiguousarray(video))
    for start in range(0, len(text), 4096):
        index.search(np.ascontiguousarray(text[start : start + 4096]), K)
    return time.perf_counter() - started


def candidates(folder: Path, memory: int) -> dict[str, float]:
    """Seconds, peak memory and R@1, in this process."""
    from emcl_plugin import rerank_top

    text, video = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("text", "video"))
    started = time.perf_counter()
    found = rerank_top((text, video), 10, candidates=K, memory=memory)
    seconds = time.perf_counter() - started
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    assert found.coverage is not None
    right = np.asarray(found.videos)[:, 0] == np.arange(len(text))
    return {
        "seconds": seconds,
        "peak_gib": int(peak[1]) / (1 << 20),
        "R@1": 100 * float(right.mean()),
        "pairs": found.coverage.pairs,
        "left_out": found.coverage.left_out,
    }


def dense(folder: Path) -> dict[str, float]:
    """R@1 of the input and of the dense result."""
    from emcl_plugin import rescore

    text, video = (np.load(folder / f"{name}.npy") for name in ("text", "video"))
    right = np.arange(len(text))
    before = np.concatenate([(part @ video.T).argmax(1) for part in np.array_split(text, 32)])
    after = np.asarray(rescore(None, (text, video)).scores).argmax(1)
    return {
        "R@1_input": 100 * float((before == right).mean()),
        "R@1_dense": 100 * float((after == right).mean()),
    }


def main() -> None:
    """Print a row per size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--memory", type=float, default=2.0, help="GiB")
    parser.add_argument("--dense-up-to", type=int, default=20000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        folder = Path(options.part[1])
        work = {"search": lambda: {"seconds": search(folder)}, "dense": lambda: dense(folder)}
        work["candidates"] = lambda: candidates(folder, int(options.memory * (1 << 30)))
        print(json.dumps(work[options.part[0]]()))
        return
    rows = []
    print("items    search s  candidates s  ratio  peak GiB  R@1 input  candidates  dense")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            for side, x in zip(("text", "video"), pairs(size), strict=True):
                np.save(Path(name, f"{side}.npy"), x)

            def part(what: str, folder: str = name) -> dict[str, float]:
                command = [sys.executable, "-W", "ignore", __file__, "--part", what, folder]
                command += ["--memory", str(options.memory)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found: dict[str, float] = json.loads(done.stdout)
                return found

            before, ours, after = part("search"), part("candidates"), part("search")
            row = {"items": size, **ours, "search_s": (before["seconds"] + after["seconds"]) / 2}
            row["ratio"] = ours["seconds"] / row["search_s"]
            if size <= options.dense_up_to:
                row |= part("dense")
            rows.append(row)
            print(
                f"{size:<8} {row['search_s']:8.1f} {row['seconds']:13.1f} {row['ratio']:6.2f} "
                f"{row['peak_gib']:9.2f} {row.get('R@1_input', float('nan')):10.2f} "
                f"{row['R@1']:11.2f} {row.get('R@1_dense', float('nan')):6.2f}"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
