"""The estimator on a bank: fit, transform, search, growth, drift, and its conventions."""

from __future__ import annotations

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import banked, unit
from sklearn.base import clone

from emcl_plugin import EMCL, NCL, BankReport, Corrector, Report, Reranker, rescore
from emcl_plugin.bank import fit_corrector
from emcl_plugin.errors import DriftWarning, InputValueError, NotFittedError, OverlapWarning

NAMES = tuple(f"video {i}" for i in range(80))
seeds = st.integers(0, 10_000)


@functools.lru_cache
def data(dtype="f8"):
    """80 queries and their gallery, 120 bank queries and theirs."""
    return type(banked(0))(*(x.astype(dtype) for x in banked(0, 80, 120, 24)))


def fitted(dtype="f8", *, names=(), **settings):
    """A new one each time."""
    x = data(dtype)
    return Reranker(**settings).fit(x.bank, x.gallery, names=names)


def crowd(n, seed=0):
    """Gallery items that three of the queries ask for."""
    rng = np.random.default_rng(seed)
    x = data().queries[rng.integers(0, 3, n)]
    return unit(x + 0.05 * rng.standard_normal(x.shape))


# --- fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"emcl": None, "ncl": NCL(temperature_std=0.3)},
        {"emcl": EMCL(strength=-0.5), "prior": "gentle", "guard": False},
        {"prior": "even", "metric": "dot", "memory": 1 << 30, "device": "cpu"},
        {"ncl": None},
    ],
)
@pytest.mark.parametrize("dual", [False, True])
def test_fit_is_fit_corrector_with_the_estimator_s_settings(settings, dual):
    """The same biases, to the last bit, and the same report."""
    x = data()
    extra = {"gallery_bank": x.gallery_bank} if dual else {}
    reranker = Reranker(**settings)
    assert reranker.fit(x.bank, x.gallery, names=NAMES, **extra) is reranker
    corrector, report = fit_corrector(x.bank, x.gallery, names=NAMES, **extra, **settings)
    assert isinstance(reranker.corrector_, Corrector)
    assert isinstance(reranker.report_, BankReport)
    assert torch.equal(reranker.corrector_.bias, corrector.bias)
    assert reranker.corrector_.names == NAMES
    assert reranker.report_ == report
    assert reranker.report_.protocol == "bank"


def test_fit_leaves_the_settings_as_they_were_given():
    """As scikit-learn's clone wants it; a clone is not fitted."""
    settings = {"emcl": EMCL(strength=-0.5), "ncl": NCL(rho=0.9), "prior": "gentle"}
    reranker = fitted(**settings)
    for name, value in settings.items():
        assert getattr(reranker, name) is value
    other = clone(reranker)
    assert other.get_params() == reranker.get_params()
    with pytest.raises(NotFittedError):
        _ = other.corrector_
    assert_array_equal(
        other.fit(data().bank, data().gallery).transform(data().queries),
        reranker.transform(data().queries),
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda r: r.transform(data().queries),
        lambda r: r.search(data().queries),
        lambda r: r.partial_fit(gallery=data().queries),
        lambda r: r.partial_fit(bank_queries=data().queries),
        lambda r: r.remove([0]),
        lambda r: r.refit(),
        lambda r: r.drift_,
        lambda r: r.corrector_,
        lambda r: r.report_,
        lambda r: r.export_vectors(),
        lambda r: r.query_vectors(data().queries),
    ],
)
def test_before_fit_nothing_else_works(use):
    """The error is also an AttributeError, so that hasattr says no."""
    with pytest.raises(NotFittedError, match="call fit first"):
        use(Reranker())
    assert not hasattr(Reranker(), "corrector_")
    assert not hasattr(Reranker(), "drift_")


def test_a_fitted_one_can_be_copied():
    reranker = fitted()
    other = copy.deepcopy(reranker)
    assert_array_equal(other.transform(data().queries), reranker.transform(data().queries))
    other.remove([0])
    assert len(reranker.corrector_) == 80


def test_fit_again_forgets_what_was_before():
    x = data()
    reranker = fitted().partial_fit(gallery=crowd(3))
    reranker.fit(x.bank[:60], x.gallery[:50])
    wanted = Reranker().fit(x.bank[:60], x.gallery[:50])
    assert_array_equal(reranker.transform(x.queries), wanted.transform(x.queries))
    assert (reranker.report_.bank, reranker.report_.gallery) == (60, 50)


