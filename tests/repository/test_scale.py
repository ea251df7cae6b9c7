"""The benchmark of cost against size: its fits find known laws, and it runs."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = (1000, 2000, 4000, 8000, 16000)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale_model

    return scale_model


@pytest.mark.parametrize(
    ("named", "coefficients"),
    [
        (("1", "n n"), (0.02, 3e-8)),
        (("1", "n n", "n n iterations"), (0.5, 2e-7, 1e-8)),
        (("n n d", "2 n k"), (2e-11, 2e-6)),
        (("1", "n n"), (0.0, 3e-8)),
    ],
)
def test_a_known_law_is_found_and_foretells_the_largest(model, named, coefficients):
    iterations = dict(zip(SIZES, (33, 80, 29, 41, 60), strict=True))
    at = [model.terms({"size": n, "iterations": iterations[n]}, 100, 512) for n in SIZES]
    seconds = [sum(c * x[name] for name, c in zip(named, coefficients, strict=True)) for x in at]
    law = model.fit(named, at[:-1], seconds[:-1])
    np.testing.assert_allclose(law.coefficients, coefficients, rtol=1e-6, atol=1e-9)
    assert law(at[-1]) == pytest.approx(seconds[-1])


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_slope_lies_in_its_interval(model, power):
    x = np.array(SIZES, dtype=float) ** 2
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal(len(x)))
    exact, found = model.slope(x, 7 * x**power), model.slope(x, 7 * x**power * noise)
    assert (exact.slope, exact.r2) == pytest.approx((power, 1))
    assert found.low < power < found.high
    assert found.r2 < exact.r2


def test_gpus_share_the_work_and_pay_for_the_sum(model):
    one, eight = (model.gpu(1_000_000, 512, gpus, True) for gpus in (1, 8))
    assert one[0][1] == 4 * 512 * 10**12  # each score twice
    assert [b[1] / a[1] for a, b in zip(one, eight, strict=False)] == [1 / 8] * 3
    assert eight[3][1] == 7 / 4 * 4e6
    assert model.gpu_seconds(1_000_000, 512, 1, True) == pytest.approx(sum(x[3] for x in one) * 2)


def test_examples_in_the_docstrings(model):
    import scale_report

    for module in (model, scale_report):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


@pytest.mark.usefixtures("model")
def test_the_page_shows_the_figures_that_were_kept(tmp_path):
    import scale_report

    shown, page = BENCHMARKS.parent / "docs" / "scale.md", tmp_path / "scale.md"
    page.write_text(shown.read_text())
    kept = json.loads((BENCHMARKS / "results" / "scale.json").read_text())
    scale_report.rewrite(page, scale_report.report(kept))
    assert page.read_text() == shown.read_text()


def test_it_runs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scale.py: begin -->\nold\n<!-- scale.py: end -->\nafter\n")
    methods = "product,candidates,sinkhorn-stored,pot-log-torch,flash-sinkhorn"
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--sizes", "200", "400"]
    command += ["--methods", methods, "--json", str(tmp_path / "a.json")]
    command += ["--docs", str(page), "--plot", str(tmp_path / "a.svg")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    rows = {(row["method"], row["size"]): row for row in figures["rows"]}
    ran = methods.split(",")[:-1]
    assert set(rows) == {(name, size) for name in ran for size in (200, 400)}, done.stderr
    assert all(row["seconds"] > 0 for row in rows.values())
    assert rows["product", 400]["peak_mib"] > 0.5  # the result is 0.61 MiB
    for name in ("sinkhorn-stored", "pot-log-torch"):
        assert 0 < rows[name, 400]["rounding"] < 1e-3
        assert 0 < rows[name, 400]["marginal"] < 0.5
    assert rows["candidates", 400]["R@1"] > rows["product", 400]["R@1"] + 5
    assert [entry["method"] for entry in figures["left_out"]] == ["flash-sinkhorn"]
    text = page.read_text()
    assert "old" not in text
    assert "POT sinkhorn_log, torch" in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert (tmp_path / "a.svg").stat().st_size > 1000
