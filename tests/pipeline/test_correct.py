"""A strength of EMCL is kept only if the evidence supports it."""

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


@pytest.mark.parametrize("shared", [0.6, 1.5])
def test_a_strength_is_not_kept_for_a_rise_by_chance(shared: float) -> None:
    """The largest of nine shares of mutual neighbours was kept, and lost up to 11 points here."""
    text, video, truth = many_captions(shared)
    found = rescore(None, (text, video))
    without = rescore(None, (text, video), emcl=None)
    tried = dict(found.emcl.tried)
    best = max(tried, key=lambda s: tried[s])
    forced = rescore(None, (text, video), emcl=EMCL(strength=best))

    assert tried[best] > tried[0.0]
    assert mean_r1(forced.scores, truth) < mean_r1(without.scores, truth) - 2
    assert found.emcl.strength == 0
    assert "adds too little" in found.emcl.reason
    np.testing.assert_array_equal(found.scores, without.scores)


def test_a_strength_is_kept_where_it_finds_many_partners() -> None:
    """Both sides share far too much: after NCL, too, EMCL finds pairs that its absence does not."""
    rng = np.random.default_rng(1)
    meaning = rng.standard_normal((400, 96)) * 0.9 ** np.arange(96)
    direction = 3 * rng.standard_normal(96)
    text, video = (
        meaning + 0.1 * rng.standard_normal(meaning.shape) + direction * rng.gamma(1, 1, (400, 1))
        for _ in range(2)
    )
    found = rescore(None, (text, video))
    without = rescore(None, (text, video), emcl=None)
    truth = GroundTruth.from_index(np.arange(400), 400)

    assert found.emcl.strength < 0
    assert mean_r1(found.scores, truth) > mean_r1(without.scores, truth) + 3
