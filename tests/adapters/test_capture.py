"""Capturing a retriever's own evaluation: what it computed is re-scored, and it stays as it was."""

from __future__ import annotations

import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from producers import Items, batched, clip4clip, drl, mmt, padded, weight_networks

from emcl_plugin import rescore
from emcl_plugin.adapters import capture, read
from emcl_plugin.errors import EmclError

EVALUATION = """
def _run_on_single_gpu(model, *parts):
    return model.blocks(*parts)

def compute_metrics(sim):
    measured.append(sim)

def tensor_text_to_video_metrics(sim):
    measured.append(sim)

def eval_epoch(model, parts, counts=None, threads=None):
    if threads:
        rows = threads(_run_on_single_gpu, model, parts)
    else:
        rows = _run_on_single_gpu(model, *parts)
    sim = join(rows)
    if counts is None:
        compute_metrics(sim)
        compute_metrics(sim.T)
    else:
        sim = pad(sim, counts)
        tensor_text_to_video_metrics(sim)
        compute_metrics(sim.max(1).T)
    return sim
"""

TRAINING = """
class Trainer:
    def __init__(self, embeddings):
        self.embeddings = embeddings

    def _get_embeddings(self, loader):
        return self.embeddings

    def _valid_epoch(self):
        found = self._get_embeddings(None)
        return sharded_cross_view_inner_product(
            vid_embds=found["vid_embds"], text_embds=found["text_embds"],
            vid_weights=found["vid_weights"], text_weights=found["text_weights"],
            subspaces=list(found["vid_embds"]), merge_caption_similiarities="indep")
"""


@pytest.fixture
def module(monkeypatch):
    """A loaded module of an evaluation, written by ``source``."""

    def load(source, **names):
        made = types.ModuleType("somebodys_evaluation")
        vars(made).update(names, measured=[], join=np.concatenate, pad=padded)
        exec(source, vars(made))
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return made

    return load


class CLIP4ClipModel:
    """Scores of batches, times exp(logit_scale)."""

    sim_header = "meanP"

    def __init__(self, items, temporal=0.0):
        self.clip = types.SimpleNamespace(logit_scale=torch.tensor(np.log(50.0)))
        self.rows = clip4clip(items, scale=50.0)[1]
        if temporal:
            noise = np.random.default_rng(0).standard_normal(np.concatenate(self.rows).shape)
            ends = np.cumsum([len(row) for row in self.rows])[:-1]
            self.rows = np.split(np.concatenate(self.rows) + temporal * noise, ends)

    def blocks(self, *_):
        return self.rows


def clip4clip_parts(items):
    """Masks and features, batch by batch, as CLIP4Clip caches them."""
    texts = [(torch.ones(len(part), 6), None) for part in batched(items.text)]
    videos = [(mask[:, None],) for mask in batched(items.video_mask)]
    return texts, videos, batched(items.text[:, :1]), batched(items.video)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("temporal", [0.0, 9.0])
def test_clip4clips_matrix_and_features(module, many, temporal):
    items = Items(many=many, videos=30)
    home, model = module(EVALUATION), CLIP4ClipModel(items, temporal)
    before, counts = dict(vars(home)), items.counts if many else None
    with capture("clip4clip") as run:
        returned = home.eval_epoch(model, clip4clip_parts(items), counts)
    assert vars(home) == before
    sim = np.concatenate(model.rows)
    assert_array_equal(returned, padded(sim, items.counts) if many else sim)
    assert_allclose(run.adapter.scores(), sim / 50, rtol=0, atol=1e-5)
    assert (run.adapter.similarity is None) == (temporal == 0)
    assert run.adapter.ground_truth.item.tolist() == items.index.tolist()
    direct = rescore(run.adapter.similarity, run.adapter.features)
    assert_array_equal(run.result.scores, direct.scores)
    assert run.result.emcl is not None
    assert "before" in run.summary()
    assert "transductive" in run.summary()


@pytest.mark.parametrize("name", ["clip2video", "x-clip", "emcl-net"])
def test_its_kin(module, name):
    items = Items(videos=20)
    home, model = module(EVALUATION), CLIP4ClipModel(items, temporal=3.0)
    texts, videos, words, frames = clip4clip_parts(items)
    parts = {
        "clip2video": (texts, videos, [(part, None) for part in words], frames),
        "x-clip": (texts, videos, words, [torch.zeros(1)], frames),
        "emcl-net": (None, None, None, None, None),
    }[name]
    with capture(name) as run:
        home.eval_epoch(model, parts)
    scale = 1 if name == "emcl-net" else 50
    assert_allclose(run.adapter.scores(), np.concatenate(model.rows) / scale, rtol=0, atol=1e-5)
    assert (run.adapter.features is None) == (name == "emcl-net")


