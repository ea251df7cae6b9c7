"""Every example runs as a script, shows figures that say what they show, and leaves nothing."""

from __future__ import annotations

import ast
import runpy
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("plot_*.py"))


def needs(script):
    """The packages that it imports."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def repository():
    """What lies where a script could leave something: the root, its folder, the package."""
    places = (ROOT.glob("[!.]*"), EXAMPLES.rglob("*"), (ROOT / "emcl_plugin").rglob("*"))
    files = (path for place in places for path in place if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".pyc"}


@pytest.fixture
def shown(monkeypatch):
    """The figures that a script shows."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figures = []
    monkeypatch.setattr(
        pyplot, "show", lambda: figures.extend(map(pyplot.figure, pyplot.get_fignums()))
    )
    yield figures
    pyplot.close("all")


def test_there_are_examples():
    assert len(SCRIPTS) == 9


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(script, shown, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    for package in needs(script):
        pytest.importorskip(package)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    before = repository()
    runpy.run_path(str(script), run_name="__main__")

    assert repository() == before
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())
    assert capsys.readouterr().out
    assert shown
    for axes in (axes for figure in shown for axes in figure.axes):
        assert axes.has_data()
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel() or all(tick.get_text() for tick in axes.get_yticklabels())
