"""`fit`: what a bank taught is saved, with the settings that were told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from bank_files import (
    BACKWARD,
    FIT,
    FORWARD,
    NAMES,
    TEXT_BANK,
    VIDEO_BANK,
    data,
    everything,
    facts_of,
    reranker,
)
from numpy.testing import assert_array_equal

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.bank import BANK


@pytest.mark.parametrize("dual", [False, True], ids=["one bank", "both banks"])
@pytest.mark.parametrize("names", [False, True], ids=["no names", "names"])
@pytest.mark.parametrize("way", DIRECTIONS)
def test_fit_saves_what_the_bank_taught(folder, emcl, way, names, dual):
    x = data()
    bank, gallery, other = x.text_bank, x.video, x.video_bank
    options = (*TEXT_BANK, "--video", "v.npy", *(VIDEO_BANK if dual else ()))
    if way == BACKWARD:
        bank, gallery, other = x.video_bank, x.text, x.text_bank
        options = (*VIDEO_BANK, "--text", "t.npy", *(TEXT_BANK if dual else ()))
    options += ("--names", "ids.txt") if names else ()
    result = emcl("fit", *options, "--save", "new", "--json")
    wanted = Reranker().fit(
        bank, gallery, gallery_bank=other if dual else None, names=NAMES if names else ()
    )
    saved = Reranker.from_pretrained(folder / "new")
    assert torch.equal(saved.corrector_.bias, wanted.corrector_.bias)
    assert saved.corrector_.names == (NAMES if names else ())
    assert_array_equal(saved.transform(x.text), wanted.transform(x.text))
    told = json.loads(json.dumps(wanted.report_.to_dict()))
    assert facts_of(result) == {**told, "saved": "new"}
    asks = "--text" if way == FORWARD else "--video"
    assert f"Now try: emcl-rerank apply new {asks} q.npy" in result.words
    for words in ("200 bank queries x 200 gallery items", "  protocol  ", "guard", "written"):
        assert words in result.words
    assert ("in-domain" in result.words) == dual
    assert "transductive" not in result.words


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--emcl", "off"], {"emcl": None}),
        (["--emcl-strength", "-0.5"], {"emcl": EMCL(strength=-0.5)}),
        (["--emcl", "clip2video"], {"emcl": EMCL.preset("clip2video")}),
        (["--ncl", "off"], {"ncl": None}),
        (["--temperature", "0.05"], {"ncl": replace(BANK, temperature=0.05)}),
        (["--iterations", "20"], {"ncl": replace(BANK, iterations=20)}),
        (["--prior", "even", "--iterations", "20"], {"prior": "even", "ncl": NCL(iterations=20)}),
        (["--prior", "gentle"], {"prior": "gentle"}),
        (["--prior", "off"], {"prior": "off"}),
        (["--no-guard"], {"guard": False}),
        (["--metric", "dot"], {"metric": "dot"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.ConvergenceWarning")
def test_fit_keeps_the_settings_it_was_told(emcl, options, settings):
    result = emcl(*FIT, "-q", *options)
    assert (result.out, result.words) == ("", "")
    saved = Reranker.from_pretrained("new")
    wanted = reranker(names=(), settings=tuple(settings.items()))
    assert torch.equal(saved.corrector_.bias, wanted.corrector_.bias)
    assert torch.equal(saved.corrector_.change, wanted.corrector_.change)
    for name in ("emcl", "ncl", "prior", "guard", "metric"):
        assert getattr(saved, name) == getattr(wanted, name)


def test_verbose_fit_tells_more(emcl):
    words = emcl(*FIT).words
    assert "distinct subspaces" not in words
    assert "distinct subspaces" in emcl(*FIT, "--force", "-v").words


def test_force_replaces_a_corrector_and_nothing_else(fitted, emcl):
    before = everything(fitted)
    options = ("fit", *VIDEO_BANK, "--text", "t.npy", "--save", "fitted")
    emcl(*options, status=1)
    assert everything(fitted) == before
    emcl(*options, "--force")
    saved = Reranker.from_pretrained(fitted)
    assert torch.equal(saved.corrector_.bias, Reranker().fit(data().video_bank, data().text)
                       .corrector_.bias)  # fmt: skip
    (fitted / "thesis.txt").write_text("years of work")
    words = emcl(*options, "--force", status=1).words
    assert "holds other files too" in words
    assert (fitted / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("command", ["fit", "tune"])
def test_an_interrupted_fit_leaves_nothing(folder, emcl, monkeypatch, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = everything(folder)
    monkeypatch.setattr(Reranker, "fit", interrupt)
    options = ("--budget", "0.001s") if command == "tune" else ()
    result = emcl(
        command, *TEXT_BANK, *VIDEO_BANK, "--video", "v.npy", "--save", "new", *options, status=1
    )
    assert "interrupted; nothing was written" in result.words
    assert everything(folder) == before
