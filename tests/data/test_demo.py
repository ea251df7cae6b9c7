"""The demo shows the gain that the package promises on real embeddings."""

from __future__ import annotations

import json

import numpy as np
from click.testing import CliRunner

from emcl_plugin.cli.main import command


def test_demo_prints_a_table_of_both_directions():
    result = CliRunner().invoke(command, ["demo"])
    assert result.exit_code == 0, result.output
    for words in ("R@1", "R@10", "MdR", "cosine", "emcl_plugin", "video -> text", "transductive"):
        assert words in result.output


def test_demo_gains_six_points_of_r1_on_average():
    rows = json.loads(CliRunner().invoke(command, ["demo", "--json"]).output)["metrics"]
    mean = {
        m: np.mean([r["R@1"] for r in rows if r["method"] == m]) for m in ("cosine", "emcl_plugin")
    }
    assert 40 < mean["cosine"] < 47
    assert mean["emcl_plugin"] >= mean["cosine"] + 6


def test_demo_saves_its_embeddings(tmp_path):
    folder = tmp_path / "new"
    result = CliRunner().invoke(command, ["demo", "--save", str(folder)])
    assert "emcl-rerank --text" in result.output
    assert np.load(folder / "text.npy").shape == np.load(folder / "video.npy").shape
