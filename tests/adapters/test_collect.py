"""The collector: what is dropped and refused, and the same bits from any number of processes."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from emcl_plugin.adapters import lightning
from emcl_plugin.adapters.collect import SIDES, Collector
from emcl_plugin.errors import EmclError, InputTypeError, InputValueError
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.scores import Dense

VIDEOS, CAPTIONS, D = 7, 3, 5
COUNT = VIDEOS * CAPTIONS


def samples(indices):
    """Pairs of a caption and its video; captions of one video are next to one another."""
    rng = np.random.default_rng(0)
    video = rng.standard_normal((VIDEOS, D), np.float32).repeat(CAPTIONS, 0)
    text = video + rng.standard_normal((COUNT, D), np.float32)
    indices = np.asarray(indices)
    ids = [f"v{8 + i // CAPTIONS}" for i in indices]
    return {"text": text[indices], "video": video[indices], "ids": ids, "text_ids": indices}


def bits(adapter):
    truth = adapter.ground_truth
    settings = {"prior": "even", "guard": False} if min(adapter.shape) > 1 else {"ncl": None}
    return (
        [(x.dtype.str, x.shape, x.tobytes()) for x in (*adapter.features, truth.query, truth.item)],
        (adapter.text_ids, adapter.video_ids, adapter.notes),
        adapter.rescore(**settings).scores.tobytes(),
    )


def collected(indices=range(COUNT), batch=4):
    collector = Collector()
    for start in range(0, len(indices), batch):
        collector.add(**samples(indices[start : start + batch]))
    return collector


def test_features_are_by_id_in_natural_order_and_the_truth_fits():
    found = collected(np.random.default_rng(1).permutation(COUNT)).finish()
    all_of_it = samples(range(COUNT))
    assert found.video_ids == tuple(f"v{8 + j}" for j in range(VIDEOS))
    assert found.text_ids == tuple(map(str, range(COUNT)))
    np.testing.assert_array_equal(found.features[0], all_of_it["text"])
    np.testing.assert_array_equal(found.features[1], all_of_it["video"][::CAPTIONS])
    assert found.ground_truth.item.tolist() == [i // CAPTIONS for i in range(COUNT)]


@pytest.mark.slow
@given(st.lists(st.integers(0, COUNT - 1), max_size=20), st.randoms(), st.integers(1, COUNT))
def test_neither_order_nor_batches_nor_repetitions_matter(repeated, random, batch):
    indices = [*range(COUNT), *repeated]
    random.shuffle(indices)
    assert bits(collected(indices, batch).finish()) == bits(collected().finish())


@pytest.mark.parametrize(
    ("dtype", "comes_out"),
    [("float16", "float16"), ("bfloat16", "float32"), ("float32", "float32")],
)
def test_tensors_of_a_graph_are_kept_as_copies(dtype, comes_out):
    x = torch.eye(3, dtype=getattr(torch, dtype), requires_grad=True)
    collector = Collector()
    collector.add(text=x, video=x, ids=range(3), text_ids=list(torch.arange(3)))
    with torch.no_grad():
        x.zero_()
    for side in collector.finish().features:
        assert side.dtype == comes_out
        assert side.tolist() == np.eye(3).tolist()


def test_captions_without_own_ids_are_all_kept_beside_their_video():
    collector = Collector()
    collector.add(text=np.eye(3), ids=["b10", "b9", "b10"])  # from two loaders
    collector.add(video=np.eye(3), video_ids=["b10", "b11", "b9"])
    found = collector.finish()
    assert found.text_ids is None
    assert found.features[0].argmax(1).tolist() == [1, 0, 2]
    assert found.ground_truth.item.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("videos", "ids", "truth"),
    [(4, {}, [0, 1, 2, 3]), (2, {}, None), (4, {"video_ids": list("dcba")}, None)],
)
def test_without_ids_of_both_sides_rows_belong_together_or_nothing_is_known(videos, ids, truth):
    collector = Collector()
    collector.add(text=np.eye(4))
    collector.add(video=np.eye(4)[:videos], **ids)
    found = collector.finish()
    assert len(found.notes) == 1
    assert (found.ground_truth and found.ground_truth.item.tolist()) == truth


def test_rounding_is_no_other_vector_and_the_same_one_is_kept_in_any_order():
    x = np.random.default_rng(0).standard_normal((1, 64)).astype("f4")
    near = x * np.float32(1.001)
    kept = []
    for order in ((x, near), (near, x)):
        collector = Collector()
        for rows in order:
            collector.add(text=rows, video=rows, ids=[1], text_ids=[1])
        kept.append(collector.finish().features[1].tobytes())
    assert kept[0] == kept[1] in (x.tobytes(), near.tobytes())


def test_finish_twice_add_on_and_reset():
    collector = collected(range(6))
    assert bits(collector.finish()) == bits(collector.finish())
    collector.add(**samples(range(6, COUNT)))
    assert bits(collector.finish()) == bits(collected().finish())
    collector.reset()
    with pytest.raises(InputValueError, match="no text was added"):
        collector.finish()


E = np.eye(2)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "is empty"),
        ({"text": E, "ids": ["a", "b"], "video_ids": ["a", "b"]}, "video_ids without video"),
        ({"video": E, "ids": ["a", "b"], "text_ids": ["a", "b"]}, "text_ids without text"),
        ({"video": E, "ids": ["a"]}, "1 ids for 2 rows"),
        ({"video": E, "ids": "ab"}, "ids is not a list"),
        ({"video": E, "ids": [0.5, 1.5]}, "0.5"),
        ({"video": torch.eye(2), "ids": torch.eye(2, dtype=int)}, r"\[1, 0\]"),
        ({"video": E}, "have ids and others do not"),
        ({"text": E, "text_ids": ["s", "t"]}, "have ids and others do not"),
        ({"text": E, "ids": ["a", "b"]}, "have ids and others do not"),
        ({"video": np.eye(2, 3), "ids": ["a", "b"]}, "2 at first, then 3"),
        ({"video": np.eye(2, dtype=int), "ids": ["a", "b"]}, "floating-point"),
        ({"video": E * np.nan, "ids": ["a", "b"]}, "NaN"),
        ({"video": E[0], "ids": ["a", "b"]}, "two dimensions"),
        ({"video": E, "ids": ["z", "z"]}, "two different vectors"),
        (
            {"text": E, "text_ids": [1, 2], "video": E[::-1], "ids": ["x", "z"]},
            "two different vectors.*\n.*video 'x'",
        ),
        ({"text": E, "ids": ["x", "y"], "text_ids": ["new", "q"]}, "two videos.*\n.*'q': 'x'"),
    ],
)
def test_bad_batches_are_refused_and_nothing_of_them_is_kept(batch, message):
    def start():
        collector = Collector()
        collector.add(text=E[:1], video=E[:1], ids=["x"], text_ids=["q"])
        return collector

    collector = start()
    with pytest.raises((InputValueError, InputTypeError), match=message):
        collector.add(**batch)
    assert bits(collector.finish()) == bits(start().finish())


def test_videos_that_never_came_are_named_and_counted():
    collector = collected()
    collector.add(text=np.ones((2, D), "f4"), ids=["lost", "gone"], text_ids=["x", "y"])
    with pytest.raises(InputValueError, match="'lost'; 2 of 23 texts"):
        collector.finish()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_the_gpu_give_the_same():
    batch = samples(range(COUNT))
    collector = Collector()
    collector.add(**{**batch, **{s: torch.from_numpy(batch[s]).cuda() for s in SIDES}})
    assert bits(collector.finish()) == bits(collected().finish())


# --- several processes --------------------------------------------------------------------------


def _process(rank, count, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
    own = list(DistributedSampler(range(COUNT), count, rank, shuffle=False))
    collector = collected(own)
    found = bits(collector.finish())
    assert bits(collector.finish()) == found
    for missing, message in (("text_ids", "every text needs an id"), ("text", "no text")):
        collector.reset()
        batch = samples(own)
        del batch[missing]
        batch.pop("text_ids", None)
        if rank or missing == "text":
            collector.add(**batch)  # the first process may have nothing of its own
        with pytest.raises(InputValueError, match=message):
            collector.finish()
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_every_process_gets_the_bits_of_a_single_one(count, tmp_path):
    torch.multiprocessing.spawn(_process, (count, tmp_path), count)
    alone = bits(collected().finish())
    for rank in range(count):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone


# --- Lightning ----------------------------------------------------------------------------------


@pytest.fixture
def rerank_callback(monkeypatch):
    """Made of a stand-in for Lightning, whose hooks the tests call."""
    stand_in = types.SimpleNamespace(Callback=type("Callback", (), {}))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", stand_in)
    monkeypatch.delitem(vars(lightning), "RerankCallback", raising=False)
    yield lightning.RerankCallback
    vars(lightning).pop("RerankCallback", None)


class Module:
    def __init__(self):
        self.logged = {}

    def log_dict(self, values, **how):
        assert how == {"rank_zero_only": True, "sync_dist": False}
        self.logged = values


def epoch(callback, outputs, stage="validation", sanity=False):
    trainer, module = types.SimpleNamespace(sanity_checking=sanity), Module()
    getattr(callback, f"on_{stage}_epoch_start")(trainer, module)
    for number, output in enumerate(outputs):
        getattr(callback, f"on_{stage}_batch_end")(trainer, module, output, None, number, 0)
    getattr(callback, f"on_{stage}_epoch_end")(trainer, module)
    return module.logged


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_the_callback_rescores_and_logs_each_epoch_by_itself(rerank_callback, stage):
    callback = rerank_callback(prefix="mine", prior="even", guard=False)
    outputs = [{**samples(range(i, i + 3)), "loss": 0.5} for i in range(0, COUNT, 3)]
    assert epoch(callback, outputs, stage, sanity=True) == {}
    assert callback.adapter is None
    epoch(callback, outputs[:2], stage)
    assert callback.result.scores.shape == (6, 2)

    logged = epoch(callback, [*outputs, None], stage)
    assert bits(callback.adapter) == bits(collected().finish())
    expected = {}
    for when, scores in ((" before", callback.adapter.scores()), ("", callback.result.scores)):
        found = evaluate(Dense(scores), callback.adapter.ground_truth).to_dict()
        expected |= {f"mine/R@1 {way}{when}": found[way]["R@1"] for way in found}
    assert logged == expected
    assert len(set(logged.values())) > 1  # so that a mix-up shows


def test_the_callback_logs_nothing_without_a_truth_and_wants_something_to_rescore(rerank_callback):
    callback = rerank_callback()
    assert epoch(callback, [{"text": np.eye(3), "video": np.eye(3)[:2]}]) == {}
    assert callback.result.scores.shape == (3, 2)
    with pytest.raises(InputValueError, match="no text was added"):
        epoch(callback, [torch.tensor(0.5)])


def test_without_lightning_it_says_what_to_install(monkeypatch):
    for home in lightning.HOMES:
        monkeypatch.setitem(sys.modules, home, None)
    monkeypatch.delitem(vars(lightning), "RerankCallback", raising=False)
    with pytest.raises(EmclError, match="pip install lightning"):
        _ = lightning.RerankCallback
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = lightning.Nothing
