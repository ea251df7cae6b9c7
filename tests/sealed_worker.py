"""The whole main job in a process that may not reach out: run by test_sealed.py.

Sockets, other programs and pickled names are refused as soon as Python's interpreter hears of them,
and written down, with every file that is opened for writing.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork",
    "pty.", "pickle.find_class", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.",
)  # fmt: skip
BOTH = ["--text", "mine/text.npy", "--video", "mine/video.npy"]
JOBS = [
    ["--version"],
    ["demo", "--save", "mine"],
    [*BOTH, "--json", "--run", "best.csv", "--output", "better.npy"],
    ["--sim", "better.npy", "--output", "again.npz"],
    ["eval", "--sim", "better.npy", "--gt", "diagonal"],
    ["compare", *BOTH, "--methods", "input,csls,emcl_plugin"],
    ["fit", "--text-bank", "mine/text_bank.npy", "--video", "mine/video.npy", "--save", "fitted"],
    ["apply", "fitted", "--text", "mine/text.npy", "--output", "applied.npy"],
    ["show", "fitted"],
    *(["export", "fitted", "--to", to, "--output", to] for to in ("faiss", "npy", "parquet")),
]
REPORT = [*BOTH, "--gt", "diagonal", "--output", "told.npy", "--report", "page.html"]

refused: list[str] = []
written: set[str] = set()


def heard(event: str, given: tuple[object, ...]) -> None:
    if event.startswith(REFUSED):
        refused.append(f"{event} {given[0] if event.startswith('subprocess') else ''}".strip())
        raise PermissionError(f"sealed: {event}")
    if event == "open" and isinstance(given[0], str | bytes):
        path, _, flags = given
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.add(os.path.abspath(os.fsdecode(path)))


def run(arguments: list[str]) -> int:
    from emcl_plugin.cli import main

    sys.argv = ["emcl-rerank", *arguments]
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)


def in_home() -> list[str]:
    return sorted(str(path.relative_to(Path.home())) for path in Path.home().rglob("*"))


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # what the jobs print is no answer
    sys.addaudithook(heard)
    failed = [job for job in JOBS if run(job)]
    facts = {"refused": [*refused], "home": in_home()}
    failed += [job for job in [REPORT] if run(job)]
    facts |= {"failed": failed, "refused_report": refused[len(facts["refused"]) :],
              "home_report": in_home(), "written": sorted(written)}  # fmt: skip
    with os.fdopen(answer, "w") as file:
        json.dump(facts, file)
