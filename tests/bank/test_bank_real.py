"""Banks on real embeddings: what they gain, and what junk in place of a bank may cost.

The demo ships; the others are skipped where they are not at hand.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from real_data import real_set

from emcl_plugin.bank import fit_corrector
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import EmclWarning
from emcl_plugin.evaluation.metrics import place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense, FeaturePair, Features

BANKED = (
    "coco_clipB16_split",
    "flickr8k_tinyclip_split",
    "flickr8k_en2zh_e5",
    "emoji_en_es",
    "emoji_en_de",
    "emoji_text_image",
)
ALL = ("demo", *BANKED)
SMALL = tuple(name for name in ALL if name != "flickr8k_en2zh_e5")
SAME_SPACE = ("flickr8k_tinyclip_split", "coco_clipB16_split"), (
    "demo", "emoji_en_es", "emoji_en_de", "emoji_text_image",
)  # fmt: skip
"""Sets of one dimension: in the first all others are strange, in the second some are related."""


class Set(NamedTuple):
    text: np.ndarray
    video: np.ndarray
    text_bank: np.ndarray
    video_bank: np.ndarray
    truth: GroundTruth


@functools.lru_cache
def load(name):
    if name == "demo":
        demo = load_demo()
        sides = (demo.text, demo.video, demo.text_bank, demo.video_bank)
        return Set(*sides, GroundTruth.diagonal((len(demo.text), len(demo.video))))
    *sides, owner = real_set(name, "text_bank", "video_bank")
    return Set(*sides, GroundTruth.from_index(owner, len(sides[1])))


def corrected(queries, gallery, bank, **settings):
    """Scores of queries that the bank's queries made the correction for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        corrector, _ = fit_corrector(bank, gallery, **settings)
    return Dense(torch.cat(list(corrector.scores(queries))))


def r1(data, text_bank, video_bank, **settings):
    """R@1 of both directions, each by a bank of its own queries."""
    found = corrected(data.text, data.video, text_bank, **settings)
    other = corrected(data.video, data.text, video_bank, **settings)
    return np.array([place(found, data.truth).metric("R@1"),
                     place(other, data.truth.T).metric("R@1")])  # fmt: skip


@functools.lru_cache
def before(name):
    """R@1 of the cosine, both directions."""
    data = load(name)
    scores = FeaturePair(Features(data.text), Features(data.video))
    truths = (scores, data.truth), (scores.T, data.truth.T)
    return np.array([place(*side).metric("R@1") for side in truths])


@functools.lru_cache
def after(name):
    """R@1 with the set's banks and no option, both directions."""
    data = load(name)
    return r1(data, data.text_bank, data.video_bank)


# --- gains -------------------------------------------------------------------------------


def test_the_demo_s_bank_gains_two_and_a_half_points():
    assert (after("demo") - before("demo")).mean() >= 2.5


@pytest.mark.parametrize("name", BANKED)
def test_a_bank_loses_on_no_set(name):
    """Mean R@1 of both directions."""
    assert after(name).mean() >= before(name).mean()


def test_mean_r1_of_the_six_sets_with_no_option():
    """40.9 of the cosine become 45.3 and more."""
    assert np.mean([after(name) for name in BANKED]) >= 45.3


# --- junk in place of a bank -------------------------------------------------------------


def lost(name, *banks, **settings):
    """Points of R@1 under the cosine, mean of both directions."""
    return (before(name) - r1(load(name), *banks, **settings)).mean()


def noise(data, seed, n=800):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, n, data.text.shape[1])).astype("f4")


def ten(data, seed):
    few = np.random.default_rng(seed).choice(len(data.text_bank), 10, replace=False)
    return data.text_bank[few], data.video_bank[few]


JUNK = {
    "random vectors": noise,
    "ten items": ten,
    "one item 500 times": lambda data, _: (
        np.repeat(bank[:1], 500, axis=0) for bank in (data.text_bank, data.video_bank)
    ),
    "videos for texts, texts for videos": lambda data, _: (data.video_bank, data.text_bank),
    "another set": lambda _, other: (load(other).text_bank, load(other).video_bank),
}


@pytest.mark.parametrize(
    ("name", "kind", "which"),
    [
        *((name, "random vectors", 0) for name in ALL),
        *((name, "random vectors", 1) for name in SMALL),
        *((name, "ten items", seed) for name in ALL for seed in range(3)),
        *((name, "one item 500 times", 0) for name in ALL),
        *((name, "videos for texts, texts for videos", 0) for name in SMALL),
        *((a, "another set", b) for space in SAME_SPACE for a in space for b in space if a != b),
    ],
)
def test_a_bank_of_junk_costs_no_more_than_a_point(name, kind, which):
    assert lost(name, *JUNK[kind](load(name), which)) <= 1


# --- a gallery bank ----------------------------------------------------------------------

FEW = ("demo", "coco_clipB16_split", "flickr8k_tinyclip_split")


@pytest.mark.parametrize("name", FEW)
def test_the_other_side_s_bank_as_gallery_bank_loses_nothing(name):
    """As it is meant: mean R@1 of both directions, against the cosine."""
    data = load(name)
    found = corrected(data.text, data.video, data.text_bank, gallery_bank=data.video_bank)
    other = corrected(data.video, data.text, data.video_bank, gallery_bank=data.text_bank)
    sides = (found, data.truth), (other, data.truth.T)
    assert np.mean([place(*side).metric("R@1") for side in sides]) >= before(name).mean() + 1


@pytest.mark.parametrize("name", FEW)
def test_a_gallery_bank_of_random_vectors_costs_no_more_than_a_point(name):
    """Beside the queries' own bank."""
    data = load(name)
    assert lost(name, data.text_bank, data.video_bank, gallery_bank=noise(data, 0)[0]) <= 1
