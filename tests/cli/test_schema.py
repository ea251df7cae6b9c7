"""What the commands print as JSON is what docs/schema.json says, to the letter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError

from emcl_plugin.cli.main import command
from emcl_plugin.demo import load_demo

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text())


def check(name, arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout, parse_constant=pytest.fail)  # no NaN: not JSON
    Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{name}"}]}).validate(facts)
    return facts


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.fixture
def files(tmp_path):
    data = load_demo()
    np.save(tmp_path / "t.npy", data.text)
    np.save(tmp_path / "v.npy", data.video)
    return ["--text", tmp_path / "t.npy", "--video", tmp_path / "v.npy"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--gt", "diagonal", "--check-leak", "--measures", "R@1,R@3,mAP@5,nDCG,MRR,GM"],
        ["--emcl", "off"],
        ["--ncl", "off"],
        ["--emcl", "off", "--ncl", "off", "--gt", "diagonal"],
    ],
    ids=str,
)
def test_rerank(tmp_path, files, options):
    arguments = [*files, "--output", tmp_path / "o.npy", "--json", "-q", *options]
    facts = check("rerank", arguments)
    assert ("measured" in facts) == ("--gt" in options)


def test_the_others(files):
    check("demo", ["demo", "--json"])
    check("eval", ["eval", *files, "--json"])
    check("compare", ["compare", *files, "--format", "json", "-q", "--methods", "input,csls"])


def test_the_schema_refuses_what_is_not_said():
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate({"texts": 3})
