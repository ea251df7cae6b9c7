"""Coverage-guided fuzzing of every parser and loader of files.

    python tests/repository/campaigns/fuzz.py --seconds 600 [--only npy,npz]

needs `pip install -e ".[test-all,fuzz]"` (atheris). Each target runs in its own process, which is
restarted with its corpus if it dies. A loss is an exception that is not this project's, a wrong
number, an overlong message, more than 5 s of CPU time, more than 1 GB of memory, or a process that
dies or hangs for 30 s. Losses of one kind at one place count once; --work keeps their inputs. The
counts go to results/fuzz.json, one row per target; rows of other targets stay.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from reliability import kept, write  # noqa: E402
from targets import KEPT, TARGETS, Target  # noqa: E402

PACKAGES = "atheris", "msgspec", "numpy", "pyarrow", "safetensors", "torch"
COUNTS = ("tried", "accepted", "refused")
MOST_ENDS = 50
"""Maximum number of times that a target's process is restarted."""


@click.command()
@click.option("--seconds", default=600.0, show_default=True, help="For each target.")
@click.option("--only", default=",".join(TARGETS), help="Targets, with commas between.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep inputs there.")
def main(seconds: float, only: str, work: Path | None) -> None:
    """Fuzz the targets in turn."""
    names = [name.strip() for name in only.split(",")]
    if unknown := set(names) - set(TARGETS):
        raise click.UsageError(f"{', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    losses = 0
    with tempfile.TemporaryDirectory() as spare:
        for name in names:
            row = fuzz(TARGETS[name], seconds, (work or Path(spare)) / name)
            click.echo(row, err=True)
            rows = {found["what"]: found for found in [*kept("fuzz"), row]}
            in_order = [rows[name] for name in TARGETS if name in rows]
            write("fuzz", f"campaigns/fuzz.py --seconds {seconds:g}", in_order, PACKAGES)
            losses += row["losses"]
    sys.exit(1 if losses else 0)


def fuzz(target: Target, seconds: float, work: Path) -> dict[str, Any]:
    """Fuzz one target and return its row of the results."""
    places = {part: work / part for part in ("corpus", "losses", "ends", "scratch")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds(places["scratch"])):
        (places["corpus"] / f"seed{number}").write_bytes(seed)
    counts = np.memmap(work / "counts", np.int64, "w+", shape=(len(COUNTS),))
    known = [KEPT / target.name] if (KEPT / target.name).is_dir() else []
    begin = time.monotonic()
    ends = 0
    while (left := seconds - (time.monotonic() - begin)) > 1 and ends < MOST_ENDS:
        command = [
            *(sys.executable, HERE / "fuzz_child.py", target.name, work),
            f"-max_total_time={int(left)}",
            *("-timeout=30", "-rss_limit_mb=6000", "-max_len=16384", "-print_final_stats=0"),
            f"-artifact_prefix={places['ends']}/",
            *(places["corpus"], *known),
        ]
        with (work / "log").open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, env=environment
            )
            while process.poll() is None:
                time.sleep(1)
                passed = time.monotonic() - begin
                line = f"\r{target.name}: {passed:.0f} s, {counts[0]} inputs, {ends} ends"
                click.echo(line, err=True, nl=False)
                if passed > seconds + 120:
                    process.kill()
        ends += process.returncode != 0
    click.echo("", err=True)
    return {
        "what": target.name,
        **dict(zip(COUNTS, map(int, counts), strict=True)),
        "losses": ends + len(list(places["losses"].glob("*.bin"))),
        "processes_lost": ends,
        "seconds": round(time.monotonic() - begin, 1),
    }


if __name__ == "__main__":
    main()
