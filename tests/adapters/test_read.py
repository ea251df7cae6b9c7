"""What retrievers wrote, from files: any of them, by any of the names that theirs have."""

from __future__ import annotations

import pickle
import types

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from producers import LEFT, Items, clip4clip, drl, flat, mmt, padded, weight_networks

from emcl_plugin.adapters import ADAPTERS, read
from emcl_plugin.adapters.base import _parameters
from emcl_plugin.adapters.capture import Captured
from emcl_plugin.cli.options import NAMES
from emcl_plugin.errors import EmclError

safetensors = pytest.importorskip("safetensors.numpy")
h5py = pytest.importorskip("h5py")


def write(path, kind, arrays):
    """The arrays in a file of this kind, or a folder; gives its path."""
    path = path / f"run{kind}"
    if kind == ".npz":
        np.savez(path, **flat(arrays))
    elif kind == ".safetensors":
        contiguous = {k: np.ascontiguousarray(x) for k, x in flat(arrays).items()}
        safetensors.save_file(contiguous, path)
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            for name, value in flat(arrays).items():
                file[name.replace(".", "/")] = value
    elif kind == ".pt":
        as_tensors = {k: torch.tensor(x) for k, x in flat(arrays).items()}
        torch.save(as_tensors, path)
    elif kind == ".pkl":
        path.write_bytes(pickle.dumps(arrays))
    elif kind == ".npy":
        np.save(path, arrays)
    else:
        for name, value in flat(arrays).items():
            target = path / f"{name.replace('.', '/')}.npy"
            target.parent.mkdir(parents=True, exist_ok=True)
            np.save(target, value)
    return path


KINDS = [".npz", ".safetensors", ".h5", ".pt", ".pkl", ".npy", ""]


def numbers(x):
    if isinstance(x, dict):
        return {name: numbers(value) for name, value in x.items()}
    return x.numpy() if isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("kind", KINDS)
def test_mmts_experts(kind, tmp_path):
    given, sims = mmt()
    path = write(tmp_path, kind, numbers(given))
    if kind in (".safetensors", ".h5", ""):  # sorted by name: audio, face, rgb
        with pytest.raises(EmclError, match="does not keep the order"):
            read("mmt", path)
        found = read("mmt", path, experts=["rgb", "audio", "face"])
    else:
        found = read("mmt", path, trust_pickle=True)
    kept = given["query_masks"].ravel() != 0
    assert_allclose(found.scores(), sims[kept], rtol=0, atol=1e-5)
    assert list(found.similarity.text) == list(given["text_embds"])  # the weights' order


@pytest.mark.parametrize("kind", [".pkl", ".npy"])
@pytest.mark.parametrize("name", ["collaborative-experts", "emcl-net", "dbsn"])
def test_a_matrix_alone(name, kind, tmp_path):
    sim = np.random.default_rng(0).random((6, 6))
    if kind == ".pkl":
        path = write(tmp_path, kind, sim)
    else:
        path = tmp_path / "sims.npy"
        np.save(path, sim)
    found = read(name, path, trust_pickle=True, orientation="text-video")
    assert_array_equal(found.scores(), sim)


@pytest.mark.parametrize("name", ["clip2video", "x-clip"])
def test_clip4clips_kin(name, tmp_path):
    items = Items()
    text, rows = clip4clip(items)
    sim = np.concatenate(rows) ** 2
    path = write(tmp_path, ".npz", {"sim": sim, "text": text.numpy(), "video": items.video.numpy()})
    found = read(name, path, orientation="text-video")
    assert_array_equal(found.scores(), sim)
    assert found.features is not None
    with pytest.raises(EmclError, match="no such setting"):
        read(name, path, shape=3)


@pytest.mark.parametrize("kind", KINDS)
def test_clip4clips_own_names(kind, tmp_path):
    items = Items(many=True)
    text, rows = clip4clip(items)
    arrays = {
        "sequence_output": text.numpy(),
        "visual_output": items.video.numpy(),
        "video_mask": items.video_mask.numpy(),
        "sim_matrix": np.concatenate(rows),
        "cut_off_points": np.array(items.cut_off_points),
        "logit_scale": np.array(100.0),
    }
    found = read("clip4clip", write(tmp_path, kind, arrays), trust_pickle=True)
    assert_allclose(found.scores(), np.concatenate(rows) / 100, rtol=0, atol=1e-5)
    assert found.ground_truth.item.tolist() == items.index.tolist()


