"""A saved corrector comes back to the last bit, and nothing else ever comes back."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

from emcl_plugin import EMCL, NCL, Reranker, state
from emcl_plugin.errors import EmclWarning, InputFileError, NotFittedError, StateError
from emcl_plugin.likeness import Likeness
from emcl_plugin.state import FACTS, FILES, NAMES, TENSORS, load, save

DATA = Path(__file__).parent / "data"
V1 = DATA / "state_v1"
EXPECTED = DATA / "state_v1_expected.json"
TENSOR_NAMES = {
    "gallery", "bias", "basis", "change", "bank", "potential", "weight", "beside",
    "beside_bias", "likeness.known", "likeness.plane",
}  # fmt: skip


def hubby(n_text: int = 80, n_video: int = 60, dim: int = 12, seed: int = 0, dtype: str = "f4"):
    """Paired features with hubs: everything leans towards one direction, some videos more."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(dim)
    video = rng.standard_normal((n_video, dim)) + rng.uniform(0, 1.5, (n_video, 1)) * shared
    text = video[np.arange(n_text) % n_video] + 0.6 * rng.standard_normal((n_text, dim)) + shared
    return text.astype(dtype), video.astype(dtype)


def fitted(dtype: str = "f4", names: bool = False, **params) -> Reranker:
    text, video = hubby(dtype=dtype)
    labels = [f"video {i}" for i in range(len(video))] if names else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        return Reranker(**params).fit(text, video, names=labels)


