"""Saved correctors: exact round trips, complete or absent, format 1 stays loadable."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved import DATA, V1, fitted, hubby, load, same

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin.bank import manifest, persistence
from emcl_plugin.bank.persistence import FILES, MANIFEST, NAMES, TENSORS, save
from emcl_plugin.errors import InputFileError, StateError

EXPECTED = DATA / "state_v1_expected.json"


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("emcl", [None, "auto", "clip2video", EMCL(strength=-0.5)], ids=str)
@pytest.mark.parametrize("guard", [True, False])
def test_round_trip(tmp_path, dtype, metric, emcl, guard):
    before = fitted(dtype, names=guard, metric=metric, emcl=emcl, guard=guard)
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    same(before, after)
    assert after.report_ == before.report_
    assert (tmp_path / "saved" / NAMES).exists() == guard
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


@pytest.mark.parametrize(
    "params",
    [
        {"emcl": EMCL(subspaces=3, signs=(1, -1, 1), start="signs", batch=None, beta=1.5)},
        {"emcl": EMCL(strength=np.float32(0.3), seed=7, strengths=(0.0, 1.0))},
        {"emcl": None, "ncl": NCL(logit_scale=30.0, iterations=50, tolerance=0.01, rho=0.9)},
        {"ncl": NCL(temperature=0.1), "prior": "gentle"},
        {"ncl": None, "prior": "off", "guard": np.bool_(False)},
        {"prior": "even", "memory": 1 << 30, "device": "cpu"},
    ],
    ids=str,
)
def test_settings_come_back(tmp_path, params):
    before = fitted(**params)
    before.save_pretrained(tmp_path / "saved")
    after = Reranker.from_pretrained(str(tmp_path / "saved"))
    same(before, after)
    assert (after.memory, after.device) == (None, None)


def grown(reranker: Reranker) -> Reranker:
    text, video = hubby(seed=5)
    corrector = reranker.corrector_.with_items(video[:7], [f"new {i}" for i in range(7)])
    reranker.corrector_ = corrector.with_queries(text[:9]).without([0, 3, 61])
    return reranker


def test_a_grown_corrector_comes_back_and_goes_on_growing_alike(tmp_path):
    before = grown(fitted(names=True, ncl=NCL(temperature_std=0.3), emcl=EMCL(subspaces=8)))
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    same(before, after)
    assert after.drift_ == before.drift_
    same(before.refit(), after.refit())
    same(grown(before), grown(after))


def test_what_is_exact_in_memory_is_exact_on_disk(tmp_path):
    """And where there is no report, there is none after loading."""
    before = fitted(names=True)
    names = ("ü \u2028", "\ud800 a lone surrogate", "", '"\\', *before.corrector_.names[4:])
    odd = {"level": 0.1 + 0.2, "temperature": 5e-324, "rho": 1 / 3, "strength": 1 - 2**-53}
    before.corrector_ = replace(before.corrector_, names=names, facts={}, **odd)
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    same(before, after)
    assert not hasattr(after, "report_")


def test_any_safetensors_reader_reads_the_tensors(tmp_path):
    """Aligned to 8 bytes, row by row however they lie in memory; their order does not matter."""
    text, video = (torch.from_numpy(x) for x in hubby())
    before = Reranker(metric="dot", guard=False).fit(text, video.T.contiguous().T)
    assert not before.corrector_.gallery.is_contiguous()
    save(before, tmp_path / "saved")
    file = tmp_path / "saved" / TENSORS
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    tensors = load_file(file)
    assert (
        tensors.keys()
        == manifest.checked(json.loads((tmp_path / "saved" / MANIFEST).read_text()), Path(MANIFEST))
        .shapes()
        .keys()
    )
    assert torch.equal(tensors["gallery"], before.corrector_.gallery)
    save_file(tensors, file, {"note": "in another order"})
    same(before, load(tmp_path / "saved"))


def test_links_to_files_are_followed(folder, tmp_path):
    (tmp_path / "blobs").mkdir()
    for name in FILES:  # as model hubs keep them
        (folder / name).rename(tmp_path / "blobs" / name)
        (folder / name).symlink_to(Path("..") / "blobs" / name)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    same(load(V1), load(folder, device="cpu"))
    with pytest.raises(ValueError, match="this device cannot be used"):
        load(folder, device="abacus")


def test_this_version_of_the_format_stays_loadable():
    reranker = load(V1)
    expected = json.loads(EXPECTED.read_text())
    found = reranker.transform(np.array(expected["queries"]))
    np.testing.assert_allclose(found, expected["scores"], rtol=0, atol=1e-6)
    corrector = reranker.corrector_
    assert (corrector.names[0], corrector.names[-1]) == ("clip a", "clip é")
    assert len(corrector.change) > 0
    assert len(corrector.ood_gate.known) == 5
    assert 0 < float(next(corrector.vectors(expected["queries"] * np.ones(1)))[0, -1]) <= 1
    assert reranker.report_.gallery == 8
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file()) < 30_000


# --- what cannot be saved ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": float("nan")}, "not finite"),
        ({"bias": torch.full((60,), torch.nan)}, r"NaN or infinity\n.*bias\[0\] = nan"),
        ({"gallery": torch.eye(60, 12).half()}, "dtype"),
        ({"names": tuple(range(60))}, "a name is not text"),
        ({"names": ("a",) * 59}, "one name per item"),
        ({"facts": {"score_std": 1.0}}, "missing"),
        ({"strength": 1.5}, "<= 1.0"),
        ({"ncl": NCL(text_marginal=[1.0] * 80)}, "marginals"),
        ({"emcl": object()}, "cannot be saved"),
        ({"emcl": "nosuch"}, "emcl"),
        ({"prior": "weird"}, "prior"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change, words):
    reranker = fitted()
    if change.keys() <= reranker.get_params().keys():
        reranker.set_params(**change)
    else:
        reranker.corrector_ = replace(reranker.corrector_, **change)
    with pytest.raises(StateError, match=words):
        save(reranker, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [MANIFEST, NAMES])
def test_what_would_be_too_large_to_load_is_not_saved(tmp_path, monkeypatch, name):
    monkeypatch.setitem(persistence.LARGEST, name, 100)
    with pytest.raises(StateError, match=f"too large\n.*{name}"):
        save(fitted(names=True), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all -------------------------------------------------------------------------


def test_an_existing_folder_needs_force(folder, tmp_path):
    """Nothing is left of the one before; a link to it stays a link."""
    reranker = fitted()
    with pytest.raises(InputFileError, match="add --force"):
        save(reranker, folder)
    same(load(folder), load(V1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "latest").symlink_to(folder.name)
    for path in (tmp_path / "empty", tmp_path / "latest"):
        save(reranker, path, force=True)
        same(load(path), reranker)
    assert (tmp_path / "latest").is_symlink()
    assert not (folder / NAMES).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "latest", "saved"]


def test_the_result_has_ordinary_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        save(fitted(names=True), tmp_path / "saved")
    finally:
        os.umask(mask)
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "saved").iterdir()} == {0o640}


def foreign_file(folder: Path, name: str = "thesis.txt") -> None:
    (folder / name).write_text("years of work")


def foreign_folder(folder: Path) -> None:
    (folder / NAMES).unlink()
    (folder / NAMES).mkdir()
    foreign_file(folder / NAMES)


@pytest.mark.parametrize(
    "spoil",
    [
        foreign_file,
        foreign_folder,
        lambda folder: (folder / MANIFEST).write_text('{"kind": "something else"}'),
        lambda folder: (folder / MANIFEST).unlink(),
    ],
)
def test_force_never_replaces_what_is_not_ours(folder, spoil):
    spoil(folder)
    before = {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}
    with pytest.raises(InputFileError):
        save(fitted(), folder, force=True)
    assert {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")} == before
    assert len(list(folder.parent.iterdir())) == 1


def test_a_file_that_arrives_during_the_replacement_is_not_deleted(folder, monkeypatch):
    rename = Path.rename

    def late(self, target):
        if self == folder:
            foreign_file(folder)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    save(fitted(), folder, force=True)
    same(load(folder), fitted())
    (kept,) = folder.parent.glob(".saved.*.old/thesis.txt")
    assert kept.read_text() == "years of work"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=repr)
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch, there, count, error):
    path = tmp_path / "saved"
    if there:
        shutil.copytree(V1, path)
    write, written = Path.write_bytes, []

    def failing(file, parts):
        if len(written) == count:
            write(file, b"half of it")
            raise error
        written.append(file)
        write(file, parts)

    monkeypatch.setattr(Path, "write_bytes", failing)
    full = isinstance(error, OSError)
    kind, words = (InputFileError, "disk is full") if full else (KeyboardInterrupt, None)
    with pytest.raises(kind, match=words):
        save(fitted(names=True), path, force=there)
    assert [p.name for p in tmp_path.iterdir()] == ["saved"] * there
    if there:
        same(load(path), load(V1))


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def counting(handle):
        synced.append((Path(f"/proc/self/fd/{handle}").readlink(), (tmp_path / "saved").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", counting)
    save(fitted(names=True), tmp_path / "saved")
    before = {path.name for path, there in synced if not there}
    assert before >= set(FILES)
    assert synced[-1] == (tmp_path, True)


def test_a_disk_that_is_too_small_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(InputFileError, match="disk is full"):
        save(fitted(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    rename = Path.rename

    def failing(self, target):
        if self.suffix == ".part":
            raise OSError(errno.EIO, "the disk is broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken"):
        save(fitted(), folder, force=True)
    same(load(folder), load(V1))
    assert len(list(folder.parent.iterdir())) == 1


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    write = Path.write_bytes

    def slow(file, parts):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / "thesis.txt").write_text("years of work")
        write(file, parts)

    monkeypatch.setattr(Path, "write_bytes", slow)
    with pytest.raises(InputFileError, match="appeared"):
        save(fitted(), tmp_path / "saved")
    assert [p.name for p in tmp_path.rglob("*")] == ["saved", "thesis.txt"]
