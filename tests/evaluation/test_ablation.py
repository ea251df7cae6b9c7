"""A measured run: the ablation, the gain, and the check that order does not leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emcl_plugin import EMCL
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import fit_subspaces, second_moments
from emcl_plugin.evaluation.ablation import ablation, permutation_check
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.correct import correct
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Dense, Features

DEMO = load_demo()


def measured(**settings):
    job = Job(None, (DEMO.text, DEMO.video), Settings.of(**settings))
    return ablation(job, job.correct(), GroundTruth.diagonal(job.shape))


def test_the_ablation_has_every_part_in_order():
    found = measured()
    assert [row.name for row in found.rows] == ["input", "+EMCL", "+NCL", "emcl_plugin"]
    assert [row.protocol for row in found.rows] == ["none"] + ["transductive"] * 3
    gain = found.gains()["text -> video"]
    mine, theirs = (found.row(n).evaluation.text_to_video for n in ("emcl_plugin", "input"))
    assert gain.gain == pytest.approx(mine.metric("R@1") - theirs.metric("R@1"))
    assert gain.significant


@pytest.mark.slow
def test_parts_that_are_off_are_not_in_it():
    assert [row.name for row in measured(emcl=None).rows] == ["input", "+NCL", "emcl_plugin"]
    assert [row.name for row in measured(ncl=None).rows] == ["input", "+EMCL", "emcl_plugin"]
    sim = DEMO.text.astype("f4") @ DEMO.video.astype("f4").T
    job = Job(sim, None)
    rows = ablation(job, job.correct(), GroundTruth.diagonal(job.shape)).rows
    assert [row.name for row in rows] == ["input", "+NCL", "emcl_plugin"]


def test_normalisation_error_and_hubs_fall():
    for before, after in measured().hubness.values():
        assert after.normalization_error < 0.5 * before.normalization_error


def test_the_modality_gap_is_that_of_the_mapped_features():
    """Against the mapped vectors themselves; where EMCL is off nothing moves."""
    config = EMCL(strength=-1.0)
    before, after = measured(emcl=config, ncl=None, guard=False).gap
    sides = [Features(x) for x in (DEMO.text, DEMO.video)]
    subspaces = fit_subspaces(second_moments(*sides), config)
    mapped = [subspaces.apply(x.rows(0, x.shape[0]), -1.0, renormalize=True) for x in sides]
    assert after.means == pytest.approx(float((mapped[0].mean(0) - mapped[1].mean(0)).norm()))
    assert after.pairs == pytest.approx(float((mapped[0] - mapped[1]).norm(dim=1).mean()))
    assert measured(emcl=None).gap == (before, before)


@pytest.mark.slow
@pytest.mark.parametrize("with_truth", [True, False])
def test_order_does_not_leak(with_truth):
    sides = DEMO.text.astype("f8"), DEMO.video.astype("f8")
    truth = GroundTruth.diagonal((len(sides[0]), len(sides[1]))) if with_truth else None
    job = Job(None, sides)
    assert permutation_check(job, job.correct(), truth) == 0


@pytest.mark.parametrize("with_truth", [True, False])
def test_a_leak_of_the_order_is_found(monkeypatch, with_truth):
    """A method that favours the item at the same place must be caught."""

    def leaky(*given, **options):
        found = correct(*given, **options)
        scores = found.source.dense() + 10 * torch.eye(*given[0].shape)
        return replace(found, source=Dense(scores), after=nearest(Dense(scores)))

    monkeypatch.setattr("emcl_plugin.pipeline.job.correct", leaky)
    sim = np.random.default_rng(0).random((40, 40), "float32")
    truth = GroundTruth.from_index(np.roll(np.arange(40), 1), 40) if with_truth else None
    job = Job(sim, None)
    assert permutation_check(job, job.correct(), truth) > 0.3


def test_many_captions_and_order():
    index = np.repeat(np.arange(20), 3)
    rng = np.random.default_rng(1)
    video = rng.standard_normal((20, 8))
    text = video[index] + rng.standard_normal((60, 8)) + 2
    video[:4] += 2
    truth = GroundTruth.from_index(index, 20)
    job = Job(None, (text, video))
    found = job.correct()
    assert found.guard.applied
    assert permutation_check(job, found, truth) == 0