def test_fit_transform_is_transductive():
    """The texts that are scored make the correction: `rescore`, and its report."""
    x = data()
    reranker = Reranker(prior="even")
    scores = reranker.fit_transform(x.queries, x.gallery)
    wanted = rescore(None, (x.queries, x.gallery), prior="even")
    assert_array_equal(scores, wanted.scores)
    assert type(reranker.report_) is Report
    assert reranker.report_.protocol == "transductive"
    assert not hasattr(reranker, "corrector_")


# --- transform and search ----------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("fit_library", ["numpy", "torch"])
@pytest.mark.parametrize("fit_dtype", ["f4", "f8"])
def test_what_comes_out_is_of_the_queries_kind(library, dtype, fit_library, fit_dtype):
    """Library and dtype, whatever the bank's were; query vectors in at least float32."""
    bank, gallery = data(fit_dtype).bank, data(fit_dtype).gallery
    queries = data(dtype).queries
    if fit_library == "torch":
        bank, gallery = torch.from_numpy(bank), torch.from_numpy(gallery)
    if library == "torch":
        queries = torch.from_numpy(queries)
    reranker = Reranker().fit(bank, gallery)
    out = reranker.transform(queries)
    scores, indices = reranker.search(queries, 5)
    vectors = reranker.query_vectors(queries)
    for found, shape in ((out, (80, 80)), (scores, (80, 5)), (vectors, (80, 25))):
        assert type(found) is type(queries)
        assert tuple(found.shape) == shape
    assert out.dtype == scores.dtype == queries.dtype
    assert str(vectors.dtype)[-7:] == ("float64" if fit_dtype == "f8" else "float32")
    assert type(indices) is type(queries)
    assert str(indices.dtype)[-5:] == "int64"
    items = reranker.export_vectors()
    assert isinstance(items, np.ndarray)
    assert_allclose(np.asarray(vectors) @ items.T, np.asarray(out, "f8"), rtol=0, atol=5e-3)


def test_bfloat16_and_gradients_are_accepted():
    queries = torch.tensor(data().queries, dtype=torch.bfloat16, requires_grad=True)
    out = fitted("f4").transform(queries)
    assert out.dtype == torch.bfloat16
    assert not out.requires_grad


@functools.lru_cache
def shared(dtype):
    return fitted(dtype)


def test_search_by_an_index_finds_the_same():
    pytest.importorskip("faiss")
    reranker, queries = shared("f4"), data("f4").queries
    values, indices = reranker.search(queries, 5)
    found = reranker.search(queries, 5, index=reranker.to_faiss())
    assert_array_equal(found[1], indices)
    assert_allclose(found[0], values, atol=1e-5)
    assert found[0].dtype == values.dtype


def test_scores_too_large_for_the_queries_dtype_are_refused():
    x = data()
    reranker = Reranker(metric="dot").fit(300 * x.bank, 300 * x.gallery)
    with pytest.raises(InputValueError, match="do not fit into float16"):
        reranker.transform((300 * x.queries).astype("f2"))


def test_queries_of_the_bank_are_told():
    """How many; a search says nothing, and queries of their own neither."""
    reranker, x = shared("f8"), data()
    with pytest.warns(OverlapWarning, match="3 of the 10 queries are in the bank") as told:
        reranker.transform(np.concatenate([x.bank[:3], x.queries[:7]]))
    assert told[0].filename == __file__
    with pytest.warns(OverlapWarning, match="1 of the 1 queries is in the bank"):
        reranker.transform(4 * x.bank[5:6])
    reranker.transform(x.queries)
    reranker.search(x.bank)


# --- growth ------------------------------------------------------------------------------


def test_new_items_are_found_and_the_others_keep_their_scores():
    """To rounding, in the places after them."""
    x = data()
    reranker = fitted(names=NAMES)
    before = reranker.transform(x.queries)
    new = x.queries[:4] + 1e-3
    assert reranker.partial_fit(gallery=new, names=list("abcd")) is reranker
    after = reranker.transform(x.queries)
    assert_allclose(after[:, :80], before, rtol=0, atol=1e-12)
    assert_array_equal(reranker.search(x.queries[:4], 1)[1][:, 0], np.arange(80, 84))
    assert reranker.corrector_.names == (*NAMES, *"abcd")


