"""Coverage-guided fuzzing of every parser and loader of this project.

    python tests/repository/campaigns/fuzz.py --seconds 600 [--only npy,npz]

needs `pip install -e ".[test-all,fuzz]"` (atheris). Each target runs in its own process, which is
restarted with its corpus if it dies. A loss is an exception that is not this project's, a wrong
number, an overlong message, more than 5 s of CPU time, more than 1 GB of memory, or a process that
dies or hangs for 30 s. Losses of one kind at one place count once; --work keeps their inputs. The
counts go to results/fuzz.json, one row per target; rows of other targets stay.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from targets import KEPT, TARGETS, Target  # noqa: E402

RESULTS = HERE / "results" / "fuzz.json"
PACKAGES = (
    "atheris", "fastapi", "msgspec", "numpy", "pyarrow", "pydantic", "safetensors", "torch",
)  # fmt: skip
COUNTS = ("tried", "accepted", "refused")
MOST_ENDS = 50
"""Maximum number of times that a target's process is restarted."""


@click.command()
@click.option("--seconds", default=600.0, show_default=True, help="For each target.")
@click.option("--only", default=",".join(TARGETS), help="Targets, with commas between.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep inputs there.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(seconds: float, only: str, work: Path | None, results: Path) -> None:
    """Fuzz the targets in turn."""
    names = [name.strip() for name in only.split(",")]
    if unknown := set(names) - set(TARGETS):
        raise click.UsageError(f"{', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    losses = 0
    with tempfile.TemporaryDirectory() as spare:
        for name in names:
            row = fuzz(TARGETS[name], seconds, (work or Path(spare)) / name)
            click.echo(f"{name}: {json.dumps(row)}", err=True)
            record(row, seconds, results)
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


def record(row: dict[str, Any], seconds: float, results: Path) -> None:
    """Replace the row of the same target."""
    old = json.loads(results.read_text())["rows"] if results.exists() else []
    rows = {found["what"]: found for found in [*old, row]}
    content = {
        "campaign": "fuzz",
        "command": f"python tests/repository/campaigns/fuzz.py --seconds {seconds:g}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "rows": [rows[name] for name in TARGETS if name in rows],
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    part = results.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(results)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    main()
