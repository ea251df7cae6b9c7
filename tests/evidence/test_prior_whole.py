"""The whole correction against the rule in plain NumPy, and what does not matter to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import plain_prior, plain_weights, queries
from prior_data import HARD, SOLVED, centred, small

from emcl_plugin import NCL, rescore
from emcl_plugin.evidence import prior as rule
from emcl_plugin.evidence.guard import EVIDENCE
from emcl_plugin.evidence.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD

RULE = {
    "gentle": (GENTLE_TEMPERATURE_STD, GENTLE_RHO),
    "evidence": EVIDENCE,
    "ramps": {
        "q": rule.HUBS,
        "k": rule.COMPANIONS,
        "several": rule.SEVERAL,
        "weak": rule.WEAK,
        "few": rule.FEW,
        "e": rule.EVENNESS,
        "shortfall": rule.SHORTFALL,
    },
}
seeds = st.integers(0, 10_000)


def state(result):
    """What was decided, as numbers: strength, z, q, h, e, u."""
    guard, prior = result.guard, result.prior
    rest = ("found_cautiously", "companions", "hubs", "evenness", "paired", "uniform", "text_rho")
    return [guard.strength, guard.z, *(getattr(prior, name) for name in rest)]


@pytest.mark.parametrize("how", ["", "direction", "offset", "spread"])
@pytest.mark.parametrize("kind", ["hubs", "both", "hard"])
def test_the_default_is_the_rule_in_plain_numpy(how, kind):
    """Scores in, scores out: weights, runs, evidence, marginal and biases, to 1e-9."""
    for seed in range(4):
        changes = {"hubs": {"popular": 0, "asked": 1.0}, "both": {}, "hard": HARD}[kind]
        scores = small(seed, how, **changes).scores
        w = plain_weights(scores, scores.argmax(1))
        wanted, strength, h, u, rho = plain_prior(scores, w, **RULE)
        found = rescore(scores)
        assert_allclose(found.guard.strength, strength, rtol=0, atol=1e-9)
        if strength == 0:
            assert_array_equal(found.scores, scores)
            continue
        decided = found.prior.hubs, found.prior.uniform, found.prior.text_rho
        assert_allclose(decided, [h, u, rho], rtol=0, atol=1e-8)
        assert_allclose(found.prior.queries, w.sum(), rtol=1e-9)
        assert_allclose(found.scores, wanted, rtol=0, atol=1e-9)


def test_those_data_have_every_kind_of_decision():
    """Or else the comparison with plain NumPy, and what follows, would show little."""
    kinds = [("direction", {}), ("offset", HARD), ("spread", {}), ("spread", HARD), ("", {})]
    found = [rescore(small(seed, how, **kw).scores) for how, kw in kinds for seed in range(4)]
    strengths = np.array([x.guard.strength for x in found])
    priors = [x.prior for x in found if x.prior is not None]
    assert {0.0, 1.0} <= set(strengths)
    assert ((strengths > 0.1) & (strengths < 0.9)).any()
    for name in ("hubs", "uniform"):
        values = np.array([getattr(prior, name) for prior in priors])
        assert ((values > 0.01) & (values < 0.99)).any()
    assert {0.0, 1.0} <= {prior.hubs for prior in priors}


@pytest.mark.slow
@given(seeds, st.sampled_from(["direction", "spread"]), st.booleans())
def test_the_order_of_texts_and_videos_does_not_matter(seed, how, from_features):
    """To 1e-9 of scores, of which some are corrected, some in part and some not at all."""
    q = small(seed, how)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(q.text)), rng.permutation(len(q.video))
    if from_features:
        found = rescore(None, (q.text, q.video))
        moved = rescore(None, (q.text[rows], q.video[columns]))
    else:
        found, moved = rescore(q.scores), rescore(q.scores[rows][:, columns])
    assert_allclose(moved.scores, found.scores[rows][:, columns], rtol=0, atol=1e-9)
    assert_allclose(moved.guard.z, found.guard.z, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@given(seeds, st.floats(-6, 6), st.booleans())
def test_the_scale_of_scores_and_features_does_not_matter(seed, magnitude, from_features):
    """To 1e-9 of the scores' own scale."""
    q, scale = small(seed), 10**magnitude
    if from_features:
        found = rescore(None, (q.text, q.video))
        scaled = rescore(None, (scale * q.text, q.video / scale)).scores
    else:
        found = rescore(q.scores)
        scaled = rescore(scale * q.scores).scores / scale
    assert_allclose(scaled, found.scores, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [-100.0, -1.0, 0.3, 10.0])
