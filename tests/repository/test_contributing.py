"""The additions that docs/contributing.md describes pass their tests on a copy of the tree.

All but the lines that the page asks for in the docs.
"""

from __future__ import annotations

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
    """Return the Python blocks of a section, in order."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [dedent(x) for x in re.findall(r"^   ```python\n(.*?)^   ```", section, re.M | re.S)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contributing") / "tree"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "_build", "api", "auto_examples", "build")
    shutil.copytree(ROOT, folder, ignore=ignore)
    return folder


def add(path, text, *, after="", before=""):
    """Insert text next to words that occur once in the file; append it if none are given."""
    old = path.read_text(encoding="utf-8")
    anchor = after or before
    assert old.count(anchor) == 1 or not anchor, (path, anchor)
    new = after + text + before
    path.write_text(old.replace(anchor, new) if anchor else old + text, encoding="utf-8")


def passed(tree, only, *paths):
    """Run these tests; return how many passed."""
    command = [sys.executable, "-m", "pytest", "--all", "-q", "-o", "addopts=", "-k", only, *paths]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_a_method(tree):
    module, test = blocks("Add a method to compare with")
    plain, _, entry = test.partition("PLAIN = {\n    ...\n")
    baselines = tree / "emcl_plugin/baselines"
    (baselines / "column_centring.py").write_text(module)
    add(baselines / "registry.py", "    column_centring,\n", after="    centring,\n")
    method = "        column_centring.METHOD,\n"
    add(baselines / "registry.py", method, after="        pca.METHOD,\n")
    tests = tree / "tests/baselines/test_baselines.py"
    add(tests, plain, before="PLAIN = {\n")
    add(tests, entry.partition("}\n")[0], before="}\nRUNS = [\n")
    paths = "tests/baselines", "tests/index/test_faiss.py", "tests/test_doctests.py"
    assert passed(tree, "column-centring or column_centring", *paths) > 10


def test_a_format(tree):
    module, writer = blocks("Add a file format")
    (tree / "emcl_plugin/io/fbin.py").write_text(module)
    formats = tree / "emcl_plugin/io/formats.py"
    line = "from emcl_plugin.io.fbin import read_fbin\n"
    add(formats, line, before="from emcl_plugin.io.fvecs import read_fvecs\n")
    add(formats, '    ".fbin": read_fbin,\n', before='    ".npy": _npy,\n')
    written = tree / "tests/io/written.py"
    add(written, writer + "\n\n", before="WRITERS = {\n")
    add(written, '    "a.fbin": save_fbin,\n', before='    "a.npy": np.save,\n')
    add(written, '"a.fbin", ', after="ONE = {")
    target = re.search(r'`(Target\("fbin".*?\),)`', PAGE)[1]
    targets = tree / "tests/repository/campaigns/targets.py"
    add(targets, f"    {target}\n", before='    Target("fvecs"')
    assert passed(tree, "fbin", "tests/io") > 5


def test_an_adapter(tree):
    adapter, test = blocks("Add an adapter")
    adapters = tree / "emcl_plugin/adapters"
    add(adapters / "embeddings.py", "\n\n" + adapter)
    add(adapters / "__init__.py", "    CLAP,\n", before="    ClipRetrieval,\n    HuggingFace,\n")
    add(adapters / "__init__.py", "    CLAP,\n", before=")\nADAPTERS:")
    add(adapters / "__init__.py", '    "CLAP",\n', before='    "CLIP2Video",\n')
    options = tree / "emcl_plugin/cli/options.py"
    add(options, '    "clap",\n', after='    "clip-retrieval",\n')
    left = '    "clap": dict(zip(("text", "video"), SIDES, strict=True)),\n'
    add(tree / "tests/adapters/producers.py", left, before='}\n"""What makes each adapter')
    imported = "from emcl_plugin.adapters import CLAP\n\n\n"
    add(tree / "tests/adapters/test_adapters.py", imported + test)
    assert passed(tree, "clap or knows", "tests/adapters") == 3
