"""What a bank taught, applied to queries: scores of their own, growth, and what is refused."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    banked,
    plain_column_biases,
    plain_ends,
    plain_gate,
    plain_map,
    unit,
)
from scipy.special import logsumexp

from emcl_plugin import EMCL
from emcl_plugin.bank import BANK, fit_corrector
from emcl_plugin.corrector import DRIFT, Scores
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.likeness import open_to_all

F32, F64 = torch.float32, torch.float64
EXACT = replace(BANK, tolerance=1e-9, rounds=50_000)
METRICS = ("cosine", "dot")
EMCLS = {
    "no EMCL": None,
    "EMCL": EMCL(strength=-0.75),
    "stronger, not brought back": EMCL(strength=0.5, renormalize=False),
}
EVERY = pytest.mark.parametrize(
    ("metric", "emcl"), [(metric, emcl) for metric in METRICS for emcl in EMCLS]
)
seeds = st.integers(0, 10_000)


@functools.lru_cache
def data(metric="cosine", seed=0):
    """Queries, gallery and bank; lengths differ by up to two where they count."""
    found = banked(seed, n_gallery=90, n_bank=150, dimension=21)
    if metric == "cosine":
        return found
    lengths = np.random.default_rng(seed)
    return type(found)(*(x * lengths.uniform(1, 2, (len(x), 1)) for x in found))


@functools.lru_cache
def fitted(metric="cosine", emcl="EMCL", dtype="f8", seed=0, ncl=BANK, names=()):
    """A corrector for them."""
    x = data(metric, seed)
    return fit_corrector(
        x.bank.astype(dtype),
        x.gallery.astype(dtype),
        emcl=EMCLS[emcl],
        ncl=ncl,
        metric=metric,
        names=names,
    )[0]


def mixed(metric="cosine", n=75):
    """Queries of the bank's kind, some half like it, and some of another kind."""
    rng = np.random.default_rng(1)
    x = data(metric).queries
    away = np.array([0, 0.7, 1.2, 2, 5])[np.arange(n) % 5, None] * np.abs(x).mean()
    return x[rng.integers(0, len(x), n)] + away * rng.standard_normal((n, x.shape[1]))


def whole(blocks):
    return torch.cat(list(blocks))


def foreign(n, seed=0, dimension=21):
    return unit(1 + np.random.default_rng(seed).standard_normal((n, dimension)))


def crowd(n, seed=0):
    """New gallery items that are close to three of the queries."""
    rng = np.random.default_rng(seed)
    x = data().queries[rng.integers(0, 3, n)]
    return unit(x + 0.05 * rng.standard_normal(x.shape))


@pytest.mark.parametrize("metric", METRICS)
def test_the_data_are_worth_testing(metric):
    """Biases are applied, EMCL changes something, and the gate is open, half open and shut."""
    corrector = fitted(metric)
    assert len(corrector.change) > 3
    assert corrector.strength > 0.3
    assert float(corrector.bias.std()) > 0.02
    s = whole(corrector.vectors(mixed(metric)))[:, -1]
    assert (s == 0).sum() > 5
    assert (s == 1).sum() > 5
    assert ((s > 0) & (s < 1)).sum() > 5


# --- a query alone -----------------------------------------------------------------------

WAYS = {
    "scores": lambda corrector, x: (whole(corrector.scores(x)),),
    "scores without the gate": lambda corrector, x: (whole(corrector.scores(x, gate=False)),),
    "vectors": lambda corrector, x: (whole(corrector.vectors(x)),),
    "search": lambda corrector, x: corrector.search(x, 7),
}


@EVERY
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("way", WAYS)
def test_one_at_a_time_is_all_at_once_bit_for_bit(way, dtype, metric, emcl):
    corrector, queries = fitted(metric, emcl, dtype), mixed(metric)
    ask = WAYS[way]
    at_once = ask(corrector, queries)
    one_by_one = [ask(corrector, queries[i : i + 1]) for i in range(len(queries))]
    for found, parts in zip(at_once, zip(*one_by_one, strict=True), strict=True):
        assert found.shape[0] == len(queries)
        assert torch.equal(found, torch.cat(parts))


