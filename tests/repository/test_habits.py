"""What contributors and CI are told to do is there and is the same everywhere."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
FORMS = [p for p in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]
WORKFLOW = GITHUB / "workflows" / "ci.yml"
NAMED = ("README.md", "SECURITY.md", "docs/contributing.md", "docs/start.md")
PAGES = [*(ROOT / name for name in NAMED), *GITHUB.rglob("*.*")]


def read(path: Path) -> dict[str, object]:
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # as written: `on` is no truth value


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def makefile() -> dict[str, str]:
    """What every target runs."""
    parts = re.split(r"^([\w-]+):.*\n", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_workflow_runs_what_has_to_pass_on_every_promised_python():
    flow = read(WORKFLOW)
    job = flow["jobs"]["run"]
    promised = re.findall(r":: (3\.\d+)$", setup_cfg()["metadata"]["classifiers"], re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == promised
    *prepare, last = job["steps"]
    assert last["run"] == "bash .ci/run"
    *others, python = prepare[-1]["with"]["python-version"].split("\n")[:-1]
    assert (others, python) == ([promised[0]], "${{ matrix.python }}")


def test_the_workflow_may_only_read_and_uses_actions_of_a_named_version():
    text = WORKFLOW.read_text("utf-8")
    assert read(WORKFLOW)["permissions"] == {"contents": "read"}
    assert text.count("permissions") == 1
    assert "secrets" not in text
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_in_words_and_names_each_field_once(path):
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = form["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert field["type"] in ("input", "textarea", "dropdown")
        assert field["attributes"]["label"]
        assert bool(field["attributes"].get("options")) == (field["type"] == "dropdown")


def test_a_defect_tells_command_versions_and_shapes():
    fields = {field["id"]: field for field in read(GITHUB / "ISSUE_TEMPLATE/defect.yml")["body"]}
    assert {"command", "shapes", "environment"} <= fields.keys()
    assert "emcl-rerank --version" in fields["environment"]["attributes"]["description"]


def test_commands_of_make_that_pages_name_are_there():
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"setup", "demo", "test", "lint", "bench", "docs"} <= named <= makefile().keys()


def test_ci_checks_style_site_and_coverage_as_make_does():
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    for target, words in (("lint", "pre-commit run --all-files"), ("docs", "sphinx-build -W")):
        assert words in makefile()[target]
        assert words in run
    assert "--cov " in makefile()["coverage"]
    assert read(WORKFLOW)["jobs"]["coverage"]["steps"][-1]["run"] == "make setup coverage"
    assert "fail-under" not in makefile()["coverage"] + run
    numbers = re.findall(r"^fail_under = (\d+)$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert len(numbers) == 1
    assert int(numbers[0]) >= 95


def test_checks_before_a_commit_fetch_nothing():
    (own,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert own["repo"] == "local"
    assert {hook["language"] for hook in own["hooks"]} == {"system"}
