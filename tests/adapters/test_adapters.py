"""Each adapter gives the similarity that its retriever computes, and the right pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from producers import Items, clip4clip, drl, mmt, padded, weight_networks

from emcl_plugin.adapters import (
    DBSN,
    DRL,
    MMT,
    XCLIP,
    CLIP2Video,
    CLIP4Clip,
    CollaborativeExperts,
    EMCLNet,
    HuggingFace,
    OpenCLIP,
    SentenceTransformers,
    read,
)
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.scores import Dense
from emcl_plugin.scores.tokens import Tokens

WITHIN = {"rtol": 0, "atol": 1e-5}


def pairs(adapter):
    return adapter.ground_truth.item.tolist()


# --- CLIP4Clip --------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_clip4clips_features_make_its_scores(many, scale):
    items = Items(many=many)
    text, rows = clip4clip(items, scale=scale)
    given = {"text": text.numpy(), "video": items.video.numpy()}
    given |= {"video_mask": items.video_mask.numpy(), "cut_off_points": items.cut_off_points}
    of_features, both = CLIP4Clip(**given), CLIP4Clip(**given, sim=rows)
    expected = np.concatenate(rows) / scale
    assert_allclose(of_features.scores(), expected, **WITHIN)
    assert_allclose(both.scores(), expected, **WITHIN)
    assert both.similarity is None  # the features say it all
    assert (f"times {scale:g}" in both.notes[-1]) == (scale != 1)
    assert pairs(of_features) == pairs(both) == items.index.tolist()


def test_batches_tensors_and_vectors_without_frames():
    items = Items()
    text, rows = clip4clip(items)
    whole = CLIP4Clip(text=text, video=items.video, video_mask=items.video_mask)
    parts = CLIP4Clip(
        text=list(torch.split(text, 3)),
        video=list(torch.split(items.video, 3)),
        video_mask=list(torch.split(items.video_mask[:, None], 3)),  # (batch, 1, frames)
    )
    assert isinstance(whole.scores(), torch.Tensor)
    assert_array_equal(parts.scores(), whole.scores())
    pooled = CLIP4Clip(text=text[:, 0], video=whole.features[1])
    assert_allclose(pooled.scores(), np.concatenate(rows) / 100, **WITHIN)


def test_other_headers_keep_their_own_scores_and_features_serve_emcl():
    items = Items()
    text, rows = clip4clip(items)
    sim = np.concatenate(rows) + np.random.default_rng(0).standard_normal((17, 17))
    run = CLIP4Clip(text=text.numpy(), video=items.video.numpy(), sim=sim, logit_scale=100.0)
    assert_allclose(run.scores(), sim / 100, **WITHIN)
    assert run.rescore().emcl is not None
    assert "divided out" in run.notes[1]


@pytest.mark.parametrize("kind", [CLIP4Clip, CLIP2Video, XCLIP, EMCLNet])
def test_a_padded_matrix_is_read_back(kind):
    items = Items(many=True)
    flat = np.concatenate(clip4clip(items)[1])
    run = kind(sim=padded(flat, items.counts))
    assert_array_equal(run.scores(), flat)
    assert pairs(run) == items.index.tolist()
    assert "may include a logit scale" in run.notes[-1]
    assert_array_equal(kind(sim=flat, cut_off_points=items.cut_off_points).scores(), flat)


def test_clip2videos_texts_are_pairs_of_global_and_hidden():
    items = Items()
    text, rows = clip4clip(items)
    batches = [(part, torch.zeros(len(part), 6, 12)) for part in torch.split(text, 4)]
    whole = text, torch.zeros(len(text), 6, 12)
    for given in (batches, whole):
        run = CLIP2Video(text=given, video=items.video, video_mask=items.video_mask)
        assert_allclose(run.scores(), np.concatenate(rows) / 100, **WITHIN)


def test_a_videos_rank_is_that_of_its_best_caption():
    items = Items(many=True)
    flat = np.concatenate(clip4clip(items)[1])
    run = CLIP4Clip(sim=flat, cut_off_points=items.cut_off_points)
    (_, place), (_, back) = evaluate(Dense(run.scores()), run.ground_truth).directions
    assert place.ranks().tolist() == [
        (flat[i] > flat[i, j]).sum() + 1 for i, j in enumerate(items.index)
    ]
    assert back.ranks().tolist() == [
        (flat[:, j] > flat[items.index == j, j].max()).sum() + 1 for j in range(items.videos)
    ]


# --- DRL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("interaction", ["wti", "ti", "dp"])
def test_drls_tokens_make_its_scores(interaction, many):
    items = Items(many=many, videos=40)
    nets = weight_networks(items.dimension)
    expected = np.concatenate(drl(items, interaction, nets))
    given = {"text": items.text, "video": items.video, "cut_off_points": items.cut_off_points}
    masks = {"text_mask": items.text_mask[:, None], "video_mask": items.video_mask}
    if interaction == "wti":
        masks["text_weights"] = nets[0](items.text).squeeze(2)
        masks["video_weights"] = nets[1](items.video).squeeze(2)
    run = DRL(interaction=interaction, **given, **masks)
    assert_allclose(run.scores(), expected, **WITHIN)
    assert run.features[0].shape == (len(items.index), 12)
    assert run.rescore().emcl is not None
    assert pairs(run) == items.index.tolist()
    assert_array_equal(DRL(sim=expected, interaction="xti", **given).scores(), expected)


def test_the_interaction_that_is_assumed_is_said():
    items = Items()
    run = DRL(text=items.text.numpy(), video=items.video.numpy())
    assert isinstance(run.similarity, Tokens)
    assert '"ti"' in run.notes[0]


# --- MMT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(), ((3, 1), (9, 2))])
def test_mmts_experts_make_its_scores(missing):
    given, sims = mmt(missing=missing)
    kept = given["query_masks"].ravel() != 0
    mask = given["query_masks"]
    made = MMT(**given), *(MMT(sims=x, query_masks=mask) for x in (sims, torch.tensor(sims)))
    for run in made:
        assert_allclose(run.scores(), sims[kept], **WITHIN)
        assert pairs(run) == np.repeat(np.arange(14), 5)[kept].tolist()
        assert any("dropped" in note for note in run.notes) == bool(missing)
    assert MMT(**given).rescore().emcl is not None


def test_captions_may_be_flat_and_the_mask_left_out():
    given, sims = mmt(missing=())
    flat = {
        **given,
        "text_embds": {k: x.reshape(-1, 8).numpy() for k, x in given["text_embds"].items()},
        "vid_embds": {k: x.numpy() for k, x in given["vid_embds"].items()},
        "text_weights": given["text_weights"].reshape(-1, 3).numpy(),
        "vid_weights": given["vid_weights"].numpy(),
        "query_masks": None,
    }
    run = MMT(**flat)
    assert_allclose(run.scores(), sims, **WITHIN)
    assert "5 consecutive captions per video are assumed" in run.notes[0]


# --- orientation ------------------------------------------------------------------------------


def test_shape_decides_or_an_assumption_is_noted():
    items = Items(many=True)
    flat = np.concatenate(clip4clip(items)[1])
    points = items.cut_off_points
    assert_array_equal(CLIP4Clip(sim=flat.T, cut_off_points=points).scores(), flat)
    assert "transposed" in CLIP4Clip(sim=flat.T, cut_off_points=points).notes[0]
    square = flat[:17, :17]
    assert "assumed to be text x video" in CLIP4Clip(sim=square).notes[0]
    assert_array_equal(CLIP4Clip(sim=square, orientation="video-text").scores(), square.T)
    assert not any("assumed" in n for n in CLIP4Clip(sim=square, orientation="text-video").notes)
    with pytest.raises(EmclError, match="does not match"):
        CLIP4Clip(sim=flat.T, cut_off_points=points, orientation="text-video")


def test_a_square_dump_of_dbsn_needs_its_orientation():
    sim = np.random.default_rng(0).random((5, 5))
    with pytest.raises(EmclError, match="cannot determine"):
        DBSN(sims=sim)
    assert_array_equal(DBSN(sims=sim, orientation="video-text").scores(), sim.T)
    wide = np.random.default_rng(0).random((3, 6))
    assert_array_equal(DBSN(sims=wide).scores(), wide.T)
    assert "was transposed" in DBSN(sims=wide).notes[-1]


# --- two vectors ------------------------------------------------------------------------------


def unit(seed, count=6):
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_open_clips_index_is_the_ground_truth():
    run = OpenCLIP(texts_emb=[unit(0), unit(1)], images_emb=unit(2), texts_image_index=[5, 4] * 6)
    assert_allclose(run.scores(), np.concatenate([unit(0), unit(1)]) @ unit(2).T, **WITHIN)
    assert pairs(run) == [5, 4] * 6


@pytest.mark.parametrize("item", ["image_embeds", "video_embeds", "audio_embeds"])
def test_hugging_face_outputs_by_attribute_or_name(item):
    text, other = torch.tensor(unit(0)), torch.tensor(unit(1))
    outputs = {"text_embeds": text, item: other, "logits_per_text": 14.3 * text @ other.T}
    as_object = type("Output", (), outputs)()
    for given in (outputs, as_object):
        run = HuggingFace(given)
        assert_allclose(run.scores(), text @ other.T, **WITHIN)
        assert "times 14.3" in run.notes[-1]
    assert pairs(HuggingFace(outputs, text_to_item=[0] * 6)) == [0] * 6


def test_logits_that_are_no_cosine_are_kept():
    text, other = unit(0), unit(1)
    logits = 3 * text @ other.T + 1  # SigLIP's bias
    run = HuggingFace({"text_embeds": text, "image_embeds": other, "logits_per_text": logits})
    assert_allclose(run.scores(), logits, **WITHIN)


def test_texts_conditioned_on_videos_are_left_out():
    logits = np.random.default_rng(0).random((6, 6))
    outputs = {
        "text_embeds": np.ones((6, 6, 4)),
        "video_embeds": unit(1),
        "logits_per_text": logits,
    }
    run = HuggingFace(outputs)
    assert run.features is None
    assert "logits only" in run.notes[0]
    assert_array_equal(run.scores(), logits)


def test_sentence_transformers_relevant_documents():
    ids = {"query_ids": [f"q{i}" for i in range(6)], "corpus_ids": [f"d{i}" for i in range(6)]}
    right = {"q0": {"d3", "d1"}, "q4": ["d0"]}
    run = SentenceTransformers(queries=list(unit(0)), corpus=unit(1), relevant_docs=right, **ids)
    truth = run.ground_truth
    assert list(zip(truth.query, truth.item, strict=True)) == [(0, 1), (0, 3), (4, 0)]
    with pytest.raises(EmclError, match="not in the corpus"):
        SentenceTransformers(queries=unit(0), corpus=unit(1), relevant_docs={"q0": ["x"]}, **ids)
    with pytest.raises(EmclError, match="needs query_ids and corpus_ids"):
        SentenceTransformers(queries=unit(0), corpus=unit(1), relevant_docs=right)


# --- wrong input ------------------------------------------------------------------------------


TOKENS = {"text": np.ones((3, 2, 4)), "video": np.ones((3, 2, 4))}
SQUARE, VECTORS = np.ones((3, 3)), np.ones((3, 4))
EXPERTS, SIMS = mmt()
MASKS = [
    (np.ones((14, 4)), "does not match"),
    (np.ones((7, 10)), "does not match"),
    (np.ones(70), "not a mask|does not match"),
    (np.zeros((14, 5)), "not a mask of captions"),
]
WRONG = [
    (CLIP4Clip, {}, "neither scores nor features of clip4clip"),
    (CLIP4Clip, {"text": np.ones((3, 1, 4))}, "neither scores nor features"),
    (CLIP4Clip, {"sim": SQUARE, "cut_off_points": [2, 1, 3]}, "invalid cut-off points"),
    (CLIP4Clip, {"sim": SQUARE, "logit_scale": 0}, "one positive number"),
    (CLIP4Clip, {"sim": "x"}, "not an array"),
    (CLIP4Clip, {"sim": SQUARE, "orientation": "up"}, "unknown orientation"),
    (CLIP4Clip, TOKENS, "one vector per"),
    (CLIP4Clip, {**TOKENS, "text": VECTORS, "video_mask": VECTORS}, "video_mask does not match"),
    (CLIP4Clip, {"text": VECTORS, "video": np.ones(3)}, "video must hold frames"),
    (EMCLNet, {"sim": np.full((2, 2, 2), -np.inf)}, "padding of the matrix"),
    (EMCLNet, {"sim": np.ones((2, 2, 3))}, "not a padded matrix"),
    (DRL, {**TOKENS, "interaction": "x"}, "unknown"),
    (DRL, {**TOKENS, "text_weights": np.ones((3, 2))}, "one side only"),
    (MMT, {}, "neither scores nor experts"),
    (MMT, {"sims": np.ones((5, 3))}, "not a multiple of the videos"),
    (MMT, {**EXPERTS, "text_weights": np.ones(70)}, "text_weights must have two or three"),
    (MMT, {**EXPERTS, "vid_weights": None}, "some arrays of the experts are missing"),
    (MMT, {**EXPERTS, "experts": ["rgb", "audio"]}, "does not match text_embds"),
    (MMT, {**EXPERTS, "experts": ["rgb", "audio", "ocr"]}, "does not match text_embds"),
    (MMT, {**EXPERTS, "experts": ["rgb"] * 3}, "does not match text_embds"),
    *(
        (kind, {**given, "query_masks": mask}, words)
        for kind in (MMT, CollaborativeExperts)
        for given in (EXPERTS, {"sims": SIMS})
        for mask, words in MASKS
    ),
    (read, {"name": "vhs", "path": "x"}, "unknown adapter"),
    (
        SentenceTransformers,
        {"queries": unit(0), "corpus": unit(0), "query_ids": ["a"] * 6},
        "one unique id per row",
    ),
]


@pytest.mark.parametrize(("make", "given", "words"), WRONG)
def test_wrong_input_is_refused(make, given, words):
    with pytest.raises(EmclError, match=words):
        make(**given)
