"""The tree follows ARCHITECTURE.md: every file has a docstring, imports only go down."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "emcl_plugin"
FOLDERS = ("emcl_plugin", "tests", "benchmarks", "examples", "docs")
BUILT = {"_build", "api", "auto_examples"}  # by Sphinx
FILES = [
    path
    for name in FOLDERS
    for path in sorted((ROOT / name).rglob("*.py"))
    if not BUILT.intersection(path.parts)
]
MODULES = {str(path.relative_to(PACKAGE)): path for path in FILES if PACKAGE in path.parents}

LINES = 400
LONGER: dict[str, str] = {}
"""Files of the package with more lines, and the reason."""


def block(heading: str) -> list[str]:
    """Return the lines of the indented list below a heading of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("    ")]


def names(line: str) -> list[str]:
    """Return the files (``a.py``) and folders (``a/``) in a line."""
    return [word for word in line.split() if re.fullmatch(r"\w+(\.py|/)", word)]


def rooms() -> dict[str, int]:
    """Return the depth of each room; deeper indented lines describe its contents."""
    lines = [line for line in block("Layers") if not line.startswith("     ")]
    return {name: level for level, line in enumerate(lines) for name in names(line)}


def borders() -> dict[str, set[str]]:
    """Return the rooms that may import each package."""
    lines = block("Third-party packages")
    return {
        word: set(names(line)) for line in lines for word in line.split() if word not in names(line)
    }


ROOMS, BORDERS = rooms(), borders()


def room(module: str) -> str:
    """Return the room of a module: its top folder, or the module itself."""
    folder, slash, _ = module.partition("/")
    return folder + slash


def imported(module: str) -> tuple[set[str], set[str]]:
    """Return the modules of the package, and the other packages, that a module imports."""
    own: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            top, _, rest = name.partition(".")
            if top == PACKAGE.name:
                own.add(file_of(rest))
            else:
                others.add(top)
    return own - {module}, others


def file_of(name: str) -> str:
    """Return the file that defines a dotted name of the package, ``io.npy.open_npy`` say."""
    parts = name.split(".") if name else []
    for end in range(len(parts), 0, -1):
        stem = "/".join(parts[:end])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in MODULES:
                return path
    return "__init__.py"


GRAPH = {module: imported(module) for module in MODULES}


def test_the_first_line_says_what_a_file_is():
    def wanted(path: Path) -> str:
        gallery = path.name.startswith("plot_")  # its pages begin with their title
        return r'r?""".+\n===' if gallery else r'r?"""\S.*[.:?]("""\n|\n)'

    wrong = [path for path in FILES if not re.match(wanted(path), path.read_text("utf-8"))]
    assert wrong == []


def test_files_of_the_package_are_short():
    long = {name for name, path in MODULES.items() if path.read_bytes().count(b"\n") > LINES}
    assert long == set(LONGER)


def test_basenames_of_tests_are_unique():
    found = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(found) == sorted(set(found))


def test_tests_mirror_the_package():
    """Every folder with code has its folder of tests, which has at least one file of tests."""
    tested = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    folders = {Path(module).parent.name for module in MODULES if "/" in module}
    assert tested - folders == {"tests", "repository"}
    assert folders - tested == set()


def test_every_module_stands_in_a_room():
    assert {room(module) for module in MODULES} == set(ROOMS)


def test_imports_have_no_circle():
    order = TopologicalSorter({module: own for module, (own, _) in GRAPH.items()})
    assert set(order.static_order()) == set(MODULES)


def test_imports_go_down():
    up = [
        f"{module} imports {other}"
        for module, (own, _) in GRAPH.items()
        for other in own
        if ROOMS[room(other)] < ROOMS[room(module)]
    ]
    assert up == []


@pytest.mark.parametrize("package", BORDERS)
def test_a_package_stays_in_its_rooms(package):
    users = {room(module) for module, (_, others) in GRAPH.items() if package in others}
    assert users == BORDERS[package]
