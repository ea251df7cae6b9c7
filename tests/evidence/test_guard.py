"""The guard: evidence in mutual pairs, whole and in folds of the texts, and what it decides."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import hubby_scores, plain_folds, plain_mutual, plain_partners, tied_scores

from emcl_plugin import rescore
from emcl_plugin.evidence.guard import Evidence, decide, stratified_folds, weigh
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.scores import Dense

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
many = st.tuples(st.integers(1, 60), st.integers(1, 8))
seeds = st.integers(0, 10_000)
memories = st.integers(1, 5000)


# --- evidence ----------------------------------------------------------------------------

counts = st.floats(0, 500)


@pytest.mark.parametrize(
    ("gained", "lost", "z", "strength"),
    [
        (0, 0, 0, 0),
        (1, 0, 1, 0),
        (4, 0, 2, 1),
        (9 / 4, 0, 1.5, 0.5),
        (30, 6, 4, 1),
        (6, 30, -4, 0),
        (50, 50, 0, 0),
    ],
)
def test_evidence_in_standard_errors(gained, lost, z, strength):
    """(gained - lost) / sqrt(gained + lost); nothing up to 1, all from 2 on."""
    evidence = Evidence(gained, lost)
    assert_allclose([evidence.z, evidence.strength], [z, strength], rtol=1e-12)


@given(counts, counts)
def test_evidence_has_two_sides(gained, lost):
    """What speaks for a change speaks against undoing it; four times as much counts twice."""
    z = Evidence(gained, lost).z
    assert_allclose(Evidence(lost, gained).z, -z, rtol=1e-12)
    assert_allclose(Evidence(4 * gained, 4 * lost).z, 2 * z, rtol=1e-12)
    assert min(Evidence(gained, lost).strength, Evidence(lost, gained).strength) == 0


@given(counts, counts, st.floats(0, 20))
def test_more_gained_is_more_and_more_lost_is_less_evidence(gained, lost, more):
    strength = Evidence(gained, lost).strength
    assert 0 <= strength <= 1
    assert Evidence(gained + more, lost).strength >= strength - 1e-12
    assert Evidence(gained, lost + more).strength <= strength + 1e-12


def test_the_strength_has_no_jump():
    """A thousandth of a text moves it by less than a hundredth, wherever it is."""
    grid = np.arange(0.5, 30, 1e-3)
    for lost in (0.0, 0.7, 5.0):
        strengths = np.array([Evidence(gained, lost).strength for gained in grid])
        assert np.abs(np.diff(strengths)).max() < 0.01
        assert (strengths.min(), strengths.max()) == (0, 1)


def changed(before, after, weights):
    """Gained and lost by a look at every pair."""
    was, now = plain_mutual(before)[0], plain_mutual(after)[0]
    return [sum(weights[now & ~was]), sum(weights[was & ~now])]


@given(shapes, seeds, st.booleans(), st.booleans(), memories)
def test_evidence_is_that_of_a_look_at_every_pair(shape, seed, tied, weighted, memory):
    """With and without ties and weights, in any block size."""
    rng = np.random.default_rng(seed)
    pair = [tied_scores(shape, seed + k) if tied else rng.random(shape) for k in range(2)]
    before, after = (nearest(Dense(x, dtype=torch.float64, memory=memory)) for x in pair)
    for found, x in zip((before, after), pair, strict=True):
        assert_array_equal(found.in_pairs()[0], plain_mutual(x)[0])
        assert_array_equal(found.in_pairs()[1], plain_mutual(x)[1])
    weights = rng.random(shape[0]) if weighted else np.ones(shape[0])
    was, now = before.in_pairs()[0], after.in_pairs()[0]
    evidence = weigh(was, now, torch.tensor(weights) if weighted else None)
    assert_allclose([evidence.gained, evidence.lost], changed(*pair, weights), rtol=1e-12)
    other = weigh(now, was, torch.tensor(weights))
    assert_allclose([other.lost, other.gained], [evidence.gained, evidence.lost], rtol=1e-12)
    assert weigh(was, was) == Evidence(0, 0)


@given(shapes, seeds, st.booleans())
def test_evidence_does_not_depend_on_the_order(shape, seed, tied):
    """Of texts and of videos."""
    rng = np.random.default_rng(seed)
    pair = [tied_scores(shape, seed + k) if tied else rng.random(shape) for k in range(2)]
    weights = rng.random(shape[0])
    rows, columns = rng.permutation(shape[0]), rng.permutation(shape[1])
    found = weigh(*(nearest(Dense(x)).in_pairs()[0] for x in pair), torch.tensor(weights))
    pair = [x[rows][:, columns] for x in pair]
    moved = weigh(*(nearest(Dense(x)).in_pairs()[0] for x in pair), torch.tensor(weights[rows]))
    assert_allclose([moved.gained, moved.lost], [found.gained, found.lost], rtol=1e-12)


@given(shapes, seeds)
def test_copies_of_texts_are_no_more_evidence(shape, seed):
    """Text i comes k times, each with a weight of 1 / k."""
    rng = np.random.default_rng(seed)
    pair = rng.random((2, *shape))
    times = rng.integers(1, 5, shape[0])
    weights = torch.tensor(np.repeat(1 / times, times))
    alone = weigh(*(nearest(Dense(x)).in_pairs()[0] for x in pair))
    copied = weigh(
        *(nearest(Dense(np.repeat(x, times, axis=0))).in_pairs()[0] for x in pair), weights
    )
    assert_allclose([copied.gained, copied.lost], [alone.gained, alone.lost], rtol=1e-12)


# --- folds of the texts ------------------------------------------------------------------


@given(many, seeds, st.booleans(), st.booleans(), memories)
def test_partners_are_those_of_a_look_at_every_part(shape, seed, tied, weighted, memory):
    """With and without ties and weights, in any block size, where texts are fewer or more."""
    rng = np.random.default_rng(seed)
    x = tied_scores(shape, seed) if tied else rng.random(shape)
    weights = rng.random(shape[0]) if weighted else np.ones(shape[0])
    source = Dense(x, dtype=torch.float64, memory=memory)
    found = nearest(source)
    folds = stratified_folds(found, torch.tensor(weights) if weighted else None)
    part, count = plain_folds(x, weights)
    assert folds.count == count
    assert_array_equal(folds.fold, part)
    wanted = plain_partners(x, part, weights, shared=found.tied is not None)
    assert_allclose(folds.partners(source, found), wanted, rtol=1e-12)


@given(many, seeds)
def test_parts_do_not_depend_on_the_order(shape, seed):
    """Of texts and of videos."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    rows, columns = rng.permutation(shape[0]), rng.permutation(shape[1])
    sources = Dense(x), Dense(x[rows][:, columns])
    found = [nearest(source) for source in sources]
    folds = [stratified_folds(best) for best in found]
    assert_array_equal(folds[1].fold, folds[0].fold[rows])
    partners = [p.partners(s, b) for p, s, b in zip(folds, sources, found, strict=True)]
    assert_array_equal(partners[1], partners[0][rows])


