"""A mixture of experts: the scores in blocks, and EMCL's map of every expert."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import extra_memory, plain_em_loop, plain_mixture, unit

from emcl_plugin import EMCL, rescore
from emcl_plugin.emcl import fit_subspaces, second_moments
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.ablation import permutation_check
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores import Features

NAMES = ("rgb", "audio", "face")


def experts(n_text=40, n_video=25, seed=0, *, dtype=np.float64, absent=0.3, same=5):
    """Captions near their videos, in three experts of different sizes; some videos lack some."""
    rng = np.random.default_rng(seed)
    text, video = {}, {}
    of = np.arange(n_text) % n_video
    for name, dimension in zip(NAMES, (8, 12, 5), strict=True):
        items = rng.standard_normal((n_video, dimension)) + same * rng.standard_normal(dimension)
        video[name] = unit(items).astype(dtype)
        text[name] = unit(items[of] + rng.standard_normal((n_text, dimension))).astype(dtype)
    text_weights = rng.dirichlet(np.ones(3), n_text).astype(dtype)
    video_weights = rng.dirichlet(np.ones(3), n_video) * (rng.random((n_video, 3)) > absent)
    return Experts(text, video, text_weights, video_weights.astype(dtype))


def plain(given):
    return plain_mixture(given.text, given.video, given.text_weights, given.video_weights)


def opened(given, memory=1 << 30):
    return given.open(dtype=torch.float64, device=torch.device("cpu"), memory=memory)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.integers(12, 30))
def test_scores_are_the_direct_formula_for_any_block_size(n_text, n_video, seed, log_memory):
    found = experts(n_text, n_video, seed)
    found.video_weights[0] = found.text_weights[:, 0].sum() > 0  # one video has all of them
    source = opened(found, 1 << log_memory)
    assert_allclose(source.dense(), plain(found), rtol=0, atol=1e-12)
    assert_allclose(source.T.dense(), plain(found).T, rtol=0, atol=1e-12)
    chosen = torch.tensor([n_text - 1, 0, 0])
    assert_allclose(source.take(chosen), plain(found)[chosen], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 1e-6), (np.float16, 1e-3)])
def test_lower_precision_and_tensors(dtype, within):
    found = experts(dtype=dtype)
    scores = rescore(found, emcl=None, ncl=None).scores
    assert scores.dtype == dtype
    assert_allclose(scores, plain(experts()), rtol=0, atol=3 * within)
    tensors = Experts(
        *({k: torch.from_numpy(x) for k, x in side.items()} for side in (found.text, found.video)),
        torch.from_numpy(found.text_weights),
        torch.from_numpy(found.video_weights),
    )
    same = rescore(tensors, emcl=None, ncl=None).scores
    assert isinstance(same, torch.Tensor)
    assert_array_equal(same, scores)


def test_a_pair_without_a_common_expert_scores_0():
    found = experts()
    found.video_weights[3] = 0
    scores = rescore(found, emcl=None, ncl=None).scores
    assert_array_equal(scores[:, 3], 0)


def test_an_expert_that_no_video_has_is_as_if_it_were_not_given():
    found = experts(absent=0)
    found.video_weights[:, 1] = 0
    less = Experts(
        {k: v for k, v in found.text.items() if k != "audio"},
        {k: v for k, v in found.video.items() if k != "audio"},
        found.text_weights[:, [0, 2]],
        found.video_weights[:, [0, 2]],
    )
    assert_array_equal(rescore(found).scores, rescore(less).scores)


# --- EMCL, one map per expert ---------------------------------------------------------------


def test_a_preset_is_the_released_loop_of_every_expert():
    """Each expert's rows stacked, X' = X + beta M Z^T, unit length; then the mixture. 1e-10."""
    found = experts(absent=0)
    config = EMCL.preset("mmt-lsmdc")
    signs = tuple(int(x) for x in np.random.default_rng(1).choice([-1, 1], config.subspaces))
    changed = {"text": {}, "video": {}}
    for name in NAMES:
        rows = np.concatenate([found.text[name], found.video[name]])
        out = plain_em_loop(
            rows, signs, config.subspaces, config.iterations, 1.0, config.beta, True
        )
        changed["text"][name], changed["video"][name] = np.split(out, [len(found.text[name])])
    expected = plain_mixture(
        changed["text"], changed["video"], found.text_weights, found.video_weights
    )
    fixed = replace(config, signs=signs)
    scores = rescore(found, emcl=fixed, ncl=None, guard=False).scores
    assert np.abs(expected - plain(found)).max() > 0.05
    assert_allclose(scores, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.7])
def test_a_strength_is_every_experts_map_applied_to_its_vectors(strength, renormalize):
    found = experts(seed=3)
    config = EMCL(strength=strength, renormalize=renormalize)
    changed = {"text": {}, "video": {}}
    for e, name in enumerate(NAMES):
        there = [found.text_weights[:, e] > 0, found.video_weights[:, e] > 0]
        sides = [torch.from_numpy(x[name]) for x in (found.text, found.video)]
        kept = [
            Features(x[torch.from_numpy(t)], metric="dot", dtype=torch.float64)
            for x, t in zip(sides, there, strict=True)
        ]
        found_map = fit_subspaces(second_moments(*kept), config)
        for side, x in zip(changed.values(), sides, strict=True):
            side[name] = found_map.apply(x, strength, renormalize=renormalize).numpy()
    expected = plain_mixture(
        changed["text"], changed["video"], found.text_weights, found.video_weights
    )
    scores = rescore(found, emcl=config, ncl=None, guard=False).scores
    assert_allclose(scores, expected, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_retrieval_gains():
    right = np.arange(240) % 120
    gains = []
    for seed in range(3):
        found = experts(240, 120, seed, same=1)
        after = rescore(found).scores.argmax(1) == right
        gains.append(after.mean() - (plain(found).argmax(1) == right).mean())
    assert min(gains) > 0.05


def test_items_order_does_not_matter():
    found = experts(60, 30)
    job = Job(found, None)
    assert permutation_check(job, job.correct()) == 0


@pytest.mark.slow
def test_memory_stays_within_the_budget():
    """7 experts at 5,000 x 5,000: their weights per pair alone would be 700 MB."""
    setup = (
        "import numpy as np\n"
        "from emcl_plugin import EMCL\n"
        "from emcl_plugin.pipeline.job import Job\n"
        "from emcl_plugin.pipeline.settings import Resources, Settings\n"
        "from emcl_plugin.emcl.experts import Experts\n"
        "rng = np.random.default_rng(0)\n"
        "side = lambda: {str(e): rng.standard_normal((5000, 8), np.float32) for e in range(7)}\n"
        "weights = [rng.random((5000, 7), np.float32) for _ in range(2)]\n"
        "small = {k: v[:50] for k, v in side().items()}\n"
        "Job(Experts(small, small, weights[0][:50], weights[1][:50]), None).correct()\n"
        "given = Experts(side(), side(), *weights)\n"
    )
    budget = 320 << 20
    work = (
        "settings = Settings(emcl=EMCL(strength=-0.5), guard=False)\n"
        f"job = Job(given, None, settings, Resources(memory={budget}))\n"
        "assert sum(len(x) for x in job.blocks(job.correct().source)) == 5000\n"
    )
    assert 0 < extra_memory(setup, work) <= budget


# --- wrong input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"video": {}}, "different experts"),
        ({"text_weights": np.ones((40, 2))}, "one column per expert"),
        ({"text_weights": np.ones((39, 3))}, "different numbers of items"),
        ({"video_weights": -np.ones((25, 3))}, "negative"),
        ({"video_weights": np.zeros((25, 3))}, "no expert is there"),
        ({"video_weights": np.full((25, 3), np.nan)}, "NaN"),
        ({"text": {n: np.ones((40, 3)) for n in NAMES}}, "different dimensions"),
        ({"text": {n: np.ones(40) for n in NAMES}}, "two dimensions"),
    ],
)
def test_wrong_input_is_refused(change, words):
    with pytest.raises(EmclError, match=words):
        rescore(replace(experts(), **change))


def test_experts_bring_their_own_features():
    with pytest.raises(EmclError, match="bring their own"):
        rescore(experts(), (np.ones((40, 3)), np.ones((25, 3))))


def test_nan_in_an_embedding_names_the_expert_and_the_row():
    found = experts()
    found.text["face"][7, 2] = np.nan
    with pytest.raises(EmclError, match=r"text\['face'\]\[7, 2\]"):
        rescore(found)
