"""Versions, CI, Makefile and issue forms agree with each other and with the docs."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
FORMS = [p for p in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]
WORKFLOW = GITHUB / "workflows" / "ci.yml"
RUN = (ROOT / ".ci" / "run").read_text("utf-8")
PAGES = ("README.md", "SECURITY.md", "docs/contributing.md", "docs/start.md")
UNTESTED = {"faiss-gpu", "emcl-plugin", "atheris"}
"""Needs a GPU; the package itself, in its extras; fuzzes with the newest version only."""

CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r":: (3\.\d+)$", CONFIG["metadata"]["classifiers"], re.MULTILINE)
LISTS = [CONFIG["options"]["install_requires"], *CONFIG["options.extras_require"].values()]
DIRECT = [
    one
    for lines in LISTS
    for one in map(Requirement, lines.split("\n")[1:])
    if one.name not in UNTESTED
]
MAKE = re.split(r"^([\w-]+):.*\n", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
TARGETS = dict(zip(MAKE[1::2], MAKE[2::2], strict=True))


def pinned(name: str, **environment: str) -> list[tuple[str, str]]:
    """Return the (name, version) pairs of a file of constraints."""
    lines = (ROOT / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [
        (canonicalize_name(one.name), str(one.specifier).removeprefix("=="))
        for one in found
        if one.marker is None or one.marker.evaluate(environment)
    ]


def read(path: Path) -> dict[str, object]:
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # keeps `on` a word


def test_the_oldest_versions_are_those_of_setup_cfg():
    floors = {
        (canonicalize_name(one.name), bound.version)
        for one in DIRECT
        for bound in one.specifier
        if bound.operator == ">="
    }
    tested = pinned("constraints-min.txt")
    assert set(tested) == floors
    assert len(tested) == len(dict(tested))


@pytest.mark.parametrize("python", PYTHONS)
def test_the_newest_versions_name_every_dependency_once(python):
    newest = pinned("constraints.txt", python_version=python)
    assert len(newest) == len(dict(newest))
    for one in DIRECT:
        assert one.specifier.contains(dict(newest)[canonicalize_name(one.name)]), one


def test_ci_tests_every_promised_python_and_the_oldest():
    oldest = CONFIG["options"]["python_requires"].removeprefix(">=")
    assert f"versions/{oldest}.*" in RUN
    assert PYTHONS[0] == oldest
    job = read(WORKFLOW)["jobs"]["run"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    *prepare, last = job["steps"]
    assert last["run"] == "bash .ci/run"
    *others, python = prepare[-1]["with"]["python-version"].split("\n")[:-1]
    assert (others, python) == ([oldest], "${{ matrix.python }}")


def test_the_workflow_may_only_read_and_uses_actions_of_a_named_version():
    text = WORKFLOW.read_text("utf-8")
    assert read(WORKFLOW)["permissions"] == {"contents": "read"}
    assert text.count("permissions") == 1
    assert "secrets" not in text
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_complete_and_names_each_field_once(path):
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    for field in fields.values():
        assert field["type"] in ("input", "textarea", "dropdown")
        assert field["attributes"]["label"]
        assert bool(field["attributes"].get("options")) == (field["type"] == "dropdown")
    if path.stem == "defect":
        assert {"command", "shapes", "environment"} <= fields.keys()
        assert "emcl-rerank --version" in fields["environment"]["attributes"]["description"]


def test_make_targets_in_the_docs_exist():
    named = {
        target
        for page in (*(ROOT / name for name in PAGES), *GITHUB.rglob("*.*"))
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"setup", "demo", "test", "test-all", "lint", "bench", "docs"} <= named <= TARGETS.keys()


def test_ci_checks_style_site_and_coverage_as_make_does():
    for target, words in (("lint", "pre-commit run --all-files"), ("docs", "sphinx-build -W")):
        assert words in TARGETS[target]
        assert words in RUN
    assert "--cov " in TARGETS["coverage"]
    assert read(WORKFLOW)["jobs"]["coverage"]["steps"][-1]["run"] == "make setup coverage"
    (limit,) = re.findall(r"^fail_under = (\d+)$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert int(limit) >= 95


def test_checks_before_a_commit_fetch_nothing():
    (own,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert own["repo"] == "local"
    assert {hook["language"] for hook in own["hooks"]} == {"system"}


def test_what_only_the_whole_suite_collects_exists(request):
    plugins = [plugin for _, plugin in request.config.pluginmanager.list_name_plugin()]
    (slow,) = [plugin.SLOW for plugin in plugins if hasattr(plugin, "SLOW")]
    assert [path for path in slow if not path.exists()] == []
