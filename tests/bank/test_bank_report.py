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
from emcl_plugin.bank import BANK, fit_corrector, overlap_message
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


def test_the_report_of_a_bank_that_teaches_nothing_goes_into_json():
    for bank in (data().bank[:1], data().bank[:2], np.repeat(data().bank[:1], 100, axis=0)):
        report = fit_corrector(bank, data().gallery)[1]
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["strength"] == 0


@pytest.mark.parametrize("dual", [False, True])
def test_the_numbers_of_the_report_are_those_of_the_data(dual):
    x = data()
    corrector, report = fit(x, dual=dual)
    assert (report.bank, report.gallery, report.gallery_bank) == (130, 70, 90 * dual)
    S = plain_scores(x)
    assert_allclose(
        report.score_std,
        plain_spread(plain_scores(x, dual=dual), plain_bank_weights(x, dual=dual)),
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


@pytest.mark.parametrize("n", [3, 10, 40, 200])
@pytest.mark.parametrize("dual", [False, True])
def test_coverage_is_the_share_that_is_among_some_query_s_ten_best(n, dual):
    """Of the gallery, whatever the gallery bank holds."""
    x = banked(1, 150, n)
    report = fit(x, dual=dual)[1]
    among = set()
    for row in x.bank @ x.gallery.T:
        among |= set(np.argsort(-row)[:10])
    assert_allclose(report.coverage, len(among) / 150)


def test_a_gallery_of_fewer_than_ten_is_covered():
    x = banked(1, 7, 40)
    assert fit(x)[1].coverage == 1


def test_progress_is_told():
    stages = []
    fit(data(), progress=lambda *step: stages.append(step))
    assert {stage for stage, _, _ in stages} >= {"agreement", "sinkhorn"}
    assert all(0 < done <= total for _, done, total in stages)


def test_names_are_kept():
    names = tuple(f"v{i}" for i in range(70))
    assert fit(data(), names=names)[0].names == names
    assert fit(data())[0].names == ()


def test_a_leak_is_told_in_the_right_number():
    assert overlap_message(1, 2, "queries").startswith("1 of the 2 queries is in the bank")
    assert overlap_message(2, 2, "texts").startswith("2 of the 2 texts are in the bank")


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("side", ["text_marginal", "video_marginal"])
def test_marginals_are_refused(side):
    with pytest.raises(InputValueError, match="a bank's biases take no marginals"):
        fit(data(), ncl=NCL(**{side: np.ones(70)}))


@pytest.mark.parametrize("count", [1, 69, 71])
def test_there_is_one_name_per_item(count):
    with pytest.raises(InputValueError, match=f"(?s)one name per gallery item.*{count} for 70"):
        fit(data(), names=("a",) * count)


def test_names_are_text():
    with pytest.raises(InputTypeError, match="names are not all strings"):
        fit(data(), names=tuple(range(70)))


def test_a_gallery_bank_has_the_gallery_s_dimension():
    x = data()
    with pytest.raises(InputValueError, match=r"(?s)gallery bank has another dimension.*\(90, 19"):
        fit(x._replace(gallery_bank=x.gallery_bank[:, 1:]), dual=True)
    with pytest.raises(InputValueError, match=r"(?s)different dimensions.*130, 19.*70, 20"):
        fit(x._replace(bank=x.bank[:, 1:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "l2"}, "metric is not known"),
        ({"memory": 1000}, "memory budget is too small"),
        ({"emcl": "nothing"}, "no EMCL preset"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(InputValueError, match=message):
        fit(data(), **settings)


@pytest.mark.parametrize("prior", ["bank", "nonsense", None])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(InputValueError, match="this prior is not known"):
        fit(data(), prior=prior)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_vector_that_is_none_is_refused_by_its_index(which, bad):
    x = [data().bank.copy(), data().gallery.copy(), data().gallery_bank.copy()]
    x[which][5] = bad
    with pytest.raises(InputValueError, match=rf"\[{75 if which == 2 else 5}"):
        fit_corrector(x[0], x[1], gallery_bank=x[2])


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
