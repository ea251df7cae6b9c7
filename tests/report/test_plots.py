"""The figures: their numbers, their tables, and the files that they are written to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from studies import FIGURES

from emcl_plugin.errors import InputFileError, InputValueError
from emcl_plugin.report.hub_plots import probability
from emcl_plugin.report.page import render
from emcl_plugin.report.plots import FORMATS, NAMES, build, write_plots

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def test_probabilities_are_those_of_the_softmax(small):
    scores = small[0].before.dense().double()
    temperature = 0.15 * float(scores.std(correction=0))
    for axis, found in zip((1, 0), probability(small[0].before), strict=True):
        mass = torch.softmax(scores / temperature, dim=axis).sum(1 - axis)
        expected = np.sort((mass / mass.mean()).numpy())[::-1]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    error = small[0].hubness["text -> video"][0].normalization_error
    np.testing.assert_allclose(np.abs(probability(small[0].before)[0] - 1).mean(), error, rtol=1e-4)


def test_tables_of_the_figures_add_up(demo):
    plots = {plot.name: plot for plot in build(*demo)}
    n = demo[0].report.shape[0]
    for side in ("videos", "texts"):
        rows = plots[f"occurrence-{side}"].rows
        for column in (1, 2):
            assert sum(int(row[column]) for row in rows) == n
    ranks = np.array([row[1:] for row in plots["rank-change"].rows], dtype=int)
    first, last = (demo[0].rows[i].evaluation.text_to_video for i in (0, -1))
    assert ranks.sum() == n
    for axis, placement in ((1, first), (0, last)):
        share = 100 * ranks.sum(axis) / n
        np.testing.assert_allclose(share[0], placement.metric("R@1"))
        np.testing.assert_allclose(share[:2].sum(), placement.metric("R@5"))
        np.testing.assert_allclose(share[:3].sum(), placement.metric("R@10"))
    recall = {row[0]: row[1:] for row in plots["recall-text-to-video"].rows}
    for k in (1, 5, 10):
        assert recall[str(k)] == [f"{p.metric(f'R@{k}'):.1f}" for p in (first, last)]


@pytest.mark.slow
def test_every_figure_is_written_in_every_format(small, tmp_path):
    folder = tmp_path / "plots"
    paths = write_plots(folder, small[0], features=small[1])
    names = [*FIGURES, "modality-gap"]
    assert set(names) == set(NAMES)  # which are looked for before the work
    assert paths == [folder / f"{name}.{form}" for name in names for form in FORMATS]
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for path in paths:
        assert path.read_bytes().startswith(starts[path.suffix])
    with pytest.raises(InputFileError, match="exists already"):
        write_plots(folder, small[0])
    again = write_plots(folder, small[0], ["svg"], force=True)
    assert again == [folder / f"{name}.svg" for name in FIGURES]


def test_a_format_that_is_not_known(small, tmp_path):
    with pytest.raises(InputValueError, match="jpeg"):
        write_plots(tmp_path, small[0], ["jpeg"])


@pytest.mark.slow
def test_drawing_leaves_the_users_settings_alone(small):
    import matplotlib

    before = dict(matplotlib.rcParams)
    render(small[0], settings={})
    assert dict(matplotlib.rcParams) == before