@pytest.mark.slow
@settings(max_examples=300)
@given(many, seeds)
def test_copies_stay_in_one_part(shape, seed):
    """Text i comes k times, each with a weight of 1 / k: folds and partners are as with one."""
    rng = np.random.default_rng(seed)
    x, times = rng.random(shape), rng.integers(1, 5, shape[0])
    alone, copied = Dense(x), Dense(np.repeat(x, times, axis=0))
    best = nearest(alone), nearest(copied)
    folds = (
        stratified_folds(best[0]),
        stratified_folds(best[1], torch.tensor(np.repeat(1 / times, times))),
    )
    assert_array_equal(folds[1].fold, np.repeat(folds[0].fold.numpy(), times))
    partners = folds[0].partners(alone, best[0]).numpy()
    assert_array_equal(folds[1].partners(copied, best[1]), np.repeat(partners, times))


@given(st.integers(1, 200), st.integers(1, 40), seeds)
def test_parts_are_about_as_many_as_there_are_videos(n_text, n_video, seed):
    """And differ by one text at most."""
    folds = stratified_folds(nearest(Dense(np.random.default_rng(seed).random((n_text, n_video)))))
    sizes = np.bincount(folds.fold, minlength=folds.count)
    assert sizes.max() - sizes.min() <= 1
    assert (folds.count == 1) == (n_text < 1.5 * n_video)
    assert folds.count == 1 or 2 / 3 * n_video - 1 < sizes.min() <= sizes.max() < 1.5 * n_video + 1


