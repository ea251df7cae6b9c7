"""No network, no foreign code, nothing left behind: seen in the sources, and while it works."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import emcl_plugin

PACKAGE = Path(emcl_plugin.__file__).parent
NAMES = {"eval", "exec", "compile", "__import__"}
DOTTED = {
    "os.system", "os.popen", "os.fork", "importlib.import_module", "builtins.eval",
    "builtins.exec", "pickle.load", "pickle.loads", "torch.hub", "torch.jit", "torch.package",
}  # fmt: skip
IMPORTS = {
    "cloudpickle", "code", "ctypes", "dill", "ftplib", "http", "joblib", "marshal",
    "multiprocessing", "pickle", "pty", "requests", "runpy", "shelve", "smtplib", "socket",
    "subprocess", "torch.load", "urllib.request", "yaml",
}  # fmt: skip
ONLY = {
    "allow_pickle": False, "shell": False, "trust_remote_code": False, "weights_only": True,
}  # fmt: skip

KNOWN = {
    ("__init__.py", "importlib.import_module"),  # the modules that _HOMES names
    ("adapters/lightning.py", "importlib.import_module"),  # of Lightning's two names
    ("io/members.py", "importlib.import_module"),  # a format's library
    ("_internal/moved.py", "importlib.import_module"),  # of the names that MOVED gives
    ("index/vectors.py", "importlib.import_module"),  # a store's library
    ("io/pickled.py", "pickle"),  # an Unpickler that finds the names of its own table only
    ("service/app.py", "socket"),  # of `serve`, which listens
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def heads(name: str) -> list[str]:
    """``a.b.c``, and the packages that it lies in: ``a`` and ``a.b``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def dangers(source: str) -> set[str]:
    """What could run code that is not of this package, or reach out of the process."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        named = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {head for name in named for head in heads(name)} & IMPORTS
        named += [dotted(node)] if isinstance(node, ast.Attribute) else []
        found |= {
            name for name in named if name in DOTTED or name.startswith(("os.exec", "os.spawn"))
        }
        if isinstance(node, ast.Name):
            found |= {node.id} & NAMES
        elif isinstance(node, ast.Call):
            given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
            found |= {name for name in ONLY & given.keys() if given[name] is not ONLY[name]}
            if dotted(node.func) == "torch.load" and "weights_only" not in given:
                found.add("torch.load")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)", "exec(x)", "compile(x, '', 'exec')", "f = eval", "__import__(x)",
        "os.system(x)", "from os import system", "os.execv(x, y)", "import subprocess",
        "from subprocess import run", "import pickle as p", "from pickle import loads",
        "import joblib", "import yaml", "torch.load(x)", "from torch import load",
        "torch.load(x, weights_only=False)", "torch.load(x, weights_only=y)", "torch.hub.load(x)",
        "np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=y)", "run(x, shell=True)",
        "import urllib.request", "import socket", "importlib.import_module(x)",
    ],
)  # fmt: skip
def test_dangers_are_found(source):
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    ["re.compile(x)", "torch.load(x, weights_only=True)", "np.load(x)", "a.eval()", "import json"],
)
def test_nothing_else_is(source):
    assert not dangers(source)


def test_the_package_runs_no_foreign_code():
    sources = sorted(PACKAGE.rglob("*.py"))
    assert len(sources) > 100
    found = {
        (path.relative_to(PACKAGE).as_posix(), danger)
        for path in sources
        for danger in dangers(path.read_text("utf-8"))
    }
    assert found == KNOWN


@pytest.mark.slow
def test_everything_works_without_a_network_and_leaves_nothing_behind(tmp_path):
    """Sockets and other programs are refused; HOME and TMPDIR are empty, and stay so."""
    pytest.importorskip("faiss")
    folders = {name: tmp_path / name for name in ("work", "home", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("sealed_worker.py")],
        cwd=folders["work"],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folders["home"]),
            "TMPDIR": str(folders["tmp"]),
            "PYTHONPATH": str(PACKAGE.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["failed"] == []
    assert (facts["refused"], facts["home"]) == ([], [])
    # a report's pictures: matplotlib asks fontconfig for fonts once, and keeps their list
    assert set(facts["refused_report"]) <= {"subprocess.Popen fc-list"}
    assert all(
        "matplotlib" in name or name in (".cache", ".config") for name in facts["home_report"]
    )
    assert list(folders["tmp"].iterdir()) == []
    assert {path.name for path in folders["work"].iterdir()} == {
        "again.npz", "applied.npy", "best.csv", "better.npy", "faiss", "fitted", "mine", "npy",
        "page.html", "parquet", "told.npy",
    }  # fmt: skip
    elsewhere = [p for p in facts["written"] if not Path(p).is_relative_to(tmp_path)]
    assert set(elsewhere) <= {os.devnull}
