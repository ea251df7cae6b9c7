"""What the commands print as JSON is what docs/schema.json says, to the letter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bank_files import facts_of, invoke
from jsonschema import Draft202012Validator, ValidationError

from emcl_plugin.data.demo import load_demo

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text())


def check(name, arguments, part=None):
    """Run a command: what it printed, or the part of it that is to be as the schema says."""
    facts = facts_of(invoke(*arguments))
    facts = facts if part is None else facts[part]
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


@pytest.fixture
def banks(tmp_path):
    """Of 200 pairs, and one of 20 that are no evidence for anything."""
    data = load_demo()
    np.save(tmp_path / "tb.npy", data.text_bank[:200])
    np.save(tmp_path / "vb.npy", data.video_bank[:200])
    np.save(tmp_path / "few.npy", data.text_bank[:20])
    return ["--text-bank", tmp_path / "tb.npy", "--video-bank", tmp_path / "vb.npy"]


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
    assert facts["banks"] == {}
    assert not {"likeness", "seen_in_bank"} & set(facts)


def test_rerank_resumed(tmp_path, files):
    kept = ["--resume", tmp_path / "r.safetensors"]
    facts = check("rerank", [*files, "--output", tmp_path / "o.npy", "--json", "-q", *kept])
    assert facts["resumed_rounds"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("which", [slice(0, 2), slice(2, 4), slice(0, 4)], ids=["t", "v", "both"])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--gt", "diagonal", "--measures", "R@1,mAP"],
        ["--emcl", "off", "--no-guard"],
        ["--ncl", "off", "--emcl-strength", "-0.5"],
        ["--prior", "off"],
    ],
    ids=str,
)
def test_rerank_by_banks(tmp_path, files, banks, which, options):
    arguments = [*files, *banks[which], "--output", tmp_path / "o.npy", "--json", "-q", *options]
    facts = check("rerank", arguments)
    directions = {"text -> video", "video -> text"}
    assert facts["protocol"] == "bank"
    if which == slice(0, 4):
        assert set(facts["banks"]) == directions
    for found in facts["banks"].values():
        assert found["protocol"] == "bank"
    for name in ("likeness", "seen_in_bank"):
        assert set(facts[name]) == set(facts["banks"]) <= directions
    assert ("measured" in facts) == ("--gt" in options)


def test_a_bank_that_is_no_evidence(tmp_path, files, banks):
    arguments = [*files, "--text-bank", banks[1].with_name("few.npy"), "--json", "-q"]
    facts = check("rerank", [*arguments, "--output", tmp_path / "o.npy"])
    assert facts["banks"]["text -> video"]["strength"] < 1


@pytest.mark.parametrize(
    "options",
    [[], ["--emcl", "off"], ["--ncl", "off", "--emcl-strength", "-0.5"], ["--no-guard"]],
    ids=str,
)
def test_fit_apply_and_show(tmp_path, files, banks, options):
    saved = tmp_path / "fitted"
    facts = check("fit", ["fit", *files[2:], *banks, "--save", saved, "--json", "-q", *options])
    assert facts["saved"] == str(saved)
    applied = ["apply", saved, *files[:2], "--output", tmp_path / "o.npy", "--json", "-q"]
    assert "measured" not in check("apply", applied)
    assert "measured" in check("apply", [*applied, "--gt", "diagonal", "--force"])
    check("apply", ["apply", saved, *files[:2], "--top", 3, "--output", tmp_path / "o.csv",
                    "--json", "-q"])  # fmt: skip
    shown = check("show", ["show", saved, "--json"])
    assert (shown["gate"] is None) == bool({"--no-guard", "--ncl"} & set(options))
    check("bank", ["show", saved, "--json"], "fit")


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--cuts", 1], ["--budget", "0.001s"]], ids=str)
def test_tune(tmp_path, files, banks, options):
    facts = check("tune", ["tune", *banks, "--json", "-q", *options])
    assert "saved" not in facts
    assert (facts["against_nothing"] is None) == (options[0] == "--budget")
    save = ["--save", tmp_path / "tuned"]
    assert "saved" in check("tune", ["tune", *banks, *files[2:], *save, "--json", "-q", *options])


def test_the_others(files):
    check("demo", ["demo", "--json"])
    check("eval", ["eval", *files, "--json"])
    check("compare", ["compare", *files, "--format", "json", "-q", "--methods", "input,csls"])


def test_the_schema_refuses_what_is_not_said():
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate({"texts": 3})


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: facts.pop("banks"),
        lambda facts: facts.update(banks={"text -> text": {}}),
        lambda facts: facts.update(banks={"text -> video": {}}),
        lambda facts: facts["banks"]["text -> video"].update(more=1),
        lambda facts: facts["banks"]["text -> video"].update(protocol="transductive"),
        lambda facts: facts["banks"]["text -> video"].update(strength=1.5),
        lambda facts: facts["banks"]["text -> video"].pop("kinship"),
        lambda facts: facts["likeness"].update({"text -> video": 2}),
        lambda facts: facts["seen_in_bank"].update({"text -> video": 0.5}),
        lambda facts: facts.update(protocol="training"),
    ],
)
def test_nor_of_banks(tmp_path, files, banks, spoil):
    arguments = [*files, *banks[:2], "--output", tmp_path / "o.npy", "--json", "-q"]
    facts = check("rerank", arguments)
    spoil(facts)
    with pytest.raises(ValidationError):
        Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": "#/$defs/rerank"}]}).validate(facts)
