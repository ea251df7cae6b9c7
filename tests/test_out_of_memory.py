"""Where a GPU's memory runs out, blocks become smaller and what was stored is recomputed.

No GPU is needed: the sources below raise what torch would.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import hubby_scores

from emcl_plugin import NCL, rerank, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.ncl import fit_biases
from emcl_plugin.ncl.block_kernel import BlockKernel
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.scores import Dense, FeaturePair, OutOfMemory
from emcl_plugin.scores.reductions import moments

SCORES = hubby_scores(70, 50, seed=0)


class Tight(Dense):
    """Has memory for so many rows at a time."""

    def __init__(self, *args, most, **kwargs):
        super().__init__(*args, **kwargs)
        self.most, self.asked = most, []

    def rows(self, start, stop):
        self.asked.append((start, stop))
        if stop - start > self.most:
            raise OutOfMemory("CUDA out of memory")
        return super().rows(start, stop)


@pytest.mark.parametrize("most", [1, 2, 16, 69, 70])
def test_blocks_are_halved_and_cover_every_row_once(most, caplog):
    caplog.set_level("INFO", "emcl_plugin")
    source = Tight(SCORES, dtype=torch.float64, most=most)
    seen = [(start, stop) for start, stop, _ in source.blocks()]
    assert [i for start, stop in seen for i in range(start, stop)] == list(range(70))
    assert min(source.block_rows, 70) <= most < 2 * source.block_rows + 1
    assert source.asked[0] == (0, 70)
    assert ("rows per block from now on" in caplog.text) == (most < 70)
    assert (len(source.asked) == 1) == (most == 70)
    assert_array_equal(source.dense(), SCORES)


def test_where_not_even_a_row_fits_the_error_is_torchs():
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        Tight(SCORES, most=0).dense()


@pytest.mark.parametrize("most", [3, 20])
@pytest.mark.parametrize("solver", ["stored", "blocks"])
def test_results_are_those_of_enough_memory(most, solver):
    tight = Tight(SCORES, dtype=torch.float64, most=most)
    whole = Dense(SCORES, dtype=torch.float64)
    assert_allclose(moments(tight).std, moments(whole).std, rtol=1e-12)
    assert torch.equal(nearest(tight).video_of_text, nearest(whole).video_of_text)
    found, wanted = (fit_biases(source, NCL(solver=solver)) for source in (tight, whole))
    assert (found.solver, found.iterations) == (solver, wanted.iterations)
    assert_allclose(found.video, wanted.video, rtol=0, atol=1e-12)


def test_a_round_that_does_not_fit_is_done_again_in_smaller_blocks(monkeypatch):
    """Where not the scores but what is made of them is too large."""
    product = torch.mv

    def tight(x, y):
        if x.shape[1] > 9:  # texts
            raise OutOfMemory("CUDA out of memory")
        return product(x, y)

    wanted = fit_biases(Dense(SCORES, dtype=torch.float64), NCL(solver="blocks"))
    monkeypatch.setattr(torch, "mv", tight)
    source = Dense(SCORES, dtype=torch.float64)
    found = fit_biases(source, NCL(solver="blocks"))
    assert source.block_rows == 9
    assert_allclose(found.video, wanted.video, rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", ["__init__", "_absorb"])
def test_a_kernel_that_does_not_fit_is_recomputed(monkeypatch, caplog, where):
    wanted = fit_biases(Dense(SCORES), NCL(solver="blocks"))

    def fails(self, source, *_):
        getattr(self, "source", source).block_rows = 1  # as far as halving went
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(StoredKernel, where, fails)
    with caplog.at_level("INFO", "emcl_plugin"):
        found = fit_biases(Dense(SCORES), NCL(solver="stored"))
    assert "scores are recomputed instead of stored" in caplog.text
    assert found.solver == "blocks"
    assert torch.equal(found.video, wanted.video)


def test_scores_that_cannot_be_stored_are_recomputed(monkeypatch):
    feats = tuple(np.float32(x[:200]) for x in (load_demo().text, load_demo().video))
    wanted = rerank(None, feats)
    asked = []

    def fails(self):
        asked.append(self.block_rows)
        self.block_rows = 1
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(FeaturePair, "dense", fails)
    monkeypatch.setattr(StoredKernel, "__init__", lambda _, source, *__: fails(source))
    sizes = set()
    blocks = BlockKernel._sweep
    monkeypatch.setattr(
        BlockKernel, "_sweep", lambda k, *g: sizes.add(k.source.block_rows) or blocks(k, *g)
    )
    found = rescore(None, feats)
    assert found.biases.solver == "blocks"
    assert sizes == set(asked)
    assert sizes != {1}
    assert_allclose(found.scores, wanted, rtol=0, atol=1e-5)


def test_decisions_are_logged_and_nothing_is_printed(caplog, capfd):
    root = logging.getLogger("emcl_plugin")
    assert [type(handler) for handler in root.handlers] == [logging.NullHandler]
    with caplog.at_level("DEBUG", root.name):
        found = rescore(SCORES)
    logged = [(record.name.partition(".")[2], record.getMessage()) for record in caplog.records]
    assert logged[0][0] == "pipeline.job"
    assert logged[0][1].startswith("70 x 50 scores, stored kernel")
    assert ("ncl.kernels", "NCL solver: stored (auto was requested)") in logged
    assert logged[-1] == ("pipeline.job", found.guard.reason)
    assert capfd.readouterr() == ("", "")
