"""`show`: what is in a saved corrector, in words and in JSON."""

from __future__ import annotations

import json

import pytest
from bank_files import FIT, NAMES, VIDEO_BANK, N, facts_of, reranker


@pytest.mark.usefixtures("fitted")
def test_show_tells_what_is_in_a_corrector(emcl):
    result = emcl("show", "fitted")
    assert result.words == ""
    corrector = reranker().corrector_
    hub, lifted = NAMES[int(corrector.bias.argmin())], NAMES[int(corrector.bias.argmax())]
    for words in (
        "200 bank queries x 200 gallery items",
        "protocol",
        f"{100 * corrector.strength:.0f} % of the biases",
        "200 items of dimension 128, float32, with names",
        f"{corrector.bias.min():+.4f} ({hub}, the largest hub)",
        f"{corrector.bias.max():+.4f} ({lifted})",
        f"none of the correction up to {corrector.ood_gate.low:.3f}",
        f"{100 * corrector.drift():.1f} % since the fit",
        "Reranker()",
    ):
        assert words in result.out


@pytest.mark.usefixtures("fitted")
def test_show_in_json(emcl):
    facts = facts_of(emcl("show", "fitted", "--json"))
    corrector = reranker().corrector_
    assert facts == {
        "folder": "fitted",
        "protocol": "bank",
        "bank": N,
        "gallery": N,
        "dimension": 128,
        "dtype": "float32",
        "metric": "cosine",
        "settings": "Reranker()",
        "names": True,
        "temperature": corrector.temperature,
        "rho": 0.8,
        "strength": corrector.strength,
        "emcl_directions": len(corrector.change),
        "gate": [corrector.ood_gate.low, corrector.ood_gate.high],
        "drift": pytest.approx(corrector.drift()),
        "fit": json.loads(json.dumps(reranker().report_.to_dict())),
    }


def test_show_without_names_gate_and_biases(emcl):
    emcl(*FIT, "--no-guard", "--emcl-strength", "-0.5", "--ncl", "off", "-q")
    words = emcl("show", "new").out
    for part in ("without names", "all queries are corrected", "+0.0000 (item 0", "drift"):
        assert part in words
    facts = facts_of(emcl("show", "new", "--json"))
    assert (facts["names"], facts["gate"], facts["strength"], facts["drift"]) == (False, None, 0, 0)
    assert facts["emcl_directions"] > 0
    assert "strength=-0.5" in facts["settings"]


def test_show_finds_no_drift_right_after_a_fit_with_both_banks(emcl):
    emcl(*FIT, *VIDEO_BANK, "-q")
    assert facts_of(emcl("show", "new", "--json"))["drift"] < 0.05
