"""What the commands print as JSON is what docs/schema.json says, to the letter."""

from __future__ import annotations

import numpy as np
import pytest
from bank_files import BOTH, FIT, FORWARD, SCHEMA, TEXT_BANK, TUNE, VIDEO_BANK, data, facts_of
from jsonschema import Draft202012Validator, ValidationError

pytestmark = pytest.mark.usefixtures("folder")
JSON = ("--json", "-q", "--force")


def test_the_schema_is_one_and_refuses_what_is_not_said():
    Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate({"texts": 3})


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--gt", "diagonal", "--check-leak", "--measures", "R@1,R@3,mAP@5,nDCG,MRR,GM"],
        ["--emcl", "off"],
        ["--ncl", "off"],
        ["--emcl", "off", "--ncl", "off", "--gt", "diagonal"],
        ["--resume", "r.safetensors"],
    ],
    ids=str,
)
def test_rerank(emcl, options):
    facts = facts_of(emcl(*BOTH, *JSON, *options), "rerank")
    assert ("measured" in facts) == ("--gt" in options)
    assert facts["banks"] == {}
    assert not {"likeness", "seen_in_bank"} & set(facts)
    assert facts.get("resumed_rounds") == (0 if "--resume" in options else None)


@pytest.mark.slow
@pytest.mark.parametrize("banks", [TEXT_BANK, VIDEO_BANK, TEXT_BANK + VIDEO_BANK], ids=str)
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
def test_rerank_by_banks(emcl, banks, options):
    facts = facts_of(emcl(*BOTH, *banks, *JSON, *options), "rerank")
    assert facts["protocol"] == "bank"
    assert len(facts["banks"]) == len(banks) / 2
    assert set(facts["likeness"]) == set(facts["seen_in_bank"]) == set(facts["banks"])
    assert ("measured" in facts) == ("--gt" in options)


def test_a_bank_that_is_no_evidence(emcl):
    np.save("few.npy", data().text_bank[:20])
    facts = facts_of(emcl(*BOTH, "--text-bank", "few.npy", *JSON), "rerank")
    assert facts["banks"][FORWARD]["strength"] < 1


@pytest.mark.parametrize(
    "options",
    [[], ["--emcl", "off"], ["--ncl", "off", "--emcl-strength", "-0.5"], ["--no-guard"]],
    ids=str,
)
def test_fit_apply_and_show(emcl, options):
    assert facts_of(emcl(*FIT, *VIDEO_BANK, *JSON, *options), "fit")["saved"] == "new"
    applied = ("apply", "new", "--text", "t.npy", *JSON)
    for more in ((), ("--gt", "diagonal"), ("--top", 3)):
        facts = facts_of(emcl(*applied, *more), "apply")
        assert ("measured" in facts) == ("--gt" in more)
    shown = facts_of(emcl("show", "new", "--json"), "show")
    assert (shown["gate"] is None) == bool({"--no-guard", "--ncl"} & set(options))
    assert shown["fit"]["protocol"] == "bank"


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--cuts", 1], ["--budget", "0.001s"]], ids=str)
def test_tune(emcl, options):
    facts = facts_of(emcl(*TUNE, "--json", "-q", *options), "tune")
    assert (facts["against_nothing"] is None) == (options[0] == "--budget")
    saved = emcl(*TUNE, "--video", "v.npy", "--save", "tuned", "--json", "-q", *options)
    assert ("saved" in facts, "saved" in facts_of(saved, "tune")) == (False, True)


def test_the_others(emcl):
    facts_of(emcl("demo", "--json"), "demo")
    facts_of(emcl("eval", *BOTH, "--json"), "eval")
    facts_of(emcl("compare", *BOTH, "--format", "json", "-q", "--methods", "input,csls"), "compare")


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
def test_nor_of_banks(emcl, spoil):
    facts = facts_of(emcl(*BOTH, *TEXT_BANK, *JSON), "rerank")
    spoil(facts)
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(facts)
