"""Saved correctors: exact round trips, complete or absent, format 1 stays loadable."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved import DATA, V1, fitted, hubby, load, refused, same, write

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin.bank import manifest, persistence
from emcl_plugin.bank.ood_gate import OODGate
from emcl_plugin.bank.persistence import FILES, MANIFEST, NAMES, TENSORS, save
from emcl_plugin.errors import EmclWarning, InputFileError, NotFittedError, StateError

EXPECTED = DATA / "state_v1_expected.json"
TENSOR_NAMES = {
    "gallery", "bias", "basis", "change", "bank", "potential", "weight", "beside",
    "beside_bias", "likeness.known", "likeness.plane",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the small corrector that is checked in, to be spoilt."""
    return Path(shutil.copytree(V1, tmp_path / "saved"))


def make_fixture() -> None:  # how tests/data/state_v1 was made; it is not to be made again
    text, video = hubby(n_text=12, n_video=8, dim=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        reranker = Reranker(emcl=EMCL(strength=-0.5), guard=False)
        reranker.fit(text, video, names=[f"clip {c}" for c in "abcdefgé"])
    corrector = reranker.corrector_
    plane = torch.eye(6, dtype=corrector.bank.dtype)[:, :1]
    gate = OODGate(corrector.bank[:5].clone(), 0.25, 0.875, plane, (0.125, 0.25, 0.75))
    reranker.corrector_ = replace(corrector, ood_gate=gate)
    queries = np.random.default_rng(1).standard_normal((3, 6)).round(2)
    scores = reranker.transform(queries)
    DATA.mkdir(exist_ok=True)
    save(reranker, V1, force=True)
    content = {"queries": queries.tolist(), "scores": scores.tolist()}
    EXPECTED.write_text(json.dumps(content, indent=1) + "\n")


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
    assert len(corrector.ood_gate.known) == 5
    assert 0 < float(next(corrector.vectors(expected["queries"] * np.ones(1)))[0, -1]) <= 1
    assert reranker.report_.gallery == 8
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file()) < 30_000


def test_older_formats_are_brought_up_step_by_step(folder, monkeypatch):
    def renamed(content):
        rest = {key: value for key, value in content.items() if key != "relaxation"}
        return {**rest, "rho": content["relaxation"], "format_version": 2}

    expected = load(V1)
    content = json.loads((folder / MANIFEST).read_text())
    content["relaxation"] = content.pop("rho")
    write(folder, content)
    refused(folder, "a value is missing.*\n.*rho")
    monkeypatch.setattr(manifest, "FORMAT", 2)
    refused(folder, "there is no such format")
    monkeypatch.setitem(manifest._UPGRADES, 1, renamed)
    same(load(folder), expected)
    refused(V1, "the file does not match format 1\n.*relaxation")


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


@pytest.mark.parametrize("name", [MANIFEST, NAMES])
def test_what_would_be_too_large_to_load_is_not_saved(tmp_path, monkeypatch, name):
    monkeypatch.setitem(persistence.LARGEST, name, 100)
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
    (folder / MANIFEST).write_text('{"kind": "something else"}')


def no_json(folder: Path) -> None:
    (folder / MANIFEST).unlink()


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
    write, written = persistence._write, []

    def failing(file, parts):
        if len(written) == count:
            file.write_bytes(b"half of it")
            raise error
        written.append(file)
        write(file, parts)

    monkeypatch.setattr(persistence, "_write", failing)
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
    write = persistence._write

    def slow(file, parts):
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / "thesis.txt").write_text("years of work")
        write(file, parts)

    monkeypatch.setattr(persistence, "_write", slow)
    with pytest.raises(InputFileError, match="appeared"):
        save(fitted(), tmp_path / "saved")
    assert [p.name for p in tmp_path.rglob("*")] == ["saved", "thesis.txt"]
