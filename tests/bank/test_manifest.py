"""corrector.json and names.json: every altered value is refused with its place."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from saved import DEEP, V1, at, load, refused, same, write

from emcl_plugin.bank import persistence
from emcl_plugin.bank.persistence import MANIFEST, NAMES

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
    content = json.loads((folder / MANIFEST).read_text())
    assert content.keys() == TYPES.keys() | {"kind"}
    sealed = key != "sha256"
    write(folder, {**content, key: TYPES[key]}, seal=sealed)
    assert key in refused(folder, "another type" if sealed else "changed after it was saved")
    del content[key]
    write(folder, content, seal=sealed)
    assert key in refused(folder, "missing" if sealed else "changed after it was saved")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("kind", "a cake", "not a saved corrector"),
        ("format_version", 2, "newer version of emcl_plugin"),
        ("format_version", 0, "there is no such format"),
        ("protocol", "transductive", "range"),
        ("dtype", "float16", "range"),
        ("dimension", 0, ">= 1"),
        ("n_gallery", -8, ">= 1"),
        ("n_known", -1, ">= 0"),
        ("n_plane", 1 << 48, "<= 281"),
        ("metric", "euclid", "range"),
        ("temperature", 0.0, "> 0.0"),
        ("temperature", 10**400, "range"),
        ("rho", 0, "> 0.0"),
        ("strength", 1.1, "<= 1.0"),
        ("likeness_within", [0.1, 0.2], "length 3"),
        ("settings.emcl", "mystery", "range"),
        ("settings.emcl.sigma", -1.0, "EMCL's sigma must be positive"),
        ("settings.emcl.sigma", "0.3", "another type"),
        ("settings.emcl.strengths", [], "must contain 0"),
        ("settings.ncl", "clip2video", "range"),
        ("settings.prior", "posterior", "range"),
        ("settings.guard", "yes", "another type"),
        ("settings.metric", "euclid", "range"),
        ("report.score_std", "big", "another type"),
        ("report.hubs", {}, "missing"),
        ("report.hubs.before.largest", 0.5, "another type"),
        ("report.guard", [], "missing"),
        ("report.emcl.tried", [1], "missing"),
        ("tensors.bias", ..., "not the saved one"),
        ("tensors.bias", 0, "another type"),
        ("tensors.bias", "0" * 64, "not the saved one"),
        ("gallery_order", "0" * 64, "in the saved order"),
        ("named", False, "in the saved order"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_value_is_checked(folder, path, value, words):
    content = json.loads((folder / MANIFEST).read_text())
    at(path, value)(content)
    write(folder, content)
    refused(folder, words)


def test_a_newer_version_is_named(folder):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(sorted(content.items())), indent=7))
    same(load(folder), load(V1))  # the layout does not matter
    write(folder, {**content, "format_version": 3, "package_version": "9.9", "new": 1})
    text = refused(folder, "newer")
    assert "'9.9'" in text
    assert "upgrade" in text


@pytest.mark.parametrize("path", ["temperature", "level", "likeness_high", "report.score_std"])
def test_a_change_by_hand_is_noticed(folder, path):
    content = json.loads((folder / MANIFEST).read_text())
    at(path, 0.9375)(content)
    write(folder, content, seal=False)
    refused(folder, "changed after it was saved")


NOT_JSON = [
    (b"", "damaged or cut short"),
    (b"\xff\xfe{\x00}\x00", "damaged or cut short"),
    (b"[" * DEEP, "damaged or cut short"),
    (b"[" * 500 + b"]" * 500, "not a saved corrector|not text"),
    (b"[" + b"9" * 5000 + b"]", "damaged or cut short|not text"),
    (b"[NaN]", "not finite"),
]


@pytest.mark.parametrize("name", [MANIFEST, NAMES])
@pytest.mark.parametrize(("data", "words"), NOT_JSON, ids=range(len(NOT_JSON)))
def test_json_that_is_none(folder, name, data, words):
    (folder / name).write_bytes(data)
    refused(folder, words)


def test_traps_within_a_corrector(folder):
    text = (folder / MANIFEST).read_text()
    for old, new, words in [
        (r'"level": [^,]*', '"level": 1e999', "not finite"),
        (r'"level": [^,]*', '"level": Infinity', "not finite"),
        (r'"level": [^,]*', '"level": 1, "level": 1', "changed after"),
        (r'"level": [^,]*', '"level": ' + '{"a":' * 900 + "1" + "}" * 900, "changed after|damaged"),
        (r'"applied": true', '"applied": ' + "[" * 900 + "]" * 900, "changed after|damaged"),
    ]:
        spoilt, count = re.subn(old, new, text)
        assert count == 1
        (folder / MANIFEST).write_text(spoilt)
        refused(folder, words)


def test_json_that_is_too_large(folder):
    for name in (MANIFEST, NAMES):
        shutil.copytree(V1, folder, dirs_exist_ok=True)
        os.truncate(folder / name, persistence.LARGEST[name] + 1)  # sparse
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
        (["a"] * 8, "in the saved order"),
    ],
)
def test_names_must_be_those_of_the_gallery(folder, names, words):
    (folder / NAMES).write_text(json.dumps(names))
    refused(folder, words)