def test_standard_input_and_addresses(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    sim = np.random.default_rng(0).random((6, 5))
    path = write(tmp_path, ".npz", {"sim": sim, "cut_off_points": np.array([1, 2, 3, 4, 6])})
    with fsspec.open("memory://runs/run.npz", "wb") as file:
        file.write(path.read_bytes())
    assert_array_equal(read("clip4clip", "memory://runs/run.npz").scores(), sim)
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=file))
        assert_array_equal(read("clip4clip", "-").scores(), sim)
    with pytest.raises(EmclError, match="several files"):
        read("clip4clip", "memory://runs/*.npz")


def test_drls_tokens(tmp_path):
    items, nets = Items(videos=20), weight_networks(12)
    arrays = {
        "t_feat": items.text, "v_feat": items.video, "t_mask": items.text_mask,
        "v_mask": items.video_mask, "text_weight": nets[0](items.text).squeeze(2),
        "video_weight": nets[1](items.video).squeeze(2),
    }  # fmt: skip
    found = read("drl", write(tmp_path, ".npz", numbers(arrays)))
    expected = np.concatenate(drl(items, "wti", nets))
    assert_allclose(found.scores(), expected, rtol=0, atol=1e-5)


def test_a_clip_retrieval_folder_with_ids(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as arrow

    rng = np.random.default_rng(0)
    sides = {"text_emb": [], "img_emb": []}
    for part in (0, 1):
        for name, kept in sides.items():
            (tmp_path / name).mkdir(exist_ok=True)
            kept.append(rng.standard_normal((4, 6)).astype(np.float16))
            np.save(tmp_path / name / f"{name}_{part}.npy", kept[-1])
        (tmp_path / "metadata").mkdir(exist_ok=True)
        table = arrow.table({"image_path": [f"{part}_{i}.jpg" for i in range(4)]})
        parquet.write_table(table, tmp_path / "metadata" / f"metadata_{part}.parquet")
    found = read("clip-retrieval", tmp_path)
    assert_array_equal(found.features[0], np.concatenate(sides["text_emb"]))
    assert found.video_ids == tuple(f"{p}_{i}.jpg" for p in (0, 1) for i in range(4))
    assert found.ground_truth.item.tolist() == list(range(8))
    with pytest.raises(EmclError, match="without text_emb and img_emb"):
        read("clip-retrieval", tmp_path / "metadata")


def test_what_was_captured_is_saved_and_read_again(tmp_path):
    items = Items(many=True)
    text, rows = clip4clip(items)
    run = Captured({})
    run.add(
        ADAPTERS["clip4clip"], sim=padded(np.concatenate(rows), items.counts), text=text.numpy(),
        video=items.video.numpy(), video_mask=items.video_mask.numpy(), logit_scale=None,
        orientation="text-video",
    )  # fmt: skip
    run.save(tmp_path / "run.npz")
    found = read("clip4clip", tmp_path / "run.npz")
    assert_array_equal(found.scores(), run.adapter.scores())
    assert found.notes == run.adapter.notes
    with pytest.raises(EmclError, match="exists already"):
        run.save(tmp_path / "run.npz")
    with pytest.raises(EmclError, match=r"saved as \.npz"):
        run.save(tmp_path / "run.pt")


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_name_that_a_field_has_is_read(name, tmp_path):
    kind, given = ADAPTERS[name], LEFT[name]
    assert kind.FIELDS.keys() <= _parameters(kind).keys()
    expected = kind(**given)
    assert expected.ground_truth.item.tolist() == [0, 1, 2, 3]
    assert "protocol" in expected.summary(expected.rescore())
    if vars(kind).get("read"):
        return  # its own way, with its own tests
    for field, value in given.items():
        for called in filter(None, (field, *kind.FIELDS.get(field, ()))):
            rest = {other: x for other, x in given.items() if other != field}
            found = read(name, write(tmp_path, ".npz", {called: value, **rest}))
            assert_array_equal(found.scores(), expected.scores())


def test_the_command_line_knows_every_adapter():
    assert tuple(ADAPTERS) == NAMES
