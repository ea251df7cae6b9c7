"""`--from` and `--orientation` on the command line: what a retriever wrote, the right way round."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from bank_files import facts_of, invoke
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin import rerank, rescore
from emcl_plugin.adapters import read
from emcl_plugin.data.demo import load_demo

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from producers import Items, clip4clip, drl, mmt


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_mmts_saved_matrix():
    given, sims = mmt()
    np.save("MSRVTT-test-sims.npy", {"sims": sims, "query_masks": given["query_masks"]})
    found = invoke("--from", "mmt", "MSRVTT-test-sims.npy", "--trust-pickle", "--json")
    report = facts_of(found)
    assert report["notes"] == ["3 missing captions were dropped"]
    assert "Note: 3 missing captions" in found.words
    assert report["measured"]["ablation"][0]["metrics"]["text -> video"]["queries"] == 67
    kept = sims[given["query_masks"].ravel() != 0]
    assert_array_equal(np.load("reranked.npy"), rerank(np.ascontiguousarray(kept)))


@pytest.mark.slow
def test_mmts_experts_are_one_map_each():
    given, _ = mmt()
    arrays = {k: x for k, x in given.items() if not isinstance(x, dict)}
    for side in ("text_embds", "vid_embds"):
        arrays |= {f"{side}.{name}": x for name, x in given[side].items()}
    np.savez("run.npz", **{k: np.asarray(x) for k, x in arrays.items()})
    invoke("--from", "mmt", "run.npz", "--report", "out.html")
    adapter = read("mmt", "run.npz")
    assert_array_equal(np.load("reranked.npy"), rescore(adapter.similarity).scores)
    assert "distinct subspaces" in Path("out.html").read_text()


@pytest.mark.parametrize("name", ["clip4clip", "drl"])
def test_many_captions_are_measured_and_ranked(name):
    items = Items(many=True, videos=30)
    if name == "clip4clip":
        text, rows = clip4clip(items)
    else:
        text, rows = items.text, drl(items, "ti")
    np.savez(
        "run.npz", text=text, video=items.video, video_mask=items.video_mask,
        cut_off_points=items.cut_off_points,
        **({} if name == "clip4clip" else {"text_mask": items.text_mask}),
    )  # fmt: skip
    invoke("--from", name, "run.npz", "--emcl", "off", "--ncl", "off")
    assert_allclose(
        np.load("reranked.npy") * (100 if name == "clip4clip" else 1), np.concatenate(rows),
        rtol=0, atol=1e-3,
    )  # fmt: skip
    found = invoke("--from", name, "run.npz", "--run", "best.csv", "--top", "3", "--check-leak")
    assert len(Path("best.csv").read_text().splitlines()) == 3 * len(items.index) + 1
    assert "R@1" in found.words
    assert "no rank changes when all items are shuffled" in found.words
    measured = facts_of(invoke("eval", "--from", name, "run.npz", "--json"))
    assert measured["text -> video"]["queries"] == len(items.index)
    rows = facts_of(invoke("compare", "--from", name, "run.npz", "--format", "json"))
    assert {"input", "emcl_plugin", "csls"} <= {row["name"] for row in rows}


def test_other_ground_truth_goes_before_the_retrievers_own():
    items = Items()
    np.savez("run.npz", sim=np.concatenate(clip4clip(items)[1]))
    np.save("gt.npy", np.arange(17)[::-1])
    own = facts_of(invoke("eval", "--from", "clip4clip", "run.npz", "--json"))
    other = facts_of(invoke("eval", "--from", "clip4clip", "run.npz", "--gt", "gt.npy", "--json"))
    assert own["text -> video"]["R@1"] > other["text -> video"]["R@1"]


# --- orientation ------------------------------------------------------------------------------


def test_a_square_similarity_is_said_to_be_taken_as_text_by_video():
    data = load_demo()
    sim = (data.text @ data.video.T)[: len(data.video)]
    np.save("s.npy", sim)
    found = invoke("--sim", "s.npy")
    assert "Note: sim is assumed to be text x video (it is square)" in found.words
    upright = np.load("reranked.npy")
    found = invoke("--sim", "s.npy", "--orientation", "text-video", "--force")
    assert "Note" not in found.words
    assert_array_equal(np.load("reranked.npy"), upright)
    np.save("turned.npy", sim.T)
    found = invoke("--sim", "turned.npy", "--orientation", "video-text", "--force")
    assert_array_equal(np.load("reranked.npy"), upright)


def test_embeddings_tell_which_side_is_which():
    data = load_demo()
    text = data.text[: len(data.video) // 2]
    np.save("t.npy", text)
    np.save("v.npy", data.video)
    np.save("s.npy", (text @ data.video.T).T)
    found = invoke("--text", "t.npy", "--video", "v.npy", "--sim", "s.npy")
    assert "Note: sim is video x text by its shape and was transposed" in found.words
    assert np.load("reranked.npy").shape == (len(text), len(data.video))


def test_ids_of_both_sides_leave_nothing_to_assume():
    sim = np.random.default_rng(0).random((6, 6))
    names = [f"v{i}" for i in range(6)]
    np.savez("s.npz", scores=sim, text_ids=names, video_ids=names)
    assert "assumed" not in invoke("--sim", "s.npz:scores", "--gt", "ids").words


def test_ids_travel_to_the_corrector_and_pair_its_queries():
    data = load_demo()
    names = [f"v{i}" for i in range(len(data.video))]
    np.savez("v.npz", video=data.video, video_ids=names)
    np.savez("q.npz", text=data.text, text_ids=names)
    np.save("tb.npy", data.text_bank)
    invoke("fit", "--video", "v.npz:video", "--text-bank", "tb.npy", "--save", "fitted")
    assert facts_of(invoke("show", "fitted", "--json"))["names"]
    found = [
        facts_of(
            invoke("apply", "fitted", "--text", "q.npz:text", "--gt", gt, "--force", "--json")
        )["measured"]
        for gt in ("ids", "diagonal")
    ]
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_report_calls_items_by_their_ids():
    data = load_demo()
    names = [f"clip-{i}" for i in range(len(data.video))]
    np.savez("v.npz", video=data.video, video_ids=names)
    np.save("t.npy", data.text)
    invoke("--text", "t.npy", "--video", "v.npz:video", "--gt", "diagonal", "--report", "o.html")
    page = Path("o.html").read_text()
    assert "clip-" in page
    assert "text 1" in page
