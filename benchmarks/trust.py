"""Does a correction ever make results worse? Real sets, generated worlds, shapes of scores.

R@1 of the input, of this package with no option set and of every peer, in both directions:
on every folder (see sets.py) and the demo by how evenly the videos are asked for, on generated
worlds (worlds.py), and on every shape that scores come in (shapes.py).

    python benchmarks/trust.py [FOLDER ...] [--quick] [--draws 10] [--worlds 500] [--jobs 2]
        [--parts sets,worlds,shapes] [--cache FILE] [--json FILE] [--from FILE]
        [--docs docs/trust.md] [--plot docs/trust.svg] [--readme README.md]

What was measured is kept in the cache, one line per draw: a run that was stopped continues, and
after a change of the package its own results alone are measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sets import ASKED, SHIFT
from trust_figures import summarise
from trust_measure import (
    ALL,
    INPUT,
    OURS,
    PUBLISHED,
    SETS,
    SHAPES,
    WORLDS,
    Found,
    Task,
    measure,
    read,
)
from trust_plot import draw_plot
from trust_report import claim, report, rewrite
from worlds import KINDS

import emcl_plugin

HERE, PACKAGE = Path(__file__).parent, Path(emcl_plugin.__file__).parent
QUICK = {"set": "demo:150", "draws": 1, "worlds": 4}


def tasks(sets: Sequence[str], parts: Sequence[str], draws: int, worlds: int) -> list[Task]:
    """Everything to measure, first draws first."""
    found: list[Task] = []
    if SETS in parts:
        found += [(SETS, name, "even", 0) for name in sets]
        cases = [case for case in (*ASKED, SHIFT) if case != "even"]
        found += [(SETS, name, case, k) for k in range(draws) for case in cases for name in sets]
    if WORLDS in parts:
        found += [(WORLDS, kind, kind, seed) for seed in range(worlds) for kind in KINDS]
    if SHAPES in parts:
        found += [(SHAPES, name, "", 0) for name in sets]
    return found


class Cache:
    """Results by task, on disk, each with hashes of the code that it depends on.

    What peers and input give depends on fewer files than what we do, so it is kept longer.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.found = path, {}
        self.own = _hash(PACKAGE.rglob("*.py"))
        metrics = PACKAGE / "evaluation" / "metrics.py"
        peers = [*(PACKAGE / "baselines").glob("*.py"), metrics]
        inputs = {part: "sets" if part == SETS else part for part in (SETS, WORLDS, SHAPES)}
        self.peers = {part: _hash([*peers, HERE / f"{inputs[part]}.py"]) for part in inputs}
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        for kept in map(json.loads, lines):
            if kept["peers"] == self.peers[kept["task"][0]]:
                self.found[tuple(kept["task"])] = kept

    def missing(self, task: Task) -> Sequence[str]:
        """Return the methods that are yet to be measured."""
        kept = self.found.get(named(task))
        if kept is None:
            return ALL
        return () if kept["own"] == self.own else (INPUT, OURS, PUBLISHED)

    def add(self, task: Task, found: dict[str, Found]) -> None:
        """Keep what was found, beside what is known of other methods."""
        before = self.found.get(named(task), {}).get("found", {})
        both = {
            case: {**before.get(case, {}), **{m: r1 and _rounded(r1) for m, r1 in new.items()}}
            for case, new in found.items()
        }
        codes = {"peers": self.peers[task[0]], "own": self.own}
        self.found[named(task)] = {"task": named(task), **codes, "found": both}
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.found[named(task)]) + "\n")


def named(task: Task) -> Task:
    """Return the task with the name of its set in place of the folder."""
    return task[0], Path(task[1]).name, *task[2:]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


def _hash(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def run(wanted: Sequence[Task], cache: Cache, jobs: int) -> None:
    """Measure what is missing, in several processes, with a line of progress."""
    todo = [(task, methods) for task in wanted if (methods := cache.missing(task))]
    started = last = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, *each): each[0] for each in todo}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                cache.add(futures[future], future.result())
                now = time.monotonic()
                if now - last > 5 or done == len(todo):
                    left = (now - started) / done * (len(todo) - done) / 60
                    print(f"{done} of {len(todo)}, {left:.0f} min left", file=sys.stderr)
                    last = now
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def about(given: argparse.Namespace) -> dict[str, Any]:
    """What was run."""
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {
        "command": f"python benchmarks/trust.py {'--quick' if given.quick else 'FOLDER ...'}",
        "draws": given.draws,
        "worlds": given.worlds,
        "versions": {"Python": platform.python_version(), **versions},
    }


def sizes(sets: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield each set's name, and how many texts and videos it has."""
    for name in sets:
        data = read(name)
        yield Path(name).name, list(data.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="a part of the demo, few draws")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--worlds", type=int, default=500, help="of each kind")
    parser.add_argument("--parts", default="sets,worlds,shapes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    for name in ("cache", "json", "docs", "plot", "readme", "from"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # one thread per process
    if source := vars(given)["from"]:
        figures = json.loads(source.read_text())
    else:
        sets = [folder for folder in given.folders if Path(folder).is_dir()] + ["demo"]
        if given.quick:
            sets, given.draws, given.worlds = [QUICK["set"]], QUICK["draws"], QUICK["worlds"]
        cache = Cache(given.cache)
        wanted = tasks(sets, given.parts.split(","), given.draws, given.worlds)
        run(wanted, cache, given.jobs)
        done = [cache.found[named(task)] for task in wanted]
        figures = summarise(done, dict(sizes(sets)))
        figures = {"about": about(given), **figures}
    text = report(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    if given.docs:
        rewrite(given.docs, text)
    if given.readme:
        rewrite(given.readme, claim(figures))
    if given.plot:
        draw_plot(figures, given.plot)
    if not given.docs:
        print(text)


if __name__ == "__main__":
    main()
