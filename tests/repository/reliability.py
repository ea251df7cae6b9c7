"""The tables of docs/reliability.md: who holds each promise, and what was counted.

python tests/repository/reliability.py COMMAND, which is one of

run       every campaign at full length (hours), the tests, and update
tests     the tests that the promises name, and update
update    write the counts into the page
"""

from __future__ import annotations

import ast
import json
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
CAMPAIGNS = ROOT / "tests" / "repository" / "campaigns"
COUNTS = re.compile(r"(<!-- counts -->\n).*?(<!-- end of counts -->)", re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CAMPAIGN = re.compile(r"`(tests/repository/campaigns/\w+\.py)`")
FULL = {"fuzz": "--seconds 600", "kills": "--kills 1000", "load": "--requests 20000"}


def promises() -> list[tuple[str, str, list[str]]]:
    """(section, promise, tests and campaigns that hold it) of every row of the page's tables."""
    section, found = "", []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 2 and cells[0] != "promise":
            tests = [f"{file}::{name}" for file, name in TEST.findall(cells[1])]
            found.append((section, cells[0], tests + CAMPAIGN.findall(cells[1])))
    return found


def exists(holder: str) -> bool:
    """Whether a test function, or a campaign, is there."""
    name, _, function = holder.partition("::")
    path = ROOT / name
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return not function or function in functions


def run_tests() -> None:
    """Run the tests that the promises name, and count their cases by section."""
    sections: dict[tuple[str, str], str] = {}
    for section, _, holders in promises():
        for holder in holders:
            if "::" in holder:
                file, name = holder.split("::")
                sections.setdefault((file[:-3].replace("/", "."), name), section)
    nodes = [f"{module.replace('.', '/')}.py::{name}" for module, name in sections]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [*(sys.executable, "-m", "pytest", "--all", "-q", "-p", "no:cacheprovider"),
                   *("-n", "2", "--dist", "loadfile", f"--junitxml={results}"), *nodes]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(results).iter("testcase"))
    counts = {name: Counter() for name in dict.fromkeys(sections.values())}
    for case in cases:
        count = counts[sections[case.attrib["classname"], case.attrib["name"].partition("[")[0]]]
        ends = {child.tag for child in case}
        count["tried"] += "skipped" not in ends
        count["skipped"] += "skipped" in ends
        count["losses"] += bool(ends & {"failure", "error"})
        count["seconds"] += float(case.attrib["time"])
    names = ("tried", "skipped", "losses", "seconds")
    rows = [{"what": section, **{name: round(count[name], 1) for name in names}}
            for section, count in counts.items()]  # fmt: skip
    write("tests", "reliability.py tests", rows)


def write(campaign: str, command: str, rows: list[dict[str, Any]], packages: Any = ()) -> None:
    """Keep the counts of one campaign, and by which versions they were made."""
    result = {
        "campaign": campaign,
        "command": f"python tests/repository/{command}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "rows": rows,
    }
    path = CAMPAIGNS / "results" / f"{campaign}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def kept(campaign: str) -> list[dict[str, Any]]:
    """The rows of one campaign that were kept."""
    path = CAMPAIGNS / "results" / f"{campaign}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def run_campaigns() -> None:
    """Every campaign, at the length that the page tells of."""
    for name, options in FULL.items():
        command = [sys.executable, str(CAMPAIGNS / f"{name}.py"), *shlex.split(options)]
        subprocess.run(command, cwd=ROOT, check=False)


def results() -> list[dict[str, Any]]:
    """What the campaigns have left, the tests first."""
    paths = sorted((CAMPAIGNS / "results").glob("*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(found, key=lambda result: (result["campaign"] != "tests", result["campaign"]))


def told(name: str, count: float) -> str:
    """One count in words; a unit stands behind the name's last comma.

    >>> told("refused", 5000), told("slowest, ms", 12.5)
    ('5,000 refused', 'slowest 12.5 ms')
    """
    what, _, unit = name.rpartition(", ")
    named = unit in ("ms", "s", "MiB") and what
    return f"{what} {count:,} {unit}" if named else f"{count:,} {name}"


def counts() -> str:
    """The counts as the page shows them."""
    lines = []
    for result in results():
        packages = "".join(f", {name} {version}" for name, version in result["packages"].items())
        lines += [f"`{result['command']}` (Python {result['python']}{packages}):", ""]
        lines += ["| what | tried | losses | further counts | seconds |", "|---|---|---|---|---|"]
        for row in result["rows"]:
            more = [
                told(name, count)
                for name, count in row.items()
                if name not in ("what", "tried", "losses", "seconds") and count
            ]
            cells = [row["what"], f"{row['tried']:,}", f"{row['losses']:,}", ", ".join(more)]
            lines.append(f"| {' | '.join(cells)} | {row['seconds']:,.0f} |")
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """The page with today's counts."""
    text = PAGE.read_text(encoding="utf-8")
    return COUNTS.sub(lambda match: f"{match[1]}\n{counts()}\n{match[2]}", text)


if __name__ == "__main__":
    if sys.argv[1:] not in (["run"], ["tests"], ["update"]):
        sys.exit(__doc__)
    if sys.argv[1] == "run":
        run_campaigns()
    if sys.argv[1] != "update":
        run_tests()
    PAGE.write_text(page(), encoding="utf-8")
    lost = sum(row["losses"] for result in results() for row in result["rows"])
    sys.exit(f"{lost} losses" if lost else 0)