@pytest.mark.slow
def test_evidence_does_not_fade_with_captions():
    """The same hubs, 1 to 80 captions per video: as sure each time, and corrected each time."""
    rng = np.random.default_rng(0)
    meaning, noise = rng.standard_normal((2, 150, 48))
    shared = rng.standard_normal(48)
    video = meaning + noise
    found = []
    for count in (1, 20, 80):
        text = np.repeat(meaning, count, axis=0) + shared
        text += 0.8 * rng.standard_normal(text.shape)
        result = rescore(None, (text, video))
        assert result.guard.strength == 1
        assert ("folds of the texts" in result.guard.reason) == (count > 1)
        found.append(result.guard.z)
    assert min(found) > 0.7 * max(found)


# --- the decision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "lost", "words"),
    [
        (30, 6, "correction applied: 30 texts gained a mutual nearest neighbour, 6 lost one"),
        (9 / 4, 0, "correction applied at 50 %"),
        (1, 0, "too little evidence"),
        (1, 1, "no hubs to correct"),
        (3, 12, "no hubs to correct: 3 texts gained a mutual nearest neighbour, 12 lost one"),
    ],
)
def test_the_guard_says_what_it_lets_through_and_why(gained, lost, words):
    """All, a part, or nothing; in JSON with everything it was decided on."""
    evidence = Evidence(gained, lost)
    decision = decide(evidence, evidence.strength, 0.5, 0.6)
    assert words in decision.reason
    assert decision.applied == (evidence.strength > 0)
    assert ("input unchanged" in decision.reason) == (not decision.applied)
    facts = json.loads(json.dumps(decision.to_dict()))
    assert facts == {
        "enabled": True,
        "applied": decision.applied,
        "strength": evidence.strength,
        "gained": gained,
        "lost": lost,
        "z": evidence.z,
        "before": 0.5,
        "after": 0.6,
        "reason": decision.reason,
    }


def test_a_guard_that_is_off_lets_everything_through():
    """And says that it was off, whatever the evidence."""
    decision = decide(Evidence(3, 12), 1.0, 0.5, 0.4, enabled=False)
    assert (decision.enabled, decision.applied, decision.strength) == (False, True, 1.0)
    assert "switched off" in decision.reason
    assert "50.0 % -> 40.0 %" in decision.reason


# --- coarse scores -----------------------------------------------------------------------


@pytest.mark.parametrize("levels", [12, 40])
def test_coarse_scores_are_corrected_as_fine_ones(levels):
    """Where all equals counted as partners, rounding made every text one, and blinded the guard."""
    x = hubby_scores(300, 300, 0)
    coarse = np.round((x - x.min()) / np.ptp(x) * (levels - 1)) / 64
    fine, found = rescore(x).guard, rescore(coarse).guard
    assert (fine.strength, found.strength) == (1, 1)
    assert found.z > fine.z / 2


@given(many)
def test_equal_scores_are_no_evidence(shape):
    """Of k different texts that tie for a video each has a k-th part of it."""
    source = Dense(np.full(shape, 0.5), dtype=torch.float64)
    found = nearest(source)
    folds = stratified_folds(found)
    assert_allclose(folds.partners(source, found), 1 / np.bincount(folds.fold)[folds.fold])
