"""Kill running jobs at random moments and check what they leave.

Each job first runs undisturbed. It then runs many times, in a folder without its output or with
an older one, and is killed at a uniformly random moment: mostly by SIGKILL, sometimes by SIGTERM
or SIGINT. The output must be absent, the older one, or byte for byte the undisturbed one. A job
that is stopped by a signal must report that truthfully in one message, exit with status 0 or 1 and
leave no partial file. Jobs with --resume repeat until one finishes with the undisturbed result.

All jobs are forked from one process that has loaded torch.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from forks import Forks  # noqa: E402
from reliability import write  # noqa: E402

from emcl_plugin import Reranker  # noqa: E402
from emcl_plugin.data.demo import load_demo  # noqa: E402

SIDES = ["--text", "t.npy", "--video", "v.npy", "-q"]
LONG = ["--prior", "even", "--temperature", "0.001", "--iterations", "60"]
EVERY_ROUND = "from emcl_plugin.pipeline import checkpoint; checkpoint.SECONDS = 0.0"
JOBS = {
    "matrix, npy": ["out.npy", *SIDES, "-o", "out.npy"],
    "matrix, parquet": ["out.parquet", *SIDES, "-o", "out.parquet"],
    "run, csv": ["out.csv", *SIDES, "--run", "out.csv"],
    "run of candidates, csv": ["out.csv", *SIDES, "--run", "out.csv", "--candidates", "50"],
    "fit": ["out", "fit", "--text-bank", "tb.npy", "--video", "v.npy", "--save", "out", "-q"],
    "export, npy": ["out", "export", "fitted", "--to", "npy", "-o", "out", "-q"],
    "export, faiss": ["out.faiss", "export", "fitted", "--to", "faiss", "-o", "out.faiss", "-q"],
    "resume": ["out.npy", *SIDES, *LONG, "-o", "out.npy", "--resume", "run.safetensors"],
}  # fmt: skip
COUNTS = ("tried", "losses", "killed", "stopped", "ended before", "complete", "older kept")
COUNTS += ("older set aside", "continued")
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]


def content(path: Path) -> object:
    """Return all bytes of a file or folder, None if it does not exist."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _wrong(*facts: tuple[bool, str]) -> list[str]:
    return [words for good, words in facts if not good]


class Job:
    """One kind of job: its undisturbed result, and counts of the killed runs."""

    def __init__(self, forks: Forks, home: Path, what: str) -> None:
        self.forks, self.home, self.what = forks, home, what
        name, *self.arguments = JOBS[what]
        self.output = home / name
        self.checkpoint = home / "run.safetensors"
        self.kept = set(home.iterdir())
        for _ in range(2):  # the first one warms up
            run, started = self.start(), time.monotonic()
            assert run.ends(), run.err
            assert run.status == 0, run.err
            self.life = time.monotonic() - started
            self.wanted = content(self.output)
            self.clear()
        self.older: object = None
        self.there: set[Path] = set()
        self.row = {"what": what, **dict.fromkeys(COUNTS, 0)}
        self.seconds = 0.0

    def start(self):
        return self.forks.start(
            *self.arguments, "--force", cwd=self.home,
            before=EVERY_ROUND if "resume" in self.what else "",
        )  # fmt: skip

    def clear(self) -> None:
        for path in set(self.home.iterdir()) - self.kept:
            remove(path)

    def prepare(self, chance: random.Random) -> None:
        """Clear the folder or write an older output; leave a resumable job alone."""
        if self.checkpoint.exists():
            self.row["continued"] += 1
            return
        self.clear()
        self.older = None
        if chance.random() < 0.5 and not isinstance(self.wanted, dict):
            self.older = b"older"
            self.output.write_bytes(self.older)
        elif chance.random() < 0.5 and self.what == "fit":
            shutil.copytree(self.home / "fitted", self.output)
            self.older = content(self.output)

    def kill(self, chance: random.Random) -> list[str]:
        """Kill it once; return what is wrong with the files it left."""
        started = time.monotonic()
        self.prepare(chance)
        number = chance.choice(SIGNALS)
        moment = chance.uniform(0, 1.05 * self.life)
        begun, self.there = time.monotonic(), set(self.home.iterdir())
        run = self.start()
        time.sleep(moment)
        run.send(number)
        if not run.ends(60):
            run.send(signal.SIGKILL)
            run.ends()
            return [f"it does not end after {number.name}"]
        if run.status == 0:
            self.life = 0.8 * self.life + 0.2 * (time.monotonic() - begun)
        wrong = self.judge(run, number)
        self.row["tried"] += 1
        self.row["losses"] += bool(wrong)
        self.seconds += time.monotonic() - started
        return [f"{self.what}, {number.name} after {moment:.3f} s: {words}" for words in wrong]

    def judge(self, run, number: signal.Signals) -> list[str]:
        found = content(self.output)
        whole, old = found == self.wanted, found == self.older
        self.row["complete"] += whole
        self.row["older kept"] += self.older is not None and old
        left = set(self.home.iterdir()) - self.there - {self.output, self.checkpoint}
        if run.status == 0:
            self.row["ended before"] += 1
            return _wrong(
                (whole, "ended well without the whole result"),
                (not left and not self.checkpoint.exists(), f"left {left}"),
                (not run.err, run.err),
            )
        if run.status == -signal.SIGKILL:
            self.row["killed"] += 1
            parts = all(path.name[0] == "." and path.suffix in (".part", ".old") for path in left)
            gone = found is None and any(path.suffix == ".old" for path in left)
            self.row["older set aside"] += gone
            return _wrong(
                (whole or old or gone, "neither the older nor the whole result"),
                (parts, f"left {left}"),
            )
        self.row["stopped"] += 1
        said = "nothing was written" in run.err or "no result was written" in run.err
        return _wrong(
            (run.status == 1 and number != signal.SIGKILL, f"status {run.status}: {run.err}"),
            (whole or old, "neither the older nor the whole result"),
            (len(run.err.strip().splitlines()) == 1, run.err),
            (said == (not whole), f"not the truth: {run.err}"),
            (not left, f"left {left}"),
        )


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    chance = random.Random(seed)
    losses = []
    with tempfile.TemporaryDirectory() as folder, Forks() as forks:
        jobs = []
        demo = load_demo()
        for what in JOBS:
            home = Path(folder, what.replace(", ", "-"))
            home.mkdir()
            arrays = {"t": demo.text, "v": demo.video, "tb": demo.text_bank}
            for name, array in arrays.items():
                np.save(home / f"{name}.npy", array[:300])
            Reranker().fit(demo.text_bank[:200], demo.video[:200]).save_pretrained(home / "fitted")
            jobs.append(Job(forks, home, what))
        for count in range(kills):
            losses += jobs[count % len(jobs)].kill(chance)
            click.echo(f"\r{count + 1} of {kills}, {len(losses)} losses", err=True, nl=False)
        last = jobs[-1]  # what was killed last still goes on to its end
        run = last.start()
        if not run.ends() or content(last.output) != last.wanted:
            losses.append(f"resume, at last: {run.err}")
            last.row["losses"] += 1
    click.echo("\n".join(["", *losses]), err=True)
    rows = [{**job.row, "seconds": round(job.seconds, 1)} for job in jobs]
    command = f"campaigns/kills.py --kills {kills} --seed {seed}"
    write("kills", command, rows, ("emcl-plugin", "numpy", "torch"))
    sys.exit(bool(losses))


if __name__ == "__main__":
    main()