def test_several_gpus_evaluate_parts_of_the_texts(module):
    items = Items(videos=40)
    home, model = module(EVALUATION), CLIP4ClipModel(items)
    texts, videos, words, frames = clip4clip_parts(items)
    half = len(texts) // 2
    rows = model.rows
    model.blocks = lambda texts, *_: rows[:half] if texts is first[0] else rows[half:]
    first = texts[:half], videos, words[:half], frames
    second = texts[half:], videos, words[half:], frames

    def threads(function, model, _):
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(function, model, *part) for part in (first, second)]
        return [row for part in found for row in part.result()]

    with capture("clip4clip") as run:
        home.eval_epoch(model, None, threads=threads)
    shape = run.adapter.shape
    assert shape == (40, 40)
    found = np.sort(run.adapter.scores().sum(1))
    assert_allclose(found, np.sort(np.concatenate(rows).sum(1) / 50), rtol=0, atol=1e-4)


@pytest.mark.parametrize("interaction", ["wti", "ti", "dp", "xti"])
def test_drls_tokens_and_weights(module, interaction):
    items = Items(videos=40, many=True)
    nets = weight_networks(items.dimension)
    rows = drl(items, "ti" if interaction == "xti" else interaction, nets)
    model = types.SimpleNamespace(
        interaction=interaction, blocks=lambda *_: rows, text_weight_fc=nets[0],
        video_weight_fc=nets[1],
    )  # fmt: skip
    home = module(EVALUATION)
    parts = items.text_mask, items.video_mask, items.text, items.video
    with capture("drl") as run:
        home.eval_epoch(model, parts, items.counts)
    assert_allclose(run.adapter.scores(), np.concatenate(rows), rtol=0, atol=1e-5)
    assert run.adapter.ground_truth.item.tolist() == items.index.tolist()
    assert run.result.emcl is not None


def test_clip4clip_without_vectors_leaves_its_matrix(module):
    """The header "tightTransf" looks at a text and a video together."""
    items = Items(videos=20)
    home, model = module(EVALUATION), CLIP4ClipModel(items)
    model.sim_header = "tightTransf"
    with capture("clip4clip") as run:
        home.eval_epoch(model, clip4clip_parts(items))
    assert run.adapter.features is None
    assert_allclose(run.adapter.scores(), np.concatenate(model.rows) / 50, rtol=0, atol=1e-5)


def test_mmts_experts_and_mask(module, tmp_path):
    given, sims = mmt()
    home = module(TRAINING, sharded_cross_view_inner_product=lambda **_: torch.tensor(sims))
    before, method = dict(vars(home)), vars(home.Trainer)["_get_embeddings"]
    given["query_masks"] = torch.tensor(given["query_masks"])
    trainer = home.Trainer(given)
    with capture("mmt") as run:
        assert_array_equal(trainer._valid_epoch(), sims)
        trainer._valid_epoch()
    assert vars(home) == before
    assert vars(home.Trainer)["_get_embeddings"] is method
    kept = given["query_masks"].numpy().ravel() != 0
    assert len(run.results) == 2
    assert_allclose(run.adapter.scores(), sims[kept], rtol=0, atol=1e-5)
    run.save(tmp_path / "run.npz")
    assert_array_equal(read("mmt", tmp_path / "run.npz").scores(), run.adapter.scores())


def test_mmts_experts_without_a_trainer_who_has_the_mask(module):
    given, sims = mmt(missing=())
    del given["query_masks"]
    home = module("", sharded_cross_view_inner_product=lambda **_: torch.tensor(sims))
    with capture("mmt", module=home) as run:
        home.sharded_cross_view_inner_product(**given)
    assert_allclose(run.adapter.scores(), sims, rtol=0, atol=1e-5)
    assert "5 consecutive captions per video are assumed" in run.adapter.notes[0]


def test_everything_is_put_back_after_an_exception(module):
    home = module(EVALUATION)
    before = dict(vars(home))
    model = types.SimpleNamespace(blocks=lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), capture("drl") as run:
        home.eval_epoch(model, ())
    assert vars(home) == before
    assert run.results == []


def test_settings_reach_rescore(module):
    items = Items(videos=20)
    home, model = module(EVALUATION), CLIP4ClipModel(items)
    with capture("clip4clip", module=home, emcl=None, ncl=None) as run:
        home.eval_epoch(model, clip4clip_parts(items))
    assert_array_equal(run.result.scores, run.adapter.scores())


def test_what_cannot_be_captured_is_said(module):
    with pytest.raises(EmclError, match="cannot capture"), capture("vhs"):
        pass
    with pytest.raises(EmclError, match="import it first"), capture("mmt"):
        pass
    module(EVALUATION)
    with pytest.raises(EmclError, match="nothing was captured"), capture("drl") as run:
        pass
    with pytest.raises(EmclError, match="nothing was captured"):
        _ = run.result
