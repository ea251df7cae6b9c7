"""The contributing page holds: its additions, made on a copy of the tree, pass their tests.

All but the lines that it asks for in the docs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")


def blocks(heading):
    """The Python blocks of a section, in order."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [dedent(x) for x in re.findall(r"^   ```python\n(.*?)^   ```", section, re.M | re.S)]


class Tree:
    """A copy to be changed as the page says."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("emcl_plugin", "tests", "docs", "benchmarks", "examples"):
            ignore = shutil.ignore_patterns("__pycache__", "_build", "api", "auto_examples")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        for path in ROOT.glob("*.*"):
            if path.is_file():
                shutil.copy(path, folder)

    def write(self, path, text):
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text, encoding="utf-8")

    def add(self, path, text, *, after="", before=""):
        """Beside these words, which stand there once; at the end where none are given."""
        file = self.folder / path
        old = file.read_text(encoding="utf-8")
        anchor = after or before
        assert old.count(anchor) == 1 or not anchor, (path, anchor)
        new = after + text + before
        file.write_text(old.replace(anchor, new) if anchor else old + text, encoding="utf-8")

    def test(self, only, *paths):
        """The lines with what passed."""
        environment = {x: y for x, y in os.environ.items() if x != "PYTEST_ADDOPTS"}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "--all",
                "-v",
                "-p",
                "no:cacheprovider",
                "-k",
                only,
                *paths,
            ],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        return [line for line in done.stdout.splitlines() if " PASSED" in line]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree(tmp_path_factory.mktemp("contributing") / "tree")


def test_a_method(tree):
    module, test = blocks("Add a method to compare with")
    plain, _, entry = test.partition("PLAIN = {\n    ...\n")
    tree.write("emcl_plugin/baselines/column_centring.py", module)
    registry = "emcl_plugin/baselines/registry.py"
    tree.add(registry, "    column_centring,\n", after="    centring,\n")
    tree.add(registry, "        column_centring.METHOD,\n", after="        pca.METHOD,\n")
    tests = "tests/baselines/test_baselines.py"
    tree.add(tests, plain, before="PLAIN = {\n")
    tree.add(tests, entry.partition("}\n")[0], before="}\nRUNS = [\n")
    passed = tree.test(
        "column-centring or column_centring",
        tests,
        "tests/index/test_faiss.py",
        "tests/test_doctests.py",
    )
    assert len(passed) > 10


def test_a_format(tree):
    module, writer = blocks("Add a file format")
    tree.write("emcl_plugin/io/fbin.py", module)
    formats = "emcl_plugin/io/formats.py"
    tree.add(
        formats, "from emcl_plugin.io.fbin import read_fbin\n",
        before="from emcl_plugin.io.fvecs import read_fvecs\n",
    )  # fmt: skip
    tree.add(formats, '    ".fbin": read_fbin,\n', before='    ".npy": _npy,\n')
    written = "tests/io/written.py"
    tree.add(written, writer + "\n\n", before="WRITERS = {\n")
    tree.add(written, '    "a.fbin": save_fbin,\n', before='    "a.npy": np.save,\n')
    tree.add(written, '"a.fbin", ', after="ONE = {")
    line = re.search(r'`(Target\("fbin".*?\),)`', PAGE)[1]
    tree.add("tests/repository/campaigns/targets.py", f"    {line}\n", before='    Target("fvecs"')
    passed = tree.test("fbin or test_tree", "tests/io", "tests/repository/test_tree.py")
    assert len([x for x in passed if "fbin" in x]) > 5


def test_an_adapter(tree):
    adapter, test = blocks("Add an adapter")
    tree.add("emcl_plugin/adapters/embeddings.py", "\n\n" + adapter)
    package = "emcl_plugin/adapters/__init__.py"
    tree.add(package, "    CLAP,\n", before="    ClipRetrieval,\n    HuggingFace,\n")
    tree.add(package, "    CLAP,\n", before=")\nADAPTERS:")
    tree.add(package, '    "CLAP",\n', before='    "CLIP2Video",\n')
    tree.add("emcl_plugin/cli/options.py", '    "clap",\n', after='    "clip-retrieval",\n')
    tree.add(
        "tests/adapters/test_read.py",
        '    "clap": dict(zip(("text", "video"), SIDES, strict=True)),\n',
        before='}\n"""What makes each adapter',
    )
    tests = "tests/adapters/test_adapters.py"
    tree.add(tests, "from emcl_plugin.adapters import CLAP\n\n\n" + test)
    passed = tree.test("clap or knows", "tests/adapters")
    assert len(passed) == 3
