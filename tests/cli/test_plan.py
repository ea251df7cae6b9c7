"""`--plan`: said beforehand, and nothing done."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from emcl_plugin.cli.main import command
from emcl_plugin.demo import load_demo

SCHEMA = Path(__file__).parents[2] / "docs" / "schema.json"
BOTH = ["--text", "t.npy", "--video", "v.npy", "--plan"]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = load_demo()
    np.save("t.npy", demo.text)
    np.save("v.npy", demo.video)

    def run(*options):
        found = CliRunner().invoke(command, list(options))
        assert found.exit_code == 0, found.output
        return found.stdout

    return run


def test_a_plan_is_told_and_nothing_is_written(invoke):
    said = invoke(*BOTH)
    for words in (
        "945 texts x 945 videos: stored kernel",
        "about",
        "of ",
        "reranked.npy (945 x 945",
    ):
        assert words in said
    assert sorted(p.name for p in Path().iterdir()) == ["t.npy", "v.npy"]
    Path("reranked.npy").touch()
    assert invoke(*BOTH)  # what is there is replaced by no plan
    assert Path("reranked.npy").read_bytes() == b""


@pytest.mark.parametrize(
    ("options", "way", "held"),
    [
        ([], "stored kernel", 2 * 4 * 945**2),
        (["--storage", "bfloat16"], "stored kernel", (2 + 4) * 945**2),
        (["--memory", "1M"], "scores recomputed in every round", 0),
        (["--candidates", "100", "--run", "a.csv"], "up to 189000 candidates", 110 * 189000),
        (["--candidates", "999", "--run", "a.csv"], "up to 893025 candidates", 110 * 945**2),
    ],
)
def test_the_way_follows_from_size_and_budget(invoke, options, way, held):
    facts = json.loads(invoke(*BOTH, "--json", *options))
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(facts, {"$ref": "#/$defs/plan", "$defs": schema["$defs"]})
    assert (facts["way"], facts["held"]) == (way, held)
    assert 0 < facts["seconds"] < 600


def test_more_takes_longer(invoke):
    few = json.loads(invoke(*BOTH, "--json"))
    np.save("t.npy", np.tile(load_demo().text, (20, 1)))
    many = json.loads(invoke(*BOTH, "--json"))
    assert many["seconds"] > 3 * few["seconds"]