def test_the_offset_of_the_scores_does_not_matter(monkeypatch, offset):
    """But for the texts' own shift: to 1e-6 of the spread, where all runs go to their end."""
    monkeypatch.setattr(NCL, "tolerance", 1e-8)
    monkeypatch.setattr(NCL, "iterations", 20_000)
    for seed in range(5):
        scores = small(seed).scores
        found, moved = (rescore(x, ncl=SOLVED) for x in (scores, scores + offset))
        assert_allclose(state(moved), state(found), rtol=0, atol=1e-6)
        change = centred(moved.scores - found.scores, axis=1)
        assert np.abs(change).max() < 1e-4 * scores.std()


@pytest.mark.parametrize("offset", [-100.0, -1.0, 0.3, 10.0])
def test_by_default_the_offset_matters_no_more_than_the_tolerance(offset):
    """With rho < 1 it takes iterations to decay: a tenth of the spread, and the same decisions."""
    for seed in range(3):
        scores = queries(seed, "direction", lean=2, popular=20, asked=0.7).scores
        found, moved = rescore(scores), rescore(scores + offset)
        assert_allclose(state(moved), state(found), rtol=0.02, atol=0.02)
        change = centred(moved.scores - found.scores, axis=1)
        assert np.abs(change).max() < 0.1 * scores.std()


@pytest.mark.parametrize("from_features", [False, True])
def test_arrays_tensors_and_precisions_agree(from_features):
    """NumPy = torch bit for bit, twice the same, float32 = float64 to 1e-4 of the spread."""
    for seed in range(3):
        q = small(seed)
        given = (q.text, q.video) if from_features else (q.scores,)

        def run(*arrays, feats=from_features):
            return rescore(None, arrays) if feats else rescore(*arrays)

        found = run(*given)
        assert found.guard.applied
        assert_array_equal(run(*given).scores, found.scores)
        assert_array_equal(run(*map(torch.from_numpy, given)).scores.numpy(), found.scores)
        single = run(*(x.astype("f4") for x in given))
        assert single.scores.dtype == np.float32
        assert_allclose(single.scores, found.scores, rtol=0, atol=1e-4 * q.scores.std())
        assert_allclose(state(single), state(found), rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1 << 20, 3 << 20])
@pytest.mark.parametrize("from_features", [False, True])
def test_the_memory_does_not_matter(memory, from_features):
    """Blocks or all at once, stored or recomputed: to 1e-9."""
    q = queries(0, "direction", popular=20, times=6, asked=0.8)
    q = q._replace(text=np.repeat(q.text, 2, axis=0), scores=np.repeat(q.scores, 2, axis=0))
    sim, feats = (None, (q.text, q.video)) if from_features else (q.scores, None)
    found, tight = rescore(sim, feats), rescore(sim, feats, memory=memory)
    assert (found.biases.solver, tight.biases.solver) == ("stored", "blocks")
    assert found.prior.queries < 0.51 * len(q.text)
    assert_allclose(tight.scores, found.scores, rtol=0, atol=1e-9)
    assert_allclose(state(tight), state(found), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.RepeatedItemsWarning")
@pytest.mark.parametrize("prior", ["auto", "gentle"])
@pytest.mark.parametrize("from_features", [False, True])
def test_repeated_queries_change_nothing(from_features, prior):
    """Half of the texts two to five times: every row's scores are those without repetition.

    To 1e-6 of the spread (texts that are a little alike weigh otherwise by about as much).
    """
    for seed, how in ((0, "direction"), (1, "direction"), (2, "spread"), (4, "spread")):
        q = small(seed, "direction" if from_features else how)
        rng = np.random.default_rng(seed)
        times = np.where(rng.random(len(q.text)) < 0.5, rng.integers(2, 6, len(q.text)), 1)
        which = rng.permutation(np.repeat(np.arange(len(q.text)), times))
        if from_features:
            found = rescore(None, (q.text, q.video), prior=prior)
            copied = rescore(None, (q.text[which], q.video), prior=prior)
            uneven = rescore(None, (q.text[which], q.video), prior="even", guard=False)
        else:
            found = rescore(q.scores, prior=prior)
            copied = rescore(q.scores[which], prior=prior)
            uneven = rescore(q.scores[which], prior="even", guard=False)
        atol = 1e-6 * q.scores.std()
        assert_allclose(copied.scores, found.scores[which], rtol=0, atol=atol)
        assert_allclose(copied.guard.z, found.guard.z, rtol=1e-6)
        if found.prior is not None:
            assert_allclose(copied.prior.queries, found.prior.queries, rtol=1e-6)
        even = rescore(*((None, (q.text, q.video)) if from_features else (q.scores,)),
                       prior="even", guard=False)  # fmt: skip
        assert np.abs(uneven.scores - even.scores[which]).max() > 0.1 * q.scores.std()
