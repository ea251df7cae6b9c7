"""Files of two sides and their banks, a saved corrector, and the program in this process."""

from __future__ import annotations

import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from bank_files import NAMES, SIDES, data, reranker

from emcl_plugin.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Demo files of 200 rows, where the program runs."""
    for name, side in zip(("t", "v", "tb", "vb"), SIDES, strict=True):
        np.save(tmp_path / f"{name}.npy", getattr(data(), side))
    (tmp_path / "ids.txt").write_text("\n".join(NAMES), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A corrector of texts' queries, saved once."""
    place = tmp_path_factory.mktemp("kept") / "fitted"
    reranker().save_pretrained(place)
    return place


@pytest.fixture
def fitted(folder, kept):
    shutil.copytree(kept, folder / "fitted")
    return folder / "fitted"


@pytest.fixture
def emcl(folder, monkeypatch, capsys):
    """Run the whole program in this process: what it printed, and what a person saw."""
    assert folder.samefile(".")

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["emcl-rerank", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, words = capsys.readouterr()
        assert ended.value.code == status, words
        assert "Traceback" not in words
        return SimpleNamespace(out=out, words=words)

    return run
