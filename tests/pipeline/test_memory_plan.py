"""`--plan`: said beforehand, and nothing done."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from emcl_plugin._internal.sizes import physical_memory
from emcl_plugin.cli.main import command
from emcl_plugin.data.demo import load_demo
from emcl_plugin.pipeline.memory_plan import available

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
        (["--memory", "1M"], "scores recomputed in every iteration", 0),
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


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000 kB\n"}, 1_024_000),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 1_024_000),
        ({"sys/fs/cgroup/memory.max": "500000\n"}, 300_000),
        ({"sys/fs/cgroup/memory.max": "100000\n"}, 0),
        ({"sys/fs/cgroup/memory.max": "9000000000\n"}, 1_024_000),
    ],
    ids=["no container", "no limit", "limit", "limit passed", "limit of more than there is"],
)
def test_free_memory_is_that_of_the_machine_and_of_the_container(
    monkeypatch, tmp_path, files, free
):
    kept = {"proc/meminfo": "MemAvailable: 1000 kB", "sys/fs/cgroup/memory.current": "200000\n"}
    for name, text in {**kept, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        "emcl_plugin.pipeline.memory_plan.Path", lambda name: tmp_path / name.lstrip("/")
    )
    assert available(torch.device("cpu")) == free


def test_free_memory_where_the_system_does_not_tell_is_half_of_all(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "emcl_plugin.pipeline.memory_plan.Path", lambda name: tmp_path / name.lstrip("/")
    )
    assert available(torch.device("cpu")) == physical_memory() // 2