@given(
    st.sampled_from(list(WAYS)),
    st.sampled_from(METRICS),
    st.sampled_from(["f2", "f4", "f8"]),
    st.booleans(),
    st.lists(st.integers(1, 74), max_size=4),
    seeds,
)
def test_any_split_in_any_order_gives_the_same_bits(way, metric, dtype, tensors, cuts, seed):
    """Of arrays and of tensors of each dtype, also where only some of the queries are asked."""
    corrector, queries = fitted(metric, dtype="f4"), mixed(metric).astype(dtype)
    order = np.random.default_rng(seed).permutation(len(queries))[: 75 - seed % 20]
    if tensors:
        queries = torch.from_numpy(queries)
    ask = WAYS[way]
    parts = [ask(corrector, queries[part]) for part in np.split(order, sorted(cuts)) if len(part)]
    for found, pieces in zip(ask(corrector, queries), zip(*parts, strict=True), strict=True):
        assert torch.equal(found[order], torch.cat(pieces))


@pytest.mark.parametrize("threads", [1, 2])
def test_so_it_is_with_any_number_of_threads(threads):
    x = banked(3, 700, 300, 130)
    corrector = fit_corrector(x.bank.astype("f4"), x.gallery.astype("f4"))[0]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        at_once = whole(corrector.scores(x.queries))
        for i in (0, 1, 31, 32, 333, 699):
            assert torch.equal(whole(corrector.scores(x.queries[i : i + 1]))[0], at_once[i])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_arrays_tensors_and_mapped_files_give_the_same_bits(tmp_path, dtype):
    queries = mixed().astype(dtype)
    np.save(tmp_path / "x.npy", queries)
    corrector = fitted(dtype="f4")
    wanted = whole(corrector.scores(queries.astype("f4")))
    others = [np.asfortranarray(queries), np.load(tmp_path / "x.npy", "r"), queries.astype(">f4")]
    for x in (queries, *others, torch.from_numpy(queries), torch.from_numpy(queries).mT.mT):
        found = whole(corrector.scores(x))
        assert found.dtype == F32
        assert torch.equal(found, wanted)
    assert_array_equal(queries, mixed().astype(dtype))


# --- equation (e) ------------------------------------------------------------------------


def plain_state(corrector, x):
    """M x and s of queries, and M v, from the docstring in NumPy."""
    state = {
        name: getattr(corrector, name).double().numpy()
        for name in ("gallery", "bias", "basis", "change")
    }
    emcl = {"basis": state["basis"], "change": state["change"]}
    emcl["renormalize"] = corrector.renormalize
    x = np.asarray(x, float)
    x = unit(x) if corrector.metric == "cosine" else x
    known = corrector.likeness.known.double().numpy()
    ends = (corrector.likeness.low, corrector.likeness.high)
    gate = corrector.likeness
    s = plain_gate(known, ends, unit(x), gate.plane.double().numpy(), gate.within)
    return plain_map(x, **emcl), s, plain_map(state["gallery"], **emcl), state["bias"]


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-12), ("f4", 2e-4)])
def test_queries_score_and_rank_as_in_plain_numpy(metric, emcl, dtype, tolerance):
    """(e) in loops; scores to 1e-12, in float32 to 2e-4 (s magnifies a cosine's rounding)."""
    corrector, queries = fitted(metric, emcl, dtype), mixed(metric).astype(dtype)
    x, s, gallery, bias = plain_state(corrector, queries)
    plain = np.array([[x[i] @ v + s[i] * g for v, g in zip(gallery, bias, strict=True)]
                      for i in range(len(x))])  # fmt: skip
    found = whole(corrector.scores(queries)).double().numpy()
    assert_allclose(found, plain, rtol=0, atol=tolerance * np.abs(plain).max())
    without = whole(corrector.scores(queries, gate=False)).double().numpy()
    assert_allclose(without, x @ gallery.T + bias, rtol=0, atol=tolerance * np.abs(plain).max())
    if dtype == "f8":
        assert_array_equal((-found).argsort(1), (-plain).argsort(1))
        assert_array_equal(corrector.search(queries, 90)[1], (-plain).argsort(1))


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-12), ("f4", 1e-5)])
def test_scores_are_inner_products_in_one_more_dimension(metric, emcl, dtype, tolerance):
    """So that any vector index can rank by them, to 1e-12 and 1e-5 of the largest."""
    corrector, queries = fitted(metric, emcl, dtype), mixed(metric).astype(dtype)
    items = corrector.vectors_of_gallery()
    assert tuple(items.shape) == (90, 22)
    assert torch.equal(items[:, -1], corrector.bias)
    for gate in (True, False):
        vectors = whole(corrector.vectors(queries, gate=gate))
        assert tuple(vectors.shape) == (75, 22)
        scores = whole(corrector.scores(queries, gate=gate))
        size = float(scores.abs().max())
        assert_allclose(vectors @ items.T, scores, rtol=0, atol=tolerance * size)
    assert (vectors[:, -1] == 1).all()


