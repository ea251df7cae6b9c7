"""Corrector: scores of new queries, independent of the batch, and refused inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from correctors import EVERY, METRICS, crowd, data, fitted, mixed, whole
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import banked, plain_gate, plain_map, unit

from emcl_plugin.bank import fit_corrector
from emcl_plugin.bank.corrector import Scores
from emcl_plugin.errors import InputTypeError, InputValueError

seeds = st.integers(0, 10_000)


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


@pytest.mark.slow
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
        assert found.dtype == torch.float32
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
    known = corrector.ood_gate.known.double().numpy()
    ends = (corrector.ood_gate.low, corrector.ood_gate.high)
    gate = corrector.ood_gate
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


def test_a_vector_that_emcl_removes_whole_is_left_short():
    """It is noise, and blown up a hundredfold at most; others are of unit length again."""
    corrector = fitted(emcl="no EMCL")
    axis = torch.eye(21, dtype=torch.float64)[:, :1]
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
    assert (source.shape, source.dtype) == ((75, 90), torch.float32)
    wanted = whole(corrector.scores(queries))
    assert torch.equal(source.dense(), wanted)
    assert torch.equal(source.rows(3, 70), wanted[3:70])
    with pytest.raises(NotImplementedError):
        _ = source.T


# --- items on both sides -----------------------------------------------------------------


def test_seen_counts_the_queries_that_are_in_the_bank():
    """Copies, also in float16 and of any length; no others. A large bank is read in parts."""
    corrector, bank, queries = fitted(dtype="f4"), data().bank, data().queries
    assert corrector.seen(queries) == 0
    for dtype in ("f2", "f4", "f8"):
        assert corrector.seen(bank.astype(dtype)) == 150
        assert corrector.seen(torch.from_numpy(bank.astype(dtype))) == 150
    assert corrector.seen(torch.from_numpy(bank).bfloat16()) == 150
    for scale in (1e-30, 1e-15, 1e-3, 33.3, 1e25):
        assert corrector.seen((scale * bank).astype("f4")) == 150
    for k in (1, 31, 32, 33, 64):
        some = np.concatenate([queries[:k], bank[:k], -bank[:k], bank[:1]])
        assert corrector.seen(some) == k + 1
    large = torch.from_numpy(unit(np.random.default_rng(0).standard_normal((20_000, 21))))
    assert replace(fitted(), bank=large).seen(large[[0, 8191, 8192, 16_384, 19_999]]) == 5


def test_seen_is_decided_by_the_squared_distance():
    """Of unit vectors: up to 1e-4, within which float16 stays and no other query comes."""
    corrector, bank = fitted(), data().bank
    away = np.random.default_rng(0).standard_normal(bank.shape)
    away = unit(away - (away * bank).sum(1, keepdims=True) * bank)
    for squared, count in ((5e-5, 150), (9e-5, 150), (1.1e-4, 0), (4e-4, 0)):
        cosine = 1 - squared / 2
        assert corrector.seen(cosine * bank + np.sqrt(1 - cosine**2) * away) == count


# --- what is refused ---------------------------------------------------------------------


NAMES = tuple(f"v{i}" for i in range(90))


@pytest.mark.parametrize(
    ("call", "names", "words"),
    [
        *((lambda c, k=k: c.search(mixed(), k), (), f"(?s)k must be at least 1.*k={k}, 90 items")
          for k in (0, -1, 91)),
        *((lambda c, new=new: c.with_items(crowd(3), new), old, "every gallery item needs a name")
          for old, new in ((NAMES, ()), (NAMES, ("a",)), (NAMES, "abcd"), ((), "abc"))),
        *((lambda c, gone=gone: c.without(gone), (), f"(?s)no such gallery item.*{which}.*0 to 89")
          for gone, which in (([-1], "-1"), ([0, 90], "90"), ([-2, 95], "-2"))),
        (lambda c: c.without(range(90)), (), "this would leave no gallery"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(call, names, words):
    with pytest.raises(InputValueError, match=words):
        call(fitted(names=names))


CALLS = {
    "scores": (lambda corrector, x: whole(corrector.scores(x)), "queries"),
    "vectors": (lambda corrector, x: whole(corrector.vectors(x)), "queries"),
    "search": (lambda corrector, x: corrector.search(x, 3), "queries"),
    "seen": (lambda corrector, x: corrector.seen(x), "queries"),
    "with_items": (lambda corrector, x: corrector.with_items(x), "new items"),
    "with_queries": (lambda corrector, x: corrector.with_queries(x), "new bank queries"),
}


@pytest.mark.parametrize("call", CALLS)
def test_vectors_must_be_a_matrix_of_floats_with_the_gallery_s_dimension(call):
    """One column more is no way in either, for all the padding there is."""
    run, name = CALLS[call]
    for size in (1, 20, 22, 42):
        words = f"(?s){name} have another dimension.*5, {size}"
        with pytest.raises(InputValueError, match=words):
            run(fitted(), np.ones((5, size)))
    for wrong in ([[1.0]], np.ones((2, 21), int)):
        with pytest.raises(InputTypeError):
            run(fitted(), wrong)
    for wrong in (np.ones(21), np.ones((0, 21)), np.ones((1, 2, 21))):
        with pytest.raises(InputValueError):
            run(fitted(), wrong)


@pytest.mark.parametrize("call", ["scores", "vectors", "search", "with_items", "with_queries"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("row", [0, 31, 32, 70])
def test_a_vector_that_is_none_is_refused_by_its_index(call, metric, row):
    """In the third tile, too. A cosine with a zero vector is not defined."""
    run = CALLS[call][0]
    for bad, dtype in ((np.nan, "f4"), (np.inf, "f8"), (-np.inf, "f8"), (1e300, "f4")):
        x = torch.from_numpy(mixed(metric))
        x[row, 3] = bad
        words = rf"(?s)NaN or infinity.*\[{row}, 3\] = -?(nan|inf)"
        with pytest.raises(InputValueError, match=words):
            run(fitted(metric, dtype=dtype), x)
    x = mixed(metric)
    x[row] = 0
    if metric == "cosine":
        with pytest.raises(InputValueError, match=rf"(?s)all zeros.*\[{row}\]"):
            run(fitted(metric), x)


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


@pytest.mark.parametrize(
    ("old", "new"),
    [("likeness", "ood_gate"), ("beside", "auxiliary"), ("beside_bias", "auxiliary_bias")],
)
def test_old_names_warn_at_the_callers_line(old, new):
    with pytest.warns(DeprecationWarning, match=f"Corrector.{old} is now {new}") as caught:
        assert getattr(fitted(), old) is getattr(fitted(), new)
    assert caught[0].filename == __file__