def test_new_queries_renew_the_biases():
    """Towards those of a fit with all of them."""
    x = data()
    settings = {
        "emcl": None,
        "ncl": NCL(temperature_std=0.4, rho=0.8, tolerance=1e-6, iterations=999),
    }
    half = Reranker(**settings).fit(x.bank[:60], x.gallery)
    wanted = fitted(**settings).corrector_
    gap = [half.corrector_.bias.numpy() / half.corrector_.strength]
    half.partial_fit(bank_queries=x.bank[60:])
    gap.append(half.corrector_.bias.numpy() / half.corrector_.strength)
    off = [np.std(bias - wanted.bias.numpy() / wanted.strength) for bias in gap]
    assert off[1] < 0.5 * off[0]
    assert len(half.corrector_.bank) == 120


def test_both_at_once_is_queries_first():
    x = data()
    new, more = crowd(5), banked(3, 10, 40, 24).bank
    both = fitted().partial_fit(new, more).corrector_
    by_turns = fitted().partial_fit(bank_queries=more).partial_fit(gallery=new).corrector_
    assert torch.equal(both.bias, by_turns.bias)
    assert len(both) == 85
    assert torch.equal(both.gallery[:80], fitted().corrector_.gallery)
    assert len(both.bank) == len(x.bank) + 40


def test_names_may_be_an_array():
    """As in fit."""
    reranker = fitted(names=np.array(NAMES))
    assert reranker.corrector_.names == NAMES
    reranker.partial_fit(gallery=crowd(3), names=np.array(list("abc")))
    assert reranker.corrector_.names == (*NAMES, *"abc")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.partial_fit(np.ones((3, 5)), crowd(5)), "dimension"),
        (lambda r: r.partial_fit(np.zeros((3, 24)), crowd(5)), "zeros"),
        (lambda r: r.partial_fit(), "nothing to add"),
        (lambda r: r.partial_fit(names=["a"]), "nothing to add"),
        (lambda r: r.partial_fit(gallery=crowd(3), names=["a"]), "every gallery item needs a name"),
        (lambda r: r.remove(["video 3"]), "no gallery item has this name"),
        (lambda r: r.fit(data().bank[:, :5], data().gallery), "dimension"),
    ],
)
def test_what_fails_changes_nothing(change, words):
    reranker = fitted()
    before = reranker.corrector_
    with pytest.raises(InputValueError, match=words):
        change(reranker)
    assert reranker.corrector_ is before


# --- shrinking ---------------------------------------------------------------------------


@given(st.sets(st.integers(0, 79), max_size=40))
def test_items_go_by_name_and_by_index(gone):
    """Mixed as well; of the others, scores stay, to rounding."""
    x = data()
    reranker = copy.copy(named())
    before = reranker.transform(x.queries)
    mixed = [NAMES[i] if i % 2 else np.int64(i) if i % 4 else i for i in gone]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DriftWarning)
        assert reranker.remove(mixed) is reranker
    keep = [i for i in range(80) if i not in gone]
    assert reranker.corrector_.names == tuple(NAMES[i] for i in keep)
    assert_allclose(reranker.transform(x.queries), before[:, keep], rtol=0, atol=1e-12)


@functools.lru_cache
def named():
    return fitted(names=NAMES)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["video 3", "video 99"], "(?s)no gallery item has this name.*'video 99'"),
        (["video 3", -1], "no such gallery item"),
        (list(range(80)), "would leave no gallery"),
        (list(NAMES), "would leave no gallery"),
    ],
)
def test_items_that_are_not_there_cannot_go_nor_can_all(items, message):
    reranker = copy.copy(named())
    with pytest.raises(InputValueError, match=message):
        reranker.remove(items)
    assert reranker.corrector_ is named().corrector_


# --- drift and refit ---------------------------------------------------------------------


def test_drift_is_told_where_it_is_large():
    """Nothing up to 25 %, then a warning with the number; growth is not held back."""
    reranker = fitted()
    assert reranker.drift_ < 0.05
    reranker.partial_fit(gallery=crowd(3))
    assert 0.01 < reranker.drift_ < 0.25
    with pytest.warns(DriftWarning, match=r"drifted by \d+ %.*call refit\(\)") as told:
        reranker.partial_fit(gallery=crowd(400))
    assert told[0].filename == __file__
    assert f"by {100 * reranker.drift_:.0f} %" in str(told[0].message)
    assert len(reranker.corrector_) == 483
    assert reranker.drift_ == reranker.corrector_.drift() > 0.25