def test_vectors_of_the_cosine_are_of_unit_length_but_for_what_emcl_lets_shrink():
    for emcl, inside in (("no EMCL", 1), ("EMCL", 1), ("stronger, not brought back", 1.01)):
        lengths = whole(fitted(emcl=emcl).vectors(mixed()))[:, :-1].norm(dim=1)
        assert lengths.max() >= inside - 1e-12
        if inside == 1:
            assert_allclose(lengths, 1, rtol=1e-12)


def test_a_vector_that_emcl_removes_whole_is_left_short():
    """It is noise, and blown up a hundredfold at most."""
    corrector = fitted(emcl="no EMCL")
    axis = torch.eye(21, dtype=F64)[:, :1]
    removed = replace(corrector, basis=axis, change=-torch.ones(1).double(), renormalize=True)
    sine = np.array([0, 1e-4, 1e-3, 0.01, 0.02, 1])
    x = np.zeros((6, 21))
    x[:, 0], x[:, 7] = np.sqrt(1 - sine**2), sine
    vectors = whole(removed.vectors(x))[:, :-1]
    assert_allclose(vectors.norm(dim=1), np.minimum(1, 100 * sine), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@given(magnitude=st.integers(-30, 30), seed=seeds)
def test_the_length_of_a_query_does_not_matter_to_the_cosine(dtype, magnitude, seed):
    """Each by a power of two of its own: the same bits; by any number: to 1e-5 and 1e-12."""
    rng = np.random.default_rng(seed)
    corrector, queries = fitted(dtype=dtype), mixed().astype(dtype)
    scores = whole(corrector.scores(queries))
    binary = 2.0 ** (magnitude + rng.integers(-3, 3, (75, 1)))
    assert torch.equal(whole(corrector.scores((binary * queries).astype(dtype))), scores)
    any_number = 10.0 ** rng.uniform(-20, 20, (75, 1))
    found = whole(corrector.scores((any_number * queries).astype(dtype), gate=False))
    wanted = whole(corrector.scores(queries, gate=False))
    assert_allclose(found, wanted, rtol=0, atol=1e-5 if dtype == "f4" else 1e-12)


def test_a_gallery_in_another_order_scores_in_that_order():
    """To 1e-14; ranks are the same items."""
    corrector, queries = fitted(names=tuple(f"v{i}" for i in range(90))), mixed()
    order = torch.from_numpy(np.random.default_rng(0).permutation(90))
    names = tuple(corrector.names[i] for i in order.tolist())
    moved = replace(
        corrector, gallery=corrector.gallery[order], bias=corrector.bias[order], names=names
    )
    scores = whole(corrector.scores(queries))
    assert_allclose(whole(moved.scores(queries)), scores[:, order], rtol=0, atol=1e-14)
    assert torch.equal(order[moved.search(queries, 10)[1]], corrector.search(queries, 10)[1])


@pytest.mark.parametrize("k", [1, 10, 90])
def test_search_gives_the_best_first(k):
    corrector, queries = fitted(dtype="f4"), mixed()
    scores = whole(corrector.scores(queries))
    values, indices = corrector.search(queries, k)
    assert tuple(values.shape) == tuple(indices.shape) == (75, k)
    assert torch.equal(values, scores.gather(1, indices))
    assert torch.equal(values, scores.sort(dim=1, descending=True).values[:, :k])


def test_scores_as_a_source_are_the_scores():
    """For metrics, a few rows at a time; columns would want all queries at once."""
    corrector, queries = fitted(dtype="f4"), mixed()
    source = Scores(corrector, queries)
    assert (source.shape, source.dtype) == ((75, 90), F32)
    wanted = whole(corrector.scores(queries))
    assert torch.equal(source.dense(), wanted)
    assert torch.equal(source.rows(3, 70), wanted[3:70])
    with pytest.raises(NotImplementedError):
        _ = source.T


# --- growth of the gallery ---------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("f8", 1e-11), ("f4", 1e-4)])
def test_a_copy_of_a_gallery_item_gets_its_bias(metric, emcl, dtype, tolerance):
    """In cosine of any length; to 1e-11 and 1e-4 of the biases' spread."""
    corrector = fitted(metric, emcl, dtype)
    copies = data(metric).gallery[30:60] * (7 if metric == "cosine" else 1)
    grown = corrector.with_items(copies)
    assert torch.equal(grown.bias[:90], corrector.bias)
    spread = float(corrector.bias.std())
    assert_allclose(grown.bias[90:], corrector.bias[30:60], rtol=0, atol=tolerance * spread)


def plain_mapped(corrector, x):
    """M of bank queries or gallery items, in NumPy."""
    emcl = [getattr(corrector, name).double().numpy() for name in ("basis", "change")]
    x = unit(x) if corrector.metric == "cosine" else x
    return plain_map(x, *emcl, renormalize=corrector.renormalize)


def bank_state(corrector):
    """What the slow formulas start from: M of the bank, its potentials, its weights."""
    names = ("bank", "potential", "weight")
    bank, potential, weight = (getattr(corrector, name).double().numpy() for name in names)
    return plain_mapped(corrector, bank), potential, weight


@EVERY
def test_new_items_get_the_bias_of_the_formula(metric, emcl):
    """(g) from the bank's potentials; on the constant of those that are there, to 1e-10."""
    corrector = fitted(metric, emcl)
    new = data(metric, seed=5).gallery[:40]
    bank, potential, weight = bank_state(corrector)
    settings = (potential, corrector.temperature, corrector.rho, weight)
    known = plain_column_biases(bank @ plain_mapped(corrector, data(metric).gallery).T, *settings)
    wanted = plain_column_biases(bank @ plain_mapped(corrector, new).T, *settings) - known.mean()
    for grown in (
        corrector.with_items(new),
        corrector.with_items(new[:15]).with_items(new[15:]),
        corrector.without(range(50)).with_items(new),
    ):
        found = grown.bias[-40:]
        assert_allclose(found, corrector.strength * wanted, rtol=0, atol=1e-10)


def test_items_that_go_again_leave_no_trace():
    """Bit for bit: gallery, biases, names and scores."""
    names = tuple(f"v{i}" for i in range(90))
    corrector, queries = fitted(dtype="f4", names=names), mixed()
    new = [f"new {i}" for i in range(33)]
    back = corrector.with_items(crowd(33), new).without(range(90, 123))
    assert torch.equal(back.gallery, corrector.gallery)
    assert torch.equal(back.bias, corrector.bias)
    assert back.names == corrector.names
    assert torch.equal(whole(back.scores(queries)), whole(corrector.scores(queries)))
    assert back.drift() == corrector.drift()


@given(st.lists(st.integers(0, 89), max_size=60), seeds)
def test_without_takes_away_those_and_keeps_the_order_of_the_others(gone, seed):
    names = tuple(f"v{i}" for i in range(90))
    corrector = fitted(names=names)
    rng = np.random.default_rng(seed)
    left = corrector.without([int(i) for i in rng.permutation(gone)])
    keep = [i for i in range(90) if i not in gone]
    assert len(left) == len(keep)
    assert left.names == tuple(names[i] for i in keep)
    assert torch.equal(left.gallery, corrector.gallery[keep])
    assert torch.equal(left.bias, corrector.bias[keep])
    scores = whole(corrector.scores(mixed()))[:, keep]
    assert_allclose(whole(left.scores(mixed())), scores, rtol=0, atol=1e-14)


def test_growth_leaves_the_corrector_it_started_from_alone():
    corrector = fitted()
    before = [getattr(corrector, x).clone() for x in ("gallery", "bias", "bank", "potential")]
    grown = corrector.with_items(crowd(20)).with_queries(foreign(20)).without([0, 5])
    grown.gallery[:] = 0
    grown.bank[:] = 0
    after = [getattr(corrector, x) for x in ("gallery", "bias", "bank", "potential")]
    assert all(map(torch.equal, after, before))


def test_new_items_are_not_the_array_that_came_in():
    """What happens to it later is of no concern, in "dot", too."""
    for metric in METRICS:
        corrector = fitted(metric)
        for new in (data(metric).queries[:9].copy(), torch.tensor(data(metric).queries[:9])):
            grown = corrector.with_items(new).with_queries(new)
            kept = grown.gallery.clone(), grown.bank.clone()
            new[:] = 1
            assert torch.equal(grown.gallery, kept[0])
            assert torch.equal(grown.bank, kept[1])


# --- growth of the bank ------------------------------------------------------------------


@EVERY
def test_new_queries_renew_all_biases_by_one_round(metric, emcl):
    """(f), on the constant of the potentials that are there, then (g); to 1e-7."""
    corrector = fitted(metric, emcl, ncl=EXACT)
    new = data(metric, seed=4).queries[:40]
    grown = corrector.with_queries(new)
    bank, potential, weight = bank_state(corrector)
    gallery = plain_mapped(corrector, data(metric).gallery)
    more = np.concatenate([bank, plain_mapped(corrector, new)])
    tau, rho = corrector.temperature, corrector.rho
    bias = corrector.bias.numpy() / corrector.strength
    f = -rho * tau * logsumexp((more @ gallery.T + bias) / tau, axis=1)
    f += (potential - f[:150]).mean()
    assert_allclose(grown.potential[:150], potential, rtol=0, atol=0)
    assert_allclose(grown.potential[150:], f[150:], rtol=0, atol=1e-7)
    f[:150] = potential
    weight = np.append(weight, np.ones(40))
    g = plain_column_biases(more @ gallery.T, f, tau, rho, weight)
    assert_allclose(grown.bias, corrector.strength * (g - g.mean()), rtol=0, atol=1e-7)
    assert len(grown.bank) == len(grown.weight) == 190


def test_a_bank_that_comes_again_changes_nothing():
    """Every query twice is every query once, to 1e-6 of the spread (of a converged fit)."""
    corrector = fitted(ncl=EXACT)
    again = corrector.with_queries(data().bank)
    spread = float(corrector.bias.std())
    assert_allclose(again.bias, corrector.bias, rtol=0, atol=1e-6 * spread)


def test_a_query_that_comes_five_hundred_times_more_changes_nothing():
    """Near-equal queries count once, in a fit; so they should in growth. To a tenth."""
    corrector = fitted(ncl=EXACT)
    again = corrector.with_queries(np.repeat(data().bank[:1], 500, axis=0))
    spread = float(corrector.bias.std())
    assert float((again.bias - corrector.bias).std()) < 0.1 * spread


def test_new_queries_are_of_the_bank_s_kind_from_then_on():
    """The gate is that of all of them, grouped by best match; others stay where they were."""
    corrector, new = fitted(), foreign(60)
    assert whole(corrector.vectors(new))[:, -1].mean() < 0.2
    grown = corrector.with_queries(new)
    s = whole(grown.vectors(np.concatenate([new, foreign(60, 1), mixed()])))[:, -1]
    assert s[:60].mean() > 0.98
    assert s[60:120].mean() > 0.8
    bank = np.concatenate([data().bank, new])
    ends = plain_ends(bank, (bank @ data().gallery.T).argmax(1))
    assert_allclose([grown.likeness.low, grown.likeness.high], ends, rtol=1e-9)
    without = replace(corrector, likeness=open_to_all(corrector.gallery))
    assert len(without.with_queries(new).likeness.known) == 0


def test_items_after_queries_are_on_the_constant_of_the_renewed_biases():
    """A copy of a gallery item still gets its bias."""
    corrector = fitted().with_queries(foreign(50))
    grown = corrector.with_items(data().gallery[:30])
    assert_allclose(grown.bias[90:], corrector.bias[:30], rtol=0, atol=1e-12)
    assert abs(float(corrector.bias.mean())) < 1e-12


@pytest.mark.parametrize("growth", ["items", "queries", "both"])
def test_a_corrector_without_biases_grows_without_biases(growth):
    """Its strength is 0, as where the guard held everything back."""
    corrector = fitted().weakened(0.0)
    if growth != "queries":
        corrector = corrector.with_items(crowd(20))
    if growth != "items":
        corrector = corrector.with_queries(foreign(20))
    assert not corrector.bias.any()
    assert corrector.drift() == 0
    assert torch.isfinite(whole(corrector.scores(mixed()))).all()


def test_weaker_biases_are_a_share_of_them_also_of_new_items():
    corrector = fitted()
    half = corrector.weakened(0.5)
    assert half.strength == 0.5 * corrector.strength
    assert torch.equal(half.bias, 0.5 * corrector.bias)
    new = crowd(20)
    wanted = 0.5 * corrector.with_items(new).bias
    assert_allclose(half.with_items(new).bias, wanted, rtol=1e-12)
    assert_allclose(half.drift(), corrector.drift(), rtol=1e-9)
    assert_allclose(half.renewed().bias, half.bias, rtol=0, atol=1e-12)


# --- drift -------------------------------------------------------------------------------


def plain_drift(corrector):
    """One more round of (f) and (g) by the formulas, against what there is."""
    bank, _, weight = bank_state(corrector)
    gallery = plain_mapped(corrector, corrector.gallery.numpy())
    tau, rho = corrector.temperature, corrector.rho
    bias = corrector.bias.numpy() / corrector.strength
    f = -rho * tau * logsumexp((bank @ gallery.T + bias) / tau, axis=1)
    g = plain_column_biases(bank @ gallery.T, f, tau, rho, weight)
    change = g - bias - (g - bias).mean()
    return np.sqrt((change**2).mean()) / bias.std()


@EVERY
def test_there_is_no_drift_right_after_the_fit(metric, emcl):
    """Up to NCL's tolerance: under 0.05 by default, under 1e-6 where that is 1e-9."""
    assert fitted(metric, emcl).drift() < 0.05
    assert fitted(metric, emcl, ncl=EXACT).drift() < 1e-6
    assert fitted(metric, emcl, dtype="f4").drift() < 0.05


def test_nor_is_there_where_a_gallery_bank_took_part():
    x = data()
    corrector = fit_corrector(x.bank, x.gallery, gallery_bank=x.gallery_bank, ncl=EXACT)[0]
    assert corrector.drift() < 0.01


@EVERY
def test_drift_is_that_of_one_more_round_in_plain_numpy(metric, emcl):
    corrector = fitted(metric, emcl)
    for grown in (
        corrector,
        corrector.with_items(data(metric, 7).gallery),
        corrector.with_queries(data(metric, 7).queries),
        corrector.without(range(60)),
    ):
        assert_allclose(grown.drift(), plain_drift(grown), rtol=1e-6, atol=1e-9)


def test_drift_grows_with_foreign_items_and_a_fit_brings_it_down():
    corrector = fitted()
    drifts = [corrector.with_items(crowd(n)).drift() for n in (5, 20, 80, 320)]
    assert (np.diff([corrector.drift(), *drifts]) > 0.01).all()
    assert drifts[-1] > DRIFT
    gallery = corrector.with_items(crowd(320)).gallery
    assert fit_corrector(corrector.bank, gallery, ncl=BANK)[0].drift() < 0.05


def test_drift_grows_with_queries_that_ask_for_something_else():
    corrector = fitted()
    drifts = [corrector.with_queries(crowd(n)).drift() for n in (2, 20, 200)]
    assert (np.diff([corrector.drift(), *drifts]) > 0).all()


# --- items on both sides -----------------------------------------------------------------


def test_seen_counts_the_queries_that_are_in_the_bank():
    """Copies, also rounded to float16, and in cosine of any length; no others."""
    corrector, bank, queries = fitted(dtype="f4"), data().bank, data().queries
    assert corrector.seen(queries) == 0
    assert corrector.seen(bank) == 150
    for dtype in ("f2", "f4", "f8"):
        assert corrector.seen(bank[:70].astype(dtype)) == 70
        assert corrector.seen(torch.from_numpy(bank[:70].astype(dtype))) == 70
    assert corrector.seen(torch.from_numpy(bank[:70]).bfloat16()) == 70
    for scale in (1e-9, 1e-3, 33.3, 1e9):
        assert corrector.seen((scale * bank[:40]).astype("f4")) == 40
    for k in (1, 31, 32, 33, 64):
        some = np.concatenate([queries[:k], bank[:k], -bank[:k], bank[:1]])
        assert corrector.seen(some) == k + 1


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e25])
def test_seen_counts_copies_of_any_magnitude(scale):
    """As they are scored."""
    copies = (scale * data().bank).astype("f4")
    assert fitted(dtype="f4").seen(copies) == 150


