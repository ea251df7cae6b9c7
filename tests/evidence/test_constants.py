"""Constants of the decisions, by what they do and in plain numbers: a changed one fails here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from oracles import plain_agreement, plain_ncl, plain_ramp
from prior_data import context, found, small

from emcl_plugin import EMCL, NCL
from emcl_plugin.evidence.guard import Evidence
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.evidence.near_duplicates import weights
from emcl_plugin.evidence.prior import earned_biases
from emcl_plugin.ncl.sinkhorn import Without
from emcl_plugin.scores import Dense, Features

F64 = torch.float64


@pytest.mark.parametrize(("q", "h"), [(0.39, 0), (0.42, 0.2), (0.48, 0.8), (0.51, 1)])
def test_h_rises_from_0_at_a_q_of_0_4_to_1_at_0_5(q, h):
    scores = small(0).scores
    probes, source, rest = context(scores, config=NCL())
    prior = earned_biases(
        source, NCL(), probes, found(source, probes, (1e3, 1e3 * q)), "auto", *rest
    )[1]
    assert (prior.companions < 0.8, 0.2 < prior.queries / 80 <= 1) == (True, True)
    assert_allclose(prior.hubs, h, atol=1e-9)
    both = plain_ramp(prior.evenness, 0.5, 0.85)
    both += plain_ramp(prior.evenness - 0.35 - 0.65 * prior.paired, -0.3, -0.05)
    assert_allclose(prior.uniform, both / 2, rtol=1e-12)
    assert 0 < prior.uniform < 1


@pytest.mark.parametrize(("texts", "few", "shared"), [
    (4, 0.25, 0), (16, 1, 0), (80, 1, 0), (90, 1, 0.25), (110, 1, 0.75), (121, 1, 1),
])  # fmt: skip
def test_h_falls_with_few_and_with_several_queries_per_video(texts, few, shared):
    """80 videos: k is read up to 1 per video, from 1.5 on the input's pairs are, 0.3 to 0.5."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((texts, 80)) + 0.7 * rng.standard_normal(80)
    probes, source, rest = context(scores, config=NCL())
    seen = found(source, probes, (10, 9))
    prior = earned_biases(source, NCL(), probes, seen, "auto", *rest)[1]
    alone = 1 - plain_ramp(prior.companions, 0.8, 1.2)
    weak = 1 - plain_ramp(plain_agreement(scores, np.ones(texts)), 0.3, 0.5)
    assert_allclose(prior.hubs, few * ((1 - shared) * alone + shared * weak), atol=1e-9)
    if shared == 1:
        assert 0 < weak < 1


def test_the_gentle_run_has_0_4_standard_deviations_and_a_rho_of_0_65():
    scores = small(0).scores
    g = plain_ncl(scores, 0.4 * scores.std(), rho=0.65)[1]
    found = context(scores)[0].gentle
    assert_allclose(found.video, 0.4 * scores.std() * g, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("z", "strength"), [(0.9, 0), (1.25, 0.25), (1.75, 0.75), (2.1, 1)])
def test_the_guard_applies_nothing_up_to_1_standard_error_and_all_from_2(z, strength):
    assert_allclose(Evidence(z**2, 0.0).strength, strength, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("roundings", "tied"), [(14, True), (18, False)])
def test_scores_within_16_roundings_of_the_best_are_tied(roundings, tied, dtype):
    """Of a text and of a video, whether the tie is on the rows' or on the columns' side."""
    near = 1 - roundings * torch.finfo(dtype).eps
    scores = torch.tensor([[1.0, 0.0], [near, -1.0]], dtype=dtype)
    assert nearest(Dense(scores, dtype=dtype)).in_pairs()[0].tolist() == [True, tied]
    assert nearest(Dense(scores.T, dtype=dtype)).in_pairs()[1].tolist() == [True, tied]


def test_the_slack_grows_with_what_was_added_to_the_scores():
    scores = torch.tensor([[1.0, 0.0], [1 - 30 * torch.finfo(F64).eps, -1.0]], dtype=F64)
    zeros = torch.zeros(2, dtype=F64)
    added = Dense(scores - 1, dtype=F64).biased(zeros + 1, zeros)
    assert nearest(Dense(scores, dtype=F64)).in_pairs()[0].tolist() == [True, False]
    assert nearest(added).in_pairs()[0].tolist() == [True, True]


@pytest.mark.parametrize(("share", "left"), [(0.75, 0.25), (1 - 2e-5, 2e-5), (1.0, 1e-5)])
def test_a_column_keeps_at_least_a_hundred_thousandth_of_its_sum(share, left):
    video, exponent = torch.tensor([0]), torch.tensor([share], dtype=F64).log()
    found = Without(video, exponent)(torch.zeros(1, dtype=F64), torch.zeros(2, dtype=F64))
    assert_allclose(found.exp(), [left, 1], rtol=1e-9)


def test_a_text_at_a_hundredth_of_the_mean_distance_counts_by_1_over_e():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 8))
    x = np.stack([one, one, other])
    mean = ((one - other) ** 2).sum() / 2  # of two videos with one text each, counted once
    x[1, 0] += np.sqrt(0.01 * mean)
    found = weights(Features(x, dtype=F64, metric="dot"), torch.tensor([0, 0, 1]), memory=1 << 20)
    assert_allclose(found[:2], 1 / (1 + np.exp(-1)), rtol=0.02)


def test_the_defaults_are_the_documented_ones():
    ncl, emcl = NCL(), EMCL()
    assert (ncl.temperature_std, ncl.iterations, ncl.tolerance, ncl.rho) == (0.15, 200, 0.1, 1)
    assert (emcl.subspaces, emcl.iterations, emcl.sigma, emcl.batch) == (32, 9, 0.3, 128)
    assert emcl.strengths == (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