def test_drift_is_told_where_items_go():
    """Here all but the hubs."""
    reranker = fitted()
    hubs_first = reranker.corrector_.bias.argsort().tolist()
    with pytest.warns(DriftWarning, match="drifted by") as told:
        reranker.remove(hubs_first[10:])
    assert told[0].filename == __file__


def test_refit_fits_anew_on_what_is_there_now():
    """Bank, gallery and names as they are; nothing has drifted then."""
    reranker = fitted(names=NAMES)
    reranker.partial_fit(gallery=crowd(6), bank_queries=crowd(9, 1), names=list("abcdef"))
    reranker.remove(["video 7"])
    before = reranker.corrector_
    assert reranker.refit() is reranker
    wanted = Reranker().fit(before.bank, before.gallery)
    assert torch.equal(reranker.corrector_.bias, wanted.corrector_.bias)
    assert reranker.corrector_.names == before.names
    assert (reranker.report_.bank, reranker.report_.gallery) == (129, 85)
    assert reranker.drift_ < 0.05


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_refit_of_what_was_just_fitted_changes_nothing(metric):
    """To rounding: near-duplicate queries are weighed anew, unit vectors stay."""
    reranker = fitted(metric=metric)
    before = reranker.corrector_
    reranker.refit()
    assert_allclose(reranker.corrector_.bias, before.bias, rtol=0, atol=1e-10)
    assert_allclose(reranker.corrector_.gallery, before.gallery, rtol=0, atol=1e-14)


def test_refit_keeps_the_settings():
    settings = {"emcl": None, "ncl": NCL(temperature_std=0.3, rho=0.7), "guard": False}
    steps = []
    reranker = fitted(**settings).refit(progress=lambda *step: steps.append(step))
    assert "sinkhorn" in {stage for stage, _, _ in steps}
    assert reranker.report_.rho == 0.7
    assert reranker.report_.emcl is None
    assert not reranker.report_.guard.enabled
    assert reranker.get_params()["ncl"] is settings["ncl"]


@pytest.mark.parametrize("how", ["partial_fit", "remove"])
def test_refit_at_fits_anew_beyond_that_drift_and_only_then(how):
    """Without a warning, either way."""
    grow = {
        "partial_fit": lambda r, at: r.partial_fit(gallery=crowd(60), refit_at=at),
        "remove": lambda r, at: r.remove(range(20, 80), refit_at=at),
    }[how]
    loose, strict = fitted(), fitted()
    assert grow(loose, 1e9) is loose
    assert loose.report_.gallery == 80  # of the fit, which stays
    drift = loose.drift_
    assert drift > 0.05
    assert grow(strict, 0.9 * drift) is strict
    assert strict.report_.gallery == len(strict.corrector_) == len(loose.corrector_)
    assert strict.drift_ < 0.05
    kept = fitted()
    grow(kept, 1.1 * drift)
    assert torch.equal(kept.corrector_.bias, loose.corrector_.bias)


def test_who_says_how_far_it_may_drift_is_not_warned_below():
    """However far that is."""
    reranker = fitted().partial_fit(gallery=crowd(400), refit_at=1e9)
    assert reranker.drift_ > 0.25


@pytest.mark.parametrize("settings", [{"ncl": None}, {"prior": "off"}, {"emcl": None, "ncl": None}])
def test_without_biases_nothing_drifts(settings):
    reranker = fitted(**settings)
    before = reranker.transform(data().queries)
    reranker.partial_fit(crowd(200), crowd(100, 1))
    assert reranker.drift_ == 0
    assert_allclose(reranker.transform(data().queries)[:, :80], before, rtol=0, atol=1e-12)


def test_a_gallery_that_shrank_to_one_item_can_be_fitted():
    """There is nothing to normalise then, and the guard says so."""
    reranker = fitted()
    reranker.remove(range(1, 80), refit_at=1e9).refit()
    assert reranker.transform(data().queries).shape == (80, 1)
    assert "too few to normalise" in reranker.report_.guard.reason