def test_seen_is_decided_by_the_squared_distance():
    """Of unit vectors: up to 1e-4, within which float16 stays and no other query comes."""
    corrector, bank = fitted(), data().bank
    away = np.random.default_rng(0).standard_normal(bank.shape)
    away = unit(away - (away * bank).sum(1, keepdims=True) * bank)
    for squared, count in ((5e-5, 150), (9e-5, 150), (1.1e-4, 0), (4e-4, 0)):
        cosine = 1 - squared / 2
        x = cosine * bank + np.sqrt(1 - cosine**2) * away
        assert corrector.seen(x) == count


def test_seen_looks_at_all_of_a_large_bank():
    rng = np.random.default_rng(0)
    bank = torch.from_numpy(unit(rng.standard_normal((20_000, 21))))
    corrector = replace(fitted(), bank=bank)
    assert corrector.seen(bank[[0, 8191, 8192, 16_384, 19_999]]) == 5
    assert corrector.seen(unit(rng.standard_normal((5, 21)))) == 0


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 91])
def test_k_must_be_in_range(k):
    with pytest.raises(InputValueError, match=f"(?s)k must be at least 1.*k={k}, 90 items"):
        fitted().search(mixed(), k)


CALLS = {
    "scores": (lambda corrector, x: whole(corrector.scores(x)), "queries"),
    "vectors": (lambda corrector, x: whole(corrector.vectors(x)), "queries"),
    "search": (lambda corrector, x: corrector.search(x, 3), "queries"),
    "seen": (lambda corrector, x: corrector.seen(x), "queries"),
    "with_items": (lambda corrector, x: corrector.with_items(x), "new items"),
    "with_queries": (lambda corrector, x: corrector.with_queries(x), "new bank queries"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("size", [1, 20, 22, 42])
def test_vectors_must_have_the_gallery_s_dimension(call, size):
    """One more is no way in either, for all the padding there is."""
    run, name = CALLS[call]
    with pytest.raises(InputValueError, match=f"(?s){name} have another dimension.*5, {size}"):
        run(fitted(), np.ones((5, size)))


@pytest.mark.parametrize("call", CALLS)
def test_vectors_must_be_a_matrix_of_floats(call):
    run = CALLS[call][0]
    for wrong in ([[1.0]], np.ones((2, 21), int)):
        with pytest.raises(InputTypeError):
            run(fitted(), wrong)
    for wrong in (np.ones(21), np.ones((0, 21)), np.ones((1, 2, 21))):
        with pytest.raises(InputValueError):
            run(fitted(), wrong)


@pytest.mark.parametrize("call", ["scores", "vectors", "search", "with_items", "with_queries"])
@pytest.mark.parametrize("row", [0, 31, 32, 70])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_zero_vector_is_refused_by_its_index(call, row, dtype):
    """In the third tile, too: a cosine with it is not defined."""
    run, x = CALLS[call][0], mixed().astype(dtype)
    x[row] = 0
    with pytest.raises(InputValueError, match=rf"(?s)all zeros.*\[{row}\]"):
        run(fitted(dtype="f4"), x)


def test_a_zero_vector_is_no_matter_to_the_inner_product():
    """Its scores are the biases, as far as the gate lets them."""
    corrector = fitted("dot")
    x = mixed("dot")
    wanted = whole(corrector.scores(x))
    x[70] = 0
    found = whole(corrector.scores(x, gate=False))
    assert torch.equal(found[70], corrector.bias)
    keep = [i for i in range(75) if i != 70]
    assert torch.equal(whole(corrector.scores(x))[keep], wanted[keep])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("call", ["scores", "vectors", "search", "with_items", "with_queries"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_by_its_index(bad, call, metric):
    run, x = CALLS[call][0], mixed(metric)
    x[70, 3] = bad
    with pytest.raises(InputValueError, match=r"(?s)NaN or infinity.*\[70, 3\] = -?(nan|inf)"):
        run(fitted(metric), x)


def test_a_number_too_large_for_the_corrector_is_refused():
    x = torch.from_numpy(mixed())
    x[70, 3] = 1e300
    with pytest.raises(InputValueError, match=r"(?s)NaN or infinity.*queries\[70, 3\]"):
        whole(fitted(dtype="f4").scores(x))


@pytest.mark.parametrize(
    ("named", "names"), [(True, ()), (True, ("a",)), (True, tuple("abcd")), (False, tuple("abc"))]
)
def test_either_every_item_has_a_name_or_none(named, names):
    corrector = fitted(names=tuple(f"v{i}" for i in range(90)) if named else ())
    with pytest.raises(InputValueError, match="every gallery item needs a name, or none has one"):
        corrector.with_items(crowd(3), names)


@pytest.mark.parametrize(("gone", "which"), [([-1], "-1"), ([0, 90], "90"), ([-2, 95], "-2")])
def test_an_unknown_item_cannot_go(gone, which):
    with pytest.raises(InputValueError, match=f"(?s)no such gallery item.*{which}.*0 to 89"):
        fitted().without(gone)


def test_not_all_items_can_go():
    with pytest.raises(InputValueError, match="this would leave no gallery"):
        fitted().without(range(90))
    assert len(fitted().without(range(89))) == 1
    assert len(fitted().without([])) == 90
    assert len(fitted().without([3, 3, 3])) == 89
