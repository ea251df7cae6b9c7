"""EMCL's strength: searched where NCL does not run, given where it does."""

from __future__ import annotations

import numpy as np
import pytest

from emcl_plugin import EMCL, rescore
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense

Data = tuple[np.ndarray, np.ndarray, GroundTruth]


def many_captions(shared: float, seed: int = 0) -> Data:
    """20 noisy captions for each of 150 videos, which share a direction by gamma weights."""
    rng = np.random.default_rng(seed)
    video_of_text = np.repeat(np.arange(150), 20)
    meaning, direction = rng.standard_normal((150, 48)), rng.standard_normal(48)
    weight = rng.gamma(1, shared, (150, 1))
    video = meaning + rng.standard_normal(meaning.shape) + direction * weight
    noise = rng.standard_normal((len(video_of_text), 48))
    text = meaning[video_of_text] + 2.2 * noise + direction
    return text, video, GroundTruth.from_index(video_of_text, len(video))


def mean_r1(scores: np.ndarray, truth: GroundTruth) -> float:
    return float(np.mean([p.metric("R@1") for _, p in evaluate(Dense(scores), truth).directions]))


def test_no_strength_is_searched_on_top_of_ncl() -> None:
    """The strength with most mutual neighbours loses more than two points here."""
    text, video, truth = many_captions(0.6)
    found = rescore(None, (text, video))
    without = rescore(None, (text, video), emcl=None)
    forced = rescore(None, (text, video), emcl=EMCL(strength=-1))

    assert found.emcl.strength == 0
    assert found.emcl.tried == ((0.0, found.guard.before),)
    assert "given strength" in found.emcl.reason
    np.testing.assert_array_equal(found.scores, without.scores)
    assert mean_r1(forced.scores, truth) < mean_r1(without.scores, truth) - 2


def popular(share: float, seed: int, items: int = 400, dimension: int = 64) -> Data:
    """A strong retriever; one video is asked by ``share`` of the queries."""
    rng = np.random.default_rng(seed)
    owner = np.where(rng.random(items) < share, 0, rng.integers(1, items, items))
    base, gap = rng.standard_normal((items, dimension)), rng.standard_normal((2, dimension))
    text = base[owner] + 0.5 * rng.standard_normal((items, dimension)) + gap[0]
    video = base + 0.25 * rng.standard_normal(base.shape) + gap[1]
    return text, video, GroundTruth.from_index(owner, items)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("ncl", ["auto", None])
def test_a_popular_video_keeps_its_direction(share: float, seed: int, ncl: str | None) -> None:
    """Where all texts counted, EMCL removed that video's own direction: R@1 99 -> 48."""
    text, video, truth = popular(share, seed)
    before = rescore(None, (text, video), emcl=None, ncl=None)
    after = rescore(None, (text, video), ncl=ncl)
    (_, was), (_, back) = evaluate(Dense(before.scores), truth).directions
    (_, now), (_, then) = evaluate(Dense(after.scores), truth).directions
    assert now.metric("R@1") >= was.metric("R@1") - 0.5
    assert then.metric("R@1") >= back.metric("R@1") - 0.5


def test_a_given_strength_adds_to_ncl_where_both_sides_share_too_much() -> None:
    """A direction common to both sides, of another length in each item."""
    rng = np.random.default_rng(1)
    meaning = rng.standard_normal((400, 96)) * 0.9 ** np.arange(96)
    direction = 3 * rng.standard_normal(96)
    text, video = (
        meaning + 0.1 * rng.standard_normal(meaning.shape) + direction * rng.gamma(1, 1, (400, 1))
        for _ in range(2)
    )
    given = rescore(None, (text, video), emcl=EMCL(strength=-1))
    without = rescore(None, (text, video), emcl=None)
    truth = GroundTruth.from_index(np.arange(400), 400)
    assert mean_r1(given.scores, truth) > mean_r1(without.scores, truth) + 3


def test_a_strength_that_leaves_all_scores_equal_is_not_applied() -> None:
    """Amplified so far, every vector is the leading direction: the cosines differ by rounding."""
    text, video, _ = many_captions(0.6)
    text, video = (np.abs(side).astype("float32") for side in (text, video))
    before = rescore(None, (text, video), emcl=None, ncl=None)
    found = rescore(None, (text, video), emcl=EMCL(strength=1e5, subspaces=1))
    assert not found.guard.applied
    assert found.guard.reason.startswith("all scores are equal after EMCL")
    np.testing.assert_array_equal(found.scores, before.scores)
