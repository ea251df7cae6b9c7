"""Weighted token-wise interaction: the scores in blocks, and the residual EMCL on pooled tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import extra_memory, plain_interaction
from scipy.special import softmax

from emcl_plugin import EMCL, rescore
from emcl_plugin.emcl import fit_subspaces, second_moments
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.ablation import permutation_check
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores import Features
from emcl_plugin.scores.tokens import Tokens


def tokens(n_text=12, n_video=9, words=6, frames=4, dimension=8, seed=0, *, weighted=True):
    """Items of different numbers of tokens; what is padding holds numbers, too."""
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((n_video, frames, dimension)) + 2
    text = video[np.arange(n_text) % n_video][:, rng.integers(0, frames, words)]
    text = text + rng.standard_normal(text.shape)
    masks = [
        (np.arange(length) < rng.integers(1, length + 1, count)[:, None]).astype(np.int64)
        for count, length in ((n_text, words), (n_video, frames))
    ]
    weights = [rng.standard_normal(mask.shape) for mask in masks] if weighted else [None, None]
    return Tokens(text, video, *masks, *weights)


def plain(given):
    return plain_interaction(**vars(given))


def opened(given, memory=1 << 30):
    return given.open(dtype=torch.float64, device=torch.device("cpu"), memory=memory)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 5),
    st.booleans(),
    st.integers(10, 30),
)
def test_scores_are_the_direct_formula_for_any_block_size(
    n_text, n_video, words, frames, weighted, log_memory
):
    found = tokens(n_text, n_video, words, frames, seed=n_text, weighted=weighted)
    source = opened(found, 1 << log_memory)
    assert_allclose(source.dense(), plain(found), rtol=0, atol=1e-12)
    assert_allclose(source.T.dense(), plain(found).T, rtol=0, atol=1e-12)
    chosen = torch.tensor([n_text - 1, 0, 0])
    assert_allclose(source.take(chosen), plain(found)[chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 1e-6), (np.float16, 2e-3)])
def test_lower_precision_and_tensors(dtype, within):
    full = tokens()
    found = replace(full, text=full.text.astype(dtype), video=full.video.astype(dtype))
    scores = rescore(found, ncl=None).scores
    assert scores.dtype == dtype
    assert_allclose(scores, plain(full), rtol=0, atol=3 * within)
    tensors = Tokens(*(torch.from_numpy(x) for x in vars(found).values()))
    same = rescore(tensors, ncl=None).scores
    assert isinstance(same, torch.Tensor)
    assert_array_equal(same, scores)


def test_padding_takes_part_in_the_maxima_and_in_nothing_else():
    found = tokens()
    garbage = [x + 99 * (mask[:, :, None] == 0) for x, mask in (
        (found.text, found.text_mask), (found.video, found.video_mask))]  # fmt: skip
    assert_array_equal(
        opened(replace(found, text=garbage[0], video=garbage[1])).dense(), opened(found).dense()
    )
    opposed = Tokens(
        np.array([[[-1.0, 0.0]]]), np.array([[[1.0, 0.0], [1.0, 0.0]]]), np.ones((1, 1)),
        np.array([[1, 0]]),
    )  # fmt: skip
    assert opened(opposed).dense().tolist() == [[-0.5]]  # 0 of the padded frame, -1 of the other


@pytest.mark.parametrize("weighted", [True, False])
def test_pooled_is_the_weighted_sum_of_unit_tokens(weighted):
    found = tokens(weighted=weighted)
    for out, side in zip(found.pooled(), ("text", "video"), strict=True):
        x, mask = getattr(found, side), getattr(found, f"{side}_mask")
        raw = getattr(found, f"{side}_weights") if weighted else np.zeros(mask.shape)
        weights = softmax(np.where(mask != 0, raw, -np.inf), axis=1)
        expected = (weights[:, :, None] * x / np.linalg.norm(x, axis=2, keepdims=True)).sum(1)
        assert_allclose(out, expected, rtol=0, atol=1e-12)


def test_emcl_is_a_residual_in_the_scale_of_the_scores():
    """S' = S + scale T (2 beta W + beta^2 W^2) V^T on the pooled vectors; 1e-10."""
    found = tokens(40, 30, seed=2)
    scores = plain(found)
    sides = [Features(x, dtype=torch.float64) for x in found.pooled()]
    maps = fit_subspaces(second_moments(*sides), EMCL(strength=-0.6))
    W = maps.basis @ torch.diag(maps.factors(-0.6)) @ maps.basis.T
    text, video = (side.rows(0, side.shape[0]) for side in sides)
    own = (text @ video.T).numpy()
    scale = np.polyfit(own.ravel(), scores.ravel(), 1)[0]
    expected = scores + scale * (text @ (2 * W + W @ W) @ video.T).numpy()
    pair = found.pooled()
    out = rescore(found, pair, emcl=EMCL(strength=-0.6), ncl=None, guard=False).scores
    assert np.abs(expected - scores).max() > 0.05
    assert_allclose(out, expected, rtol=0, atol=1e-10)


def test_items_order_does_not_matter():
    found = tokens(40, 30)
    job = Job(found, found.pooled())
    assert permutation_check(job, job.correct()) == 0


@pytest.mark.slow
def test_memory_stays_within_the_budget():
    """2,000 x 2,000 with 32 x 12 tokens: their products alone would be 6 GB."""
    setup = (
        "import numpy as np\n"
        "from emcl_plugin.pipeline.job import Job\n"
        "from emcl_plugin.pipeline.settings import Resources\n"
        "from emcl_plugin.scores.tokens import Tokens\n"
        "rng = np.random.default_rng(0)\n"
        "make = lambda n: Tokens(rng.standard_normal((n, 32, 16), np.float32),\n"
        "    rng.standard_normal((n, 12, 16), np.float32), np.ones((n, 32)), np.ones((n, 12)))\n"
        "Job(make(40), None).correct()\n"
        "given = make(2000)\n"
    )
    budget = 128 << 20
    work = (
        f"job = Job(given, None, resources=Resources(memory={budget}))\n"
        "assert sum(len(x) for x in job.blocks(job.correct().source)) == 2000\n"
    )
    assert 0 < extra_memory(setup, work) <= budget


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": np.ones((12, 8))}, "no tokens"),
        ({"video": np.ones((9, 4, 7))}, "different dimensions"),
        ({"text_mask": np.ones((12, 5))}, "text_mask does not fit"),
        ({"video_weights": np.ones((9, 3))}, "video_weights does not fit"),
        ({"video_mask": np.zeros((9, 4))}, r"video_mask\[0\] is all 0"),
        ({"text": np.zeros((12, 6, 8))}, r"text\[0, 0\]"),
        ({"video": np.full((9, 4, 8), np.nan)}, "NaN"),
        ({"text_weights": np.full((12, 6), np.nan)}, "text_weights holds NaN"),
    ],
)
def test_wrong_input_is_refused(change, words):
    with pytest.raises(EmclError, match=words):
        rescore(replace(tokens(), **change))
