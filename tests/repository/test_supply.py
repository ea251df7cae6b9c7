"""The versions that are promised are those that are tested."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
UNTESTED = {"faiss-gpu", "emcl-plugin", "atheris"}
"""Needs a GPU; the extra `all`, which is the others; fuzzes with the newest only."""


def direct() -> list[Requirement]:
    """What setup.cfg asks for, in all its extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = [Requirement(line) for lines in lists for line in lines.split("\n") if line.strip()]
    return [one for one in found if one.name not in UNTESTED]


def constrained(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(requirement: Requirement) -> str:
    (one,) = requirement.specifier
    assert one.operator == "==", requirement
    return one.version


def test_the_oldest_versions_are_those_of_setup_cfg():
    floors = {
        (canonicalize_name(one.name), bound.version)
        for one in direct()
        for bound in one.specifier
        if bound.operator == ">="
    }
    tested = [(canonicalize_name(one.name), pinned(one)) for one in
              constrained("constraints-min.txt")]  # fmt: skip
    assert set(tested) == floors
    assert len(tested) == len({name for name, _ in tested})


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_newest_versions_name_every_dependency_once(python):
    newest = [
        one
        for one in constrained("constraints.txt")
        if one.marker is None or one.marker.evaluate({"python_version": python})
    ]
    versions = {canonicalize_name(one.name): pinned(one) for one in newest}
    assert len(versions) == len(newest)
    for one in direct():
        assert one.specifier.contains(versions[canonicalize_name(one.name)]), one


def test_the_promised_python_is_the_tested_one():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    promised = config["options"]["python_requires"]
    oldest = promised.removeprefix(">=")
    assert f"versions/{oldest}.*" in (ROOT / ".ci" / "run").read_text()
    named = re.findall(r"Python :: (3\.\d+)$", config["metadata"]["classifiers"], re.MULTILINE)
    assert named[0] == oldest
