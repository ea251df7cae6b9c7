"""The gains of the defaults on real embeddings, which are not part of the repository."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from real_data import real_set

from emcl_plugin import EmclWarning, rescore
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense


def mean_r1(scores, owner):
    truth = GroundTruth.from_index(owner, scores.shape[1])
    return np.mean([p.metric("R@1") for _, p in evaluate(Dense(scores), truth).directions])


def cosine(text, video):
    text, video = (x.astype("f4") / np.linalg.norm(x.astype("f4"), axis=1, keepdims=True)
                   for x in (text, video))  # fmt: skip
    return text @ video.T


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("coco_clipB16", 67.5),
        ("msrvtt_videoclip100", 49.5),
        ("flickr8k_tinyclip", 63.5),
        ("flickr8k_en2zh_e5", 42.0),
    ],
)
def test_mean_r1_with_no_option(name, floor):
    text, video, owner = real_set(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        assert mean_r1(rescore(None, (text, video)).scores, owner) >= floor
        assert mean_r1(rescore(cosine(text, video)).scores, owner) >= floor - 1


def test_a_set_without_hubs_comes_back_unchanged():
    text, video, _ = real_set("flickr8k_miniclip_trained")
    sim = cosine(text, video)
    result = rescore(sim)
    assert_array_equal(result.scores, sim)
    assert "no hubs to correct" in result.guard.reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        from_features = rescore(None, (text, video))
    assert not from_features.guard.applied
    assert np.abs(from_features.scores - sim).max() < 1e-6


SETS = [
    "coco_clipB16", "coco_clipB16_split", "emoji_en_de", "emoji_en_es", "emoji_text_image",
    "flickr8k_en2zh_e5", "flickr8k_miniclip_trained", "flickr8k_tinyclip",
    "flickr8k_tinyclip_split", "msrvtt_videoclip100",
]  # fmt: skip


def text_r1_gain(name, seed, **settings):
    """Return the gain over the cosine in R@1 points, text to video, with half of the videos."""
    text, video, owner = real_set(name)
    chosen = np.random.default_rng(seed).permutation(len(video))[: len(video) // 2]
    asked = np.isin(owner, chosen)
    text, owner = text[asked], owner[asked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        scores = rescore(None, (text, video), **settings).scores
    right = [(x.argmax(1) == owner).mean() for x in (cosine(text, video), scores)]
    return 100 * (right[1] - right[0])


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_lost_where_half_of_the_videos_are_asked_for(name):
    for seed in range(2):
        assert text_r1_gain(name, seed) >= -1.5


def test_the_even_prior_loses_where_half_of_the_videos_are_asked_for():
    """The rule prevents a loss of more than five points on a set that it leaves unchanged."""
    assert text_r1_gain("flickr8k_miniclip_trained", 0, prior="even", guard=False) < -5
