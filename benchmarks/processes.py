"""One job on several processes of one thread each: time of its parts, and the largest difference.

Stored and recomputed: seconds of 20 Sinkhorn iterations and of the whole correction on n x n
synthetic pairs of 512 dimensions, for 1, 2, ... processes on this machine, medians of runs in
turn; then how much faster than one process, and how far the scores are from its.

    python benchmarks/processes.py [--size 6000] [--processes 1 2] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from candidates import pairs

WAYS = {"stored": 4 << 30, "recomputed": 64 << 20}


def work(folder: Path, way: str) -> dict[str, float]:
    """What one of the processes does."""
    from torch import distributed

    from emcl_plugin.distributed.process_group import ProcessGroup
    from emcl_plugin.ncl import NCL, Problem
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.settings import Resources
    from emcl_plugin.scores import FeaturePair

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    group = ProcessGroup(distributed.group.WORLD)
    text, video = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("text", "video"))
    distributed.barrier()
    started = time.perf_counter()
    job = Job(None, (text, video), resources=Resources(memory=WAYS[way], group=group))
    found = job.correct()
    whole = time.perf_counter() - started
    source = FeaturePair(*job.features, memory=job.memory) if job.features else found.base
    config = NCL(iterations=20, tolerance=0.0)
    problem = Problem(source, config, std=found.score_std, memory=job.memory)
    distributed.barrier()
    started = time.perf_counter()
    problem.solve()
    iterations = time.perf_counter() - started
    scores = np.concatenate([block.numpy() for block in job.blocks(found.source)])
    np.save(folder / f"{way}-{group.size}-{group.rank}.npy", scores)
    distributed.destroy_process_group()
    return {"whole": whole, "rounds": iterations}


def run(folder: Path, way: str, count: int) -> dict[str, float]:
    """Start so many processes; the slowest counts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-W", "ignore", __file__, "--part", str(folder), way]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    found = [json.loads(process.communicate()[0]) for process in started]
    return {name: max(each[name] for each in found) for name in found[0]}


def difference(folder: Path, way: str, count: int) -> float:
    """Of the scores to those of one process."""
    one = np.load(folder / f"{way}-1-0.npy", mmap_mode="r")
    start, largest = 0, 0.0
    for rank in range(count):
        own = np.load(folder / f"{way}-{count}-{rank}.npy", mmap_mode="r")
        largest = max(largest, float(np.abs(own - one[start : start + len(own)]).max()))
        start += len(own)
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(json.dumps(work(Path(options.part[0]), options.part[1])))
        return
    rows: list[dict[str, Any]] = []
    print(f"{options.size} x {options.size} x 512, one thread per process")
    print("way         processes  20 iterations, s  faster  whole, s  faster  difference")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, x in zip(("text", "video"), pairs(options.size), strict=True):
            np.save(folder / f"{side}.npy", x)
        for way in WAYS:
            times: dict[int, list[dict[str, float]]] = {n: [] for n in options.processes}
            for _ in range(options.repeats):
                for count in options.processes:
                    times[count].append(run(folder, way, count))
            first = times[options.processes[0]]
            for count in options.processes:
                row: dict[str, Any] = {"way": way, "processes": count}
                for part in ("rounds", "whole"):
                    row[part] = statistics.median(each[part] for each in times[count])
                    ratios = (a[part] / b[part] for a, b in zip(first, times[count], strict=True))
                    row[f"{part}_faster"] = statistics.median(ratios)
                row["difference"] = difference(folder, way, count)
                rows.append(row)
                print(
                    f"{way:<12}{count:9}{row['rounds']:14.2f}{row['rounds_faster']:8.2f}"
                    f"{row['whole']:10.2f}{row['whole_faster']:8.2f}{row['difference']:12.1e}"
                )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
