"""The report of a bank's fit, and what a bank is refused for."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from banks import data, fit, plain_bank_weights, plain_scores
from numpy.testing import assert_allclose
from oracles import banked, plain_masses, plain_mutual_share, plain_ncl, plain_spread

from emcl_plugin import NCL, BankReport
from emcl_plugin.bank import BANK, fit_corrector
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.evidence.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD

# --- the report --------------------------------------------------------------------------


CASES = {
    "default": {"emcl": "auto"},
    "dual": {"dual": True},
    "no guard": {"guard": False},
    "off": {"prior": "off", "emcl": "auto"},
    "even": {"prior": "even", "x": data(repeats=None)},
    "nothing": {"ncl": None},
}


@pytest.mark.parametrize("case", CASES)
def test_the_report_goes_into_json(case):
    """Without NaN or infinity, and says "bank"; the corrector keeps it."""
    settings = {"x": data(), **CASES[case]}
    corrector, report = fit(**settings)
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["protocol"] == report.protocol == "bank"
    assert written["guard"]["reason"] == report.guard.reason
    assert set(written["hubs"]) == {"before", "after"}
    assert any("2212.11790" in line for line in written["citations"])
    assert json.loads(json.dumps(corrector.facts)) == written
    fields = {field.name for field in dataclasses.fields(BankReport)}
    assert set(written) == fields - {"hubs_before", "hubs_after", "in_domain", "iterations"} | {
        "hubs",
        "kinship",
        "rounds",
    }
    with pytest.warns(DeprecationWarning, match="in_domain"):
        assert report.kinship == report.in_domain == written["kinship"]


@pytest.mark.parametrize("dual", [False, True])
def test_the_numbers_of_the_report_are_those_of_the_data(dual):
    x = data()
    corrector, report = fit(x, dual=dual)
    assert (report.bank, report.gallery, report.gallery_bank) == (130, 70, 90 * dual)
    S = plain_scores(x)
    assert_allclose(
        report.score_std, plain_spread(plain_scores(x, dual=dual), plain_bank_weights(x, dual=dual))
    )
    before = np.bincount(S.argmax(1), minlength=70)
    assert report.hubs_before.largest == before.max()
    assert report.hubs_before.largest_index == before.argmax()
    assert_allclose(report.hubs_before.never, (before == 0).mean())
    corrected = plain_scores(x, corrector) + corrector.bias.numpy()
    after = np.bincount(corrected.argmax(1), minlength=70)
    assert report.hubs_after.largest == after.max() < before.max()
    assert_allclose(report.hubs_after.never, (after == 0).mean())
    assert_allclose(report.guard.before, plain_mutual_share(plain_scores(x, dual=dual)))
    assert report.converged
    assert report.error <= 0.1
    assert report.iterations >= 1


def test_evenness_is_that_of_the_gentle_run_s_masses():
    """sum_j min(m_j, b_j) / sum_j b_j, with m of the texts' full marginals; to 1e-6."""
    x = data()
    S, w = plain_scores(x), plain_bank_weights(x)
    std = plain_spread(S, w)
    gentle = GENTLE_TEMPERATURE_STD * std
    g = plain_ncl(S, gentle, rho=GENTLE_RHO, w=w)[1] * gentle
    tau = BANK.temperature_std * std
    m, b = plain_masses(S, tau, g / tau, w), w.sum() / 70
    assert_allclose(fit(x)[1].evenness, np.minimum(m, b).sum() / w.sum(), rtol=1e-6)


@pytest.mark.parametrize(("n", "n_gallery"), [(3, 150), (10, 150), (40, 150), (200, 150), (40, 7)])
@pytest.mark.parametrize("dual", [False, True])
def test_coverage_is_the_share_that_is_among_some_query_s_ten_best(n, n_gallery, dual):
    """Of the gallery, whatever the gallery bank holds."""
    x = banked(1, n_gallery, n)
    among = {j for row in x.bank @ x.gallery.T for j in np.argsort(-row)[:10]}
    assert_allclose(fit(x, dual=dual)[1].coverage, len(among) / n_gallery)


def test_progress_is_told():
    stages = []
    fit(data(), progress=lambda *step: stages.append(step))
    assert {stage for stage, _, _ in stages} >= {"agreement", "sinkhorn"}
    assert all(0 < done <= total for _, done, total in stages)


# --- what is refused ---------------------------------------------------------------------


def spoilt(which, bad):
    sides = {name: getattr(data(), name).copy() for name in ("bank", "gallery", "gallery_bank")}
    sides[which][5] = bad
    return data()._replace(**sides)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"ncl": NCL(text_marginal=np.ones(70))}, InputValueError, "take no marginals"),
        ({"ncl": NCL(video_marginal=np.ones(70))}, InputValueError, "take no marginals"),
        ({"names": ("a",) * 69}, InputValueError, "(?s)one name per gallery item.*69 for 70"),
        ({"names": tuple(range(70))}, InputTypeError, "names are not all strings"),
        ({"x": data()._replace(gallery_bank=data().gallery_bank[:, 1:])}, InputValueError,
         r"(?s)gallery bank has another dimension.*\(90, 19"),
        ({"x": data()._replace(bank=data().bank[:, 1:])}, InputValueError,
         r"(?s)different dimensions.*130, 19.*160, 20"),
        ({"metric": "l2"}, InputValueError, "metric is not known"),
        ({"memory": 1000}, InputValueError, "memory budget is too small"),
        ({"emcl": "nothing"}, InputValueError, "no EMCL preset"),
        ({"prior": "bank"}, InputValueError, "this prior is not known"),
        *(({"x": spoilt(which, bad)}, InputValueError, rf"\[{place}")
          for which, place in (("bank", 5), ("gallery", 5), ("gallery_bank", 75))
          for bad in (0.0, np.nan)),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        fit(**{"x": data(), "dual": True, **change})


def test_vectors_are_matrices_of_floats():
    x = data()
    for wrong in (x.bank.astype(int), x.bank.tolist()):
        with pytest.raises(InputTypeError):
            fit_corrector(wrong, x.gallery)
        with pytest.raises(InputTypeError):
            fit_corrector(x.bank, wrong)
        with pytest.raises(InputTypeError):
            fit_corrector(x.bank, x.gallery, gallery_bank=wrong)
    for wrong in (x.bank[0], x.bank[:0]):
        with pytest.raises(InputValueError):
            fit_corrector(wrong, x.gallery)