def make_fixture() -> None:  # how tests/data/state_v1 was made; it is not to be made again
    text, video = hubby(n_text=12, n_video=8, dim=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        reranker = Reranker(emcl=EMCL(strength=-0.5), guard=False)
        reranker.fit(text, video, names=[f"clip {c}" for c in "abcdefgé"])
    corrector = reranker.corrector_
    plane = torch.eye(6, dtype=corrector.bank.dtype)[:, :1]
    gate = Likeness(corrector.bank[:5].clone(), 0.25, 0.875, plane, (0.125, 0.25, 0.75))
    reranker.corrector_ = replace(corrector, likeness=gate)
    queries = np.random.default_rng(1).standard_normal((3, 6)).round(2)
    scores = reranker.transform(queries)
    DATA.mkdir(exist_ok=True)
    save(reranker, V1, force=True)
    content = {"queries": queries.tolist(), "scores": scores.tolist()}
    EXPECTED.write_text(json.dumps(content, indent=1) + "\n")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the small corrector that is checked in, to be spoilt."""
    return Path(shutil.copytree(V1, tmp_path / "saved"))


def scores(reranker: Reranker, dim: int | None = None) -> torch.Tensor:
    rng = np.random.default_rng(7)
    queries = rng.standard_normal((37, dim or reranker.corrector_.dimension))
    return torch.cat(list(reranker.corrector_.scores(queries)))


def same(a: Reranker, b: Reranker) -> None:
    """All of the corrector, the settings and the report."""
    for name, x in vars(a.corrector_).items():
        y = getattr(b.corrector_, name, None)
        if name == "likeness":
            assert torch.equal(x.rows, y.rows)
            assert (x.low, x.high, x.within) == (y.low, y.high, y.within)
        elif isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype
            assert torch.equal(x, y), name
        elif not name.startswith("_"):
            assert (type(x), x) == (type(y), y)
    assert torch.equal(scores(a), scores(b))
    wanted = a.get_params()
    assert {**b.get_params(), "device": wanted["device"], "memory": wanted["memory"]} == wanted


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
        {"emcl": None, "ncl": NCL(logit_scale=30.0, rounds=50, tolerance=0.01, rho=0.9)},
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
    before = grown(fitted(names=True))
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    same(before, after)
    assert after.drift_ == before.drift_
    same(grown(before), grown(after))


def test_refit_after_loading_is_refit_before(tmp_path):
    before = fitted(names=True, ncl=NCL(temperature_std=0.3), emcl=EMCL(subspaces=8))
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    same(before.refit(), after.refit())


def test_what_is_exact_in_memory_is_exact_on_disk(tmp_path):
    before = fitted(names=True)
    names = ("ü \u2028", "\ud800 a lone surrogate", "", '"\\', *before.corrector_.names[4:])
    odd = {"level": 0.1 + 0.2, "temperature": 5e-324, "rho": 1 / 3, "strength": 1 - 2**-53}
    before.corrector_ = replace(before.corrector_, names=names, **odd)
    save(before, tmp_path / "saved")
    same(before, load(tmp_path / "saved"))


def test_without_a_report_there_is_none_after_loading(tmp_path):
    before = fitted()
    before.corrector_ = replace(before.corrector_, facts={})
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    assert after.corrector_.facts == {}
    with pytest.raises(NotFittedError, match="report_"):
        _ = after.report_


def test_any_safetensors_reader_reads_the_tensors(tmp_path):
    before = fitted("f8", emcl=EMCL(strength=-0.5))
    save(before, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / TENSORS)
    assert tensors.keys() == TENSOR_NAMES
    assert torch.equal(tensors["gallery"], before.corrector_.gallery)
    save_file(tensors, tmp_path / "saved" / TENSORS, {"note": "in another order"})
    same(before, load(tmp_path / "saved"))


def test_the_file_is_laid_out_as_the_format_wants_it(tmp_path):
    """Aligned to 8 bytes, and row by row however the tensors lie in memory."""
    text, video = (torch.from_numpy(x) for x in hubby())
    reranker = Reranker(metric="dot", guard=False).fit(text, video.T.contiguous().T)
    assert not reranker.corrector_.gallery.is_contiguous()
    save(reranker, tmp_path / "saved")
    same(reranker, load(tmp_path / "saved"))
    assert int.from_bytes((tmp_path / "saved" / TENSORS).read_bytes()[:8], "little") % 8 == 0


def test_links_to_files_are_followed(folder, tmp_path):
    (tmp_path / "blobs").mkdir()
    for name in FILES:  # as model hubs keep them
        (folder / name).rename(tmp_path / "blobs" / name)
        (folder / name).symlink_to(Path("..") / "blobs" / name)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    same(load(V1), load(folder))


def test_device(folder):
    assert load(folder, device="cpu").get_params()["device"] == "cpu"
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
    assert len(corrector.likeness.known) == 5
    assert 0 < float(next(corrector.vectors(expected["queries"] * np.ones(1)))[0, -1]) <= 1
    assert reranker.report_.gallery == 8
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file()) < 30_000


def test_older_formats_are_brought_up_step_by_step(folder, monkeypatch):
    def renamed(content):
        rest = {key: value for key, value in content.items() if key != "relaxation"}
        return {**rest, "rho": content["relaxation"], "format_version": 2}

    expected = load(V1)
    content = json.loads((folder / FACTS).read_text())
    content["relaxation"] = content.pop("rho")
    write(folder, content)
    refused(folder, "something is missing\n.*rho")
    monkeypatch.setattr(state, "FORMAT", 2)
    refused(folder, "there never was such a format")
    monkeypatch.setitem(state._UPGRADES, 1, renamed)
    same(load(folder), expected)
    refused(V1, "not what format 1 looks like\n.*relaxation")


# --- what cannot be saved ------------------------------------------------------------------------


def test_only_a_fitted_reranker_is_saved(tmp_path):
    with pytest.raises(NotFittedError):
        save(Reranker(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": float("nan")}, "not finite"),
        ({"temperature": float("inf")}, "not finite"),
        ({"bias": torch.full((60,), torch.nan)}, r"NaN or infinity\n.*bias\[0\] = nan"),
        ({"gallery": 2 * torch.eye(60, 12)}, r"unit vector"),
        ({"weight": torch.zeros(80)}, r"weight\[0\] = 0"),
        ({"bias": torch.ones(59)}, "shape or dtype"),
        ({"bias": torch.ones(60).double()}, "shape or dtype"),
        ({"gallery": torch.eye(60, 12).half()}, "dtype"),
        ({"names": tuple(range(60))}, "a name is not text"),
        ({"names": ("a",) * 59}, "one name per item"),
        ({"facts": {"score_std": 1.0}}, "missing"),
        ({"strength": 1.5}, "strength is out of its range"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change, words):
    reranker = fitted()
    reranker.corrector_ = replace(reranker.corrector_, **change)
    with pytest.raises(StateError, match=words):
        save(reranker, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"ncl": NCL(text_marginal=[1.0] * 80)}, "marginals"),
        ({"emcl": object()}, "cannot be saved"),
        ({"emcl": "nosuch"}, "a preset"),
        ({"prior": "weird"}, "prior"),
    ],
)
def test_settings_that_make_no_sense_are_not_saved(tmp_path, params, words):
    reranker = fitted().set_params(**params)
    with pytest.raises(StateError, match=words):
        save(reranker, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [FACTS, NAMES])
def test_what_would_be_too_large_to_load_is_not_saved(tmp_path, monkeypatch, name):
    monkeypatch.setitem(state.LARGEST, name, 100)
    with pytest.raises(StateError, match=f"too large\n.*{name}"):
        save(fitted(names=True), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all -------------------------------------------------------------------------


def test_an_existing_folder_needs_force(folder, tmp_path):
    reranker = fitted()
    with pytest.raises(InputFileError, match="add --force"):
        save(reranker, folder)
    same(load(folder), load(V1))
    save(reranker, folder, force=True)
    same(load(folder), reranker)
    assert not (folder / NAMES).exists()  # nothing is left of the one before
    (tmp_path / "empty").mkdir()
    save(reranker, tmp_path / "empty", force=True)
    same(load(tmp_path / "empty"), reranker)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "saved"]


def test_the_result_has_ordinary_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        save(fitted(names=True), tmp_path / "saved")
    finally:
        os.umask(mask)
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "saved").iterdir()} == {0o640}


def test_a_link_to_a_saved_corrector_stays_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder.name)
    save(fitted(), tmp_path / "latest", force=True)
    assert (tmp_path / "latest").is_symlink()
    same(load(folder), fitted())


def foreign_file(folder: Path) -> None:
    (folder / "thesis.txt").write_text("years of work")


def foreign_folder(folder: Path) -> None:
    (folder / NAMES).unlink()
    (folder / NAMES).mkdir()
    (folder / NAMES / "thesis.txt").write_text("years of work")


def foreign_json(folder: Path) -> None:
    (folder / FACTS).write_text('{"kind": "something else"}')


def no_json(folder: Path) -> None:
    (folder / FACTS).unlink()


@pytest.mark.parametrize("spoil", [foreign_file, foreign_folder, foreign_json, no_json])
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


def test_targets_that_must_fail(tmp_path):
    reranker = fitted()
    (tmp_path / "file").touch()
    for path, words in [(tmp_path / "file", "is a file"), (tmp_path / "no" / "x", "not exist")]:
        for force in (True, False):
            with pytest.raises(InputFileError, match=words):
                save(reranker, path, force=force)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=repr)
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch, there, count, error):
    path = tmp_path / "saved"
    if there:
        shutil.copytree(V1, path)
    write, written = state._write, []

    def failing(file, parts):
        if len(written) == count:
            file.write_bytes(b"half of it")
            raise error
        written.append(file)
        write(file, parts)

    monkeypatch.setattr(state, "_write", failing)
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
    write = state._write

    def slow(file, parts):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / "thesis.txt").write_text("years of work")
        write(file, parts)

    monkeypatch.setattr(state, "_write", slow)
    with pytest.raises(InputFileError, match="appeared"):
        save(fitted(), tmp_path / "saved")
    assert [p.name for p in tmp_path.rglob("*")] == ["saved", "thesis.txt"]


# --- what is refused: corrector.json -------------------------------------------------------------


def write(folder: Path, content: object, *, seal: bool = True) -> None:
    """Write corrector.json with the right checksum, so that nothing but the change is wrong."""
    if seal and isinstance(content, dict):
        content["sha256"] = state._seal(content)
    (folder / FACTS).write_text(json.dumps(content))


def refused(folder: Path, words: str, **options) -> str:
    with pytest.raises(StateError, match=words) as caught:
        load(folder, **options)
    assert type(caught.value) is StateError
    text = str(caught.value)
    assert "received: " in text
    assert "to do: " in text
    assert len(text) < 1000
    return text


TYPES = {
    "format_version": "1", "package_version": 1, "protocol": None, "dtype": [], "dimension": 6.0,
    "n_bank": True, "n_gallery": "8", "n_directions": None, "n_known": {},
    "n_plane": "1", "n_beside": 1.5, "likeness_within": 0.5, "metric": 0,
    "renormalize": 1, "level": "0", "temperature": True, "rho": [1.0], "strength": None,
    "likeness_low": "x", "likeness_high": {}, "settings": [], "report": "none", "named": 0,
    "tensors": [], "gallery_order": 5, "sha256": None,
}  # fmt: skip


@pytest.mark.parametrize("key", TYPES)
def test_missing_keys_and_wrong_types(folder, key):
    content = json.loads((folder / FACTS).read_text())
    assert content.keys() == TYPES.keys() | {"kind"}
    write(folder, {**content, key: TYPES[key]}, seal=False)
    assert key in refused(folder, "another type")
    del content[key]
    write(folder, content, seal=False)
    assert key in refused(folder, "another type" if key == "format_version" else "missing")


def at(path: str, value: object):
    """A change of the JSON: ``value`` at settings.emcl.sigma; ... takes the key away."""

    def change(content: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key)] if isinstance(content, list) else content[key]
        if value is ...:
            del content[last]
        else:
            content[int(last) if isinstance(content, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("kind", "a cake", "not a saved corrector"),
        ("kind", ..., "not a saved corrector"),
        ("format_version", 2, "newer version of emcl_plugin"),
        ("format_version", 10**30, "newer version"),
        ("format_version", 0, "never was such a format"),
        ("format_version", -1, "never was such a format"),
        ("surprise", 1, "does not belong there"),
        ("protocol", "transductive", "the protocol is out of its range"),
        ("dtype", "float16", "the dtype is out of its range"),
        ("dtype", "F" * 10**5, "the dtype is out of its range"),
        ("dimension", 0, "the dimension is out of its range"),
        ("n_gallery", -8, "the n_gallery is out of its range"),
        ("n_bank", 10**4000, "the n_bank is out of its range"),
        ("n_known", -1, "the n_known is out of its range"),
        ("n_directions", -1, "the n_directions is out of its range"),
        ("metric", "euclid", "the metric is out of its range"),
        ("temperature", 0.0, "the temperature is out of its range"),
        ("temperature", -1, "the temperature is out of its range"),
        ("temperature", 10**400, "not finite"),
        ("rho", 0, "the rho is out of its range"),
        ("rho", 1.01, "the rho is out of its range"),
        ("strength", -0.1, "the strength is out of its range"),
        ("strength", 1.1, "the strength is out of its range"),
        ("likeness_low", 0.875, "the likeness_low is out of its range"),
        ("likeness_within", [0.2, 0.1, 0.3], "the likeness_within is out of its range"),
        ("likeness_within", [0.1, 0.2], "another length"),
        ("n_plane", -1, "the n_plane is out of its range"),
        ("settings.emcl", "mystery", "the emcl is out of its range"),
        ("settings.emcl.sigma", -1.0, "EMCL's sigma must be positive"),
        ("settings.emcl.sigma", "0.3", "another type"),
        ("settings.emcl.signs", [1, 0], "EMCL's signs must be"),
        ("settings.emcl.strengths", ["0"], "another type"),
        ("settings.emcl.strengths", [], "must contain 0"),
        ("settings.emcl.more", 1, "does not belong there"),
        ("settings.emcl.start", ..., "missing"),
        ("settings.ncl", "clip2video", "the ncl is out of its range"),
        ("settings.ncl", {}, "missing"),
        ("settings.device", "cpu", "does not belong there"),
        ("settings.prior", "posterior", "the prior is out of its range"),
        ("settings.guard", "yes", "another type"),
        ("settings.metric", "euclid", "the settings' metric is out of its range"),
        ("report.score_std", "big", "another type"),
        ("report.hubs", {}, "missing"),
        ("report.hubs.before.largest", 0.5, "another type"),
        ("report.hubs.between", {}, "not that of a fit"),
        ("report.guard.applied", False, "not that of a fit"),
        ("report.guard.applied", [[]], "not that of a fit"),
        ("report.guard", [], "missing"),
        ("report.emcl.tried", [1], "missing"),
        ("report.emcl.tried", 5, "missing"),
        ("report.more", 1, "does not belong there"),
        ("report.citations", ["a", 1], "another type"),
        ("tensors.bias", ..., "missing"),
        ("tensors.bia", "0", "does not belong there"),
        ("tensors.bias", 0, "another type"),
        ("tensors.bias", "0" * 64, "not the one that was saved"),
        ("gallery_order", "0" * 64, "in their order"),
        ("named", False, "in their order"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_value_is_checked(folder, path, value, words):
    content = json.loads((folder / FACTS).read_text())
    at(path, value)(content)
    write(folder, content)
    refused(folder, words)


def test_a_newer_version_is_named(folder):
    content = json.loads((folder / FACTS).read_text())
    write(folder, {**content, "format_version": 3, "package_version": "9.9", "new": 1})
    text = refused(folder, "newer")
    assert "'9.9'" in text
    assert "upgrade" in text


@pytest.mark.parametrize("path", ["temperature", "level", "likeness_high", "report.score_std"])
def test_a_change_by_hand_is_noticed(folder, path):
    content = json.loads((folder / FACTS).read_text())
    at(path, 0.9375)(content)
    write(folder, content, seal=False)
    refused(folder, "changed after it was saved")


def test_layout_of_the_json_does_not_matter(folder):
    content = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(dict(sorted(content.items())), indent=7))
    same(load(folder), load(V1))


DEEP = 10**6
NOT_JSON = [
    (b"", "damaged or cut short"),
    (b"{", "damaged or cut short"),
    (b"\x00" * 50, "damaged or cut short"),
    (b"\xff\xfe{\x00}\x00", "damaged or cut short"),
    (b"[" * DEEP, "nested too deeply"),
    (b'{"a":' * (DEEP // 6), "nested too deeply"),
    (b"[" * 500 + b"]" * 500, "not a saved corrector|not text"),
    (b"[" + b"9" * 5000 + b"]", "damaged or cut short|not text"),
    (b"[NaN]", "not finite"),
    (b"[-Infinity]", "not finite"),
    (b'[{"a": 1, "b": 2, "a": 1}]', "a key is there twice"),
    (b"\xef\xbb\xbf[]", "damaged or cut short"),
]


@pytest.mark.parametrize("name", [FACTS, NAMES])
@pytest.mark.parametrize(("data", "words"), NOT_JSON, ids=range(len(NOT_JSON)))
def test_json_that_is_none(folder, name, data, words):
    (folder / name).write_bytes(data)
    refused(folder, words)


def test_traps_within_a_corrector(folder):
    text = (folder / FACTS).read_text()
    for old, new, words in [
        (r'"level": [^,]*', '"level": 1e999', "not finite"),
        (r'"level": [^,]*', '"level": Infinity', "not finite"),
        (r'"level": [^,]*', '"level": 1, "level": 1', "there twice"),
        (r'"settings": {', '"settings": {"prior": "auto", ', "there twice"),
        (r'"level": [^,]*', '"level": ' + '{"a":' * 900 + "1" + "}" * 900, "another type|deeply"),
        (r'"applied": true', '"applied": ' + "[" * 900 + "]" * 900, "of a fit|deeply"),
    ]:
        spoilt, count = re.subn(old, new, text)
        assert count == 1
        (folder / FACTS).write_text(spoilt)
        refused(folder, words)


def test_json_that_is_too_large(folder):
    for name in (FACTS, NAMES):
        shutil.copytree(V1, folder, dirs_exist_ok=True)
        os.truncate(folder / name, state.LARGEST[name] + 1)  # sparse
        refused(folder, "too large")


# --- what is refused: names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"0": "a"}, "not a list"),
        ("abcdefgh", "not a list"),
        (None, "not a list"),
        (["a"] * 7, "7 for 8 items"),
        ([], "0 for 8 items"),
        (["a"] * 7 + [8], r"names\[7\] = 8"),
        (["a"] * 8, "in their order"),
    ],
)
def test_names_must_be_those_of_the_gallery(folder, names, words):
    (folder / NAMES).write_text(json.dumps(names))
    refused(folder, words)


def test_names_in_another_order(folder):
    names = json.loads((folder / NAMES).read_text())
    (folder / NAMES).write_text(json.dumps(names[1:] + names[:1]))
    refused(folder, "in their order")


# --- what is refused: tensors --------------------------------------------------------------------


def rewrite(folder: Path, **changes: object) -> None:
    """The tensors with some of them replaced (None: taken away), by the usual library."""
    tensors = {**load_file(folder / TENSORS), **changes}
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, folder / TENSORS)


def poisoned(shape, value, place) -> torch.Tensor:
    out = torch.zeros(shape)
    out[place] = value
    return out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias": None}, "missing\n.*no bias"),
        ({"extra": torch.ones(1)}, "does not belong there\n.*extra"),
        ({"bias": torch.zeros(9)}, "another shape\n.*bias"),
        ({"bias": torch.zeros(8, 1)}, "another shape\n.*bias"),
        ({"gallery": torch.zeros(6, 8)}, "another shape\n.*gallery"),
        ({"bias": torch.zeros(8).double()}, "another dtype\n.*bias F64"),
        ({"bias": torch.zeros(8).half()}, "another dtype\n.*bias F16"),
        ({"bias": torch.zeros(8, dtype=torch.int32)}, "another dtype\n.*bias I32"),
        ({"bias": poisoned(8, torch.nan, 3)}, r"NaN or infinity\n.*bias\[3\] = nan"),
        ({"bank": poisoned((12, 6), -torch.inf, (2, 4))}, r"infinity\n.*bank\[2, 4\] = -inf"),
        ({"weight": poisoned(12, -1.0, 0)}, r"weight\[0\] = -1"),
        ({"weight": torch.ones(12) + poisoned(12, 1.0, 11)}, r"weight\[11\] = 2"),
        ({"gallery": torch.zeros(8, 6)}, r"unit vector\n.*gallery\[0\] = 0"),
        ({"bank": 1.001 * torch.eye(6).repeat(2, 1)}, r"unit vector\n.*bank\[0\] = 1.001"),
        ({"likeness.known": torch.ones(5, 6)}, r"unit vector\n.*likeness.known\[0\]"),
        ({"bias": torch.zeros(8)}, "not the one that was saved\n.*bias"),
        ({"gallery": torch.ones(8, 6) / 6**0.5}, "not the one that was saved\n.*gallery"),
    ],
)
def test_every_tensor_is_checked(folder, changes, words):
    rewrite(folder, **changes)
    refused(folder, words)


def test_swapped_tensors(folder):
    tensors = load_file(folder / TENSORS)
    tensors["potential"] = tensors["potential"].clamp(0.1, 1)
    rewrite(folder, weight=tensors["potential"], potential=tensors["weight"])
    refused(folder, "not the one that was saved\n.*(potential|weight)")


def tampered(folder: Path, change) -> None:
    """The safetensors file with its header changed as an object, the numbers as they are."""
    data = (folder / TENSORS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    (folder / TENSORS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("bias.data_offsets", [0, 10**12], "damaged"),
        ("bias.data_offsets", [0, 32], "damaged"),
        ("bias.data_offsets", [-32, 0], "damaged"),
        ("bias.data_offsets", [224, 192], "damaged"),
        ("bias.data_offsets", [10**4000, 10**4000], "damaged"),
        ("gallery.data_offsets", [0, 64], "damaged"),
        ("bias.data_offsets", [0], "damaged"),
        ("bias.data_offsets", "0, 32", "damaged"),
        ("bias.data_offsets", [0.0, 32.0], "damaged"),
        ("bias.shape", [10**4000], "damaged"),
        ("bias.shape", [-8], "damaged"),
        ("bias.shape", [8, 1], "another shape"),
        ("bias.shape", [True], "damaged"),
        ("bias.dtype", "F64", "damaged"),
        ("bias.dtype", 32, "damaged"),
        ("bias", [], "damaged"),
        ("bias.dtype", ..., "damaged"),
        ("gallery.shape", [6, 8], "another shape"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_that_lies(folder, path, value, words):
    tampered(folder, at(path, value))
    refused(folder, words)


def test_a_header_and_a_json_that_lie_alike_take_no_memory(folder):
    content = json.loads((folder / FACTS).read_text())
    content["n_bank"] = 1 << 38

    def change(header):
        end = 0
        for name, entry in header.items():
            if name in ("bank", "potential", "weight"):
                entry["shape"][0] = 1 << 38
            start, end = end, end + 4 * int(np.prod([int(n) for n in entry["shape"]], dtype=object))
            entry["data_offsets"] = [start, end]

    tampered(folder, change)
    write(folder, content)
    refused(folder, "cut short")
    with (folder / TENSORS).open("r+b") as file:  # 8 TiB that are really there, as a hole
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        end = max(entry["data_offsets"][1] for entry in header.values())
        try:
            file.truncate(8 + length + end)
        except OSError:
            pytest.skip("this file system has no files of that size")
    refused(folder, "does not fit into the memory")


def test_bytes_that_no_tensor_needs(folder):
    def change(header):
        max(header.values(), key=lambda entry: entry["data_offsets"])["data_offsets"][1] += 8

    tampered(folder, change)
    with (folder / TENSORS).open("ab") as file:
        file.write(b"\0" * 8)
    refused(folder, "damaged")


def test_a_corrector_larger_than_the_memory(folder, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda _: 30)  # 900 bytes
    refused(folder, "does not fit into the memory")


def header_of(length: int) -> bytes:
    return length.to_bytes(8, "little") + b"{}" + b" " * 40


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save({"bias": torch.ones(8), "bomb": Bomb()}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short, or not a safetensors"),
        (b"\x05\x00", "cut short, or not a safetensors"),
        (header_of(0), "damaged, cut short"),
        (header_of(2), "damaged, cut short"),
        (header_of(1 << 63), "cut short, or not a safetensors"),
        (header_of((1 << 64) - 1), "cut short, or not a safetensors"),
        (header_of(43), "cut short, or not a safetensors"),
        (b"\x06" + b"\x00" * 7 + b"[null]", "not a safetensors"),
        (b"\x08" + b"\x00" * 7 + b'{"a": ' + b"\xff" * 9, "damaged, cut short"),
        ((DEEP).to_bytes(8, "little") + b"[" * DEEP, "damaged, cut short"),
        (
            (30).to_bytes(8, "little") + b'{"bias": 1, "bias": 1' + b" " * 8 + b"}",
            "damaged, cut short",
        ),
        (b"text,video\n" * 100, "cut short, or not a safetensors"),
        *((pickle.dumps(Bomb(), protocol), "pickle") for protocol in (2, 3, 4, 5)),
        (pickle.dumps(Bomb(), 0), "not a safetensors"),
        (torch_file(), "zip archive"),
    ],
    ids=range(18),
)
def test_files_that_are_not_safetensors(folder, data, words):
    (folder / TENSORS).write_bytes(data)
    refused(folder, words)


def test_a_header_that_is_too_large(folder):
    data = (folder / TENSORS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    padding = b" " * (128 << 20)
    start = (length + len(padding)).to_bytes(8, "little")
    (folder / TENSORS).write_bytes(start + data[8 : 8 + length] + padding + data[8 + length :])
    refused(folder, "not a safetensors")


def test_too_short_and_too_long(folder):
    data = (folder / TENSORS).read_bytes()
    for cut in (1, 100, len(data) // 2, len(data) - 9):
        (folder / TENSORS).write_bytes(data[:-cut])
        refused(folder, "cut short")
    (folder / TENSORS).write_bytes(data + b"\0")
    refused(folder, "damaged")


# --- what is refused: folders --------------------------------------------------------------------


def test_no_folder(folder, tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    refused(folder / FACTS, "is a file, not a folder")
    refused(Path("nul\0byte"), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "missing\n.*corrector.json")


@pytest.mark.parametrize("name", FILES)
def test_anything_but_a_file_is_refused_without_waiting(folder, name):
    path = folder / name
    path.unlink()
    refused(folder, f"missing\n.*{name}")
    path.symlink_to("nowhere")
    refused(folder, f"missing\n.*{name}")
    path.unlink()
    path.symlink_to(name)
    refused(folder, f"cannot be read\n.*{name}")
    path.unlink()
    path.mkdir()
    refused(folder, f"not a regular file\n.*{name}")
    path.rmdir()
    os.mkfifo(path)
    refused(folder, f"not a regular file\n.*{name}")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(folder, f"not a regular file\n.*{name}")
    path.unlink()
    path.symlink_to("/etc/passwd")
    text = refused(folder, "damaged|not a safetensors")
    assert "/bin/" not in text  # its lines are not shown around


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    refused(folder, "cannot be read\n.*Permission denied")


def test_nothing_is_imported_by_a_name_in_the_files(folder):
    """Loading in a fresh interpreter loads no module that the package does not load itself."""
    (folder / "hostile_name.py").write_text("raise SystemExit('imported')")
    content = json.loads((folder / FACTS).read_text())
    content["settings"]["emcl"] = "hostile_name"
    write(folder, content)
    code = (
        "import sys; from emcl_plugin.state import load; before = set(sys.modules)\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(path)\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "print(sorted(m for m in set(sys.modules) - before if 'hostile' in m or m == 'pickle'))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(V1)],
        capture_output=True, text=True, cwd=folder, check=True,
    )  # fmt: skip
    assert out.stdout.split() == ["StateError", "[]"]


# --- damage at random ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return Path(shutil.copytree(V1, tmp_path_factory.mktemp("fuzz") / "saved"))


@st.composite
def damages(draw, size: int) -> list[tuple[str, int, int]]:
    kind = st.sampled_from(["flip", "set", "cut", "insert", "delete", "double"])
    return draw(
        st.lists(
            st.tuples(kind, st.integers(0, size - 1), st.integers(0, 255)), min_size=1, max_size=3
        )
    )


def damaged(data: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, place, value in damage:
        place = min(place, max(0, len(out) - 1))
        if kind == "cut":
            del out[place:]
        elif kind == "insert" or not out:
            out.insert(place, value)
        elif kind == "delete":
            del out[place : place + 1 + value // 16]
        elif kind == "double":
            out[place:place] = out[place : place + value]
        else:
            out[place] = out[place] ^ (1 << value % 8) if kind == "flip" else value
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_random_damage_is_refused_or_harmless(scratch, name):
    data, expected = (V1 / name).read_bytes(), scores(load(V1))

    @settings(max_examples=400)
    @given(damages(len(data)))
    def check(damage):
        (scratch / name).write_bytes(damaged(data, damage))
        try:
            found = load(scratch)
        except StateError:
            return
        assert torch.equal(scores(found), expected)
        same(found, load(V1))

    try:
        check()
    finally:
        (scratch / name).write_bytes(data)


def test_every_single_bit_of_the_numbers_counts(folder):
    data = (folder / TENSORS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(0)
    for place in rng.sample(range(start, len(data)), 60):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << rng.randrange(8)
        (folder / TENSORS).write_bytes(spoilt)
        refused(folder, "not the one that was saved|NaN|weight|unit vector")


def test_the_sums_are_those_of_the_bytes():
    content = json.loads((V1 / FACTS).read_text())
    tensors = load_file(V1 / TENSORS)
    for name, x in tensors.items():
        assert content["tensors"][name] == hashlib.sha256(x.numpy().tobytes()).hexdigest()
    names = json.loads((V1 / NAMES).read_text())
    joined = tensors["gallery"].numpy().tobytes()
    joined += json.dumps(names, separators=(",", ":")).encode()
    assert content["gallery_order"] == hashlib.sha256(joined).hexdigest()
    assert_array_equal(tensors["gallery"].shape, (8, 6))
