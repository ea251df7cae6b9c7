"""Every baseline against its formula in NumPy, and their common properties."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair, plain_sinkhorn, unit
from scipy.special import logsumexp

from emcl_plugin.baselines import METHODS, Direction, applicable
from emcl_plugin.baselines.sinkhorn import Joined
from emcl_plugin.baselines.vectors import Changed
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Dense, FeaturePair, Features

F64 = torch.float64
QUERIES, GALLERY, DIMENSION, BANK = 37, 29, 12, (31, 23)
BANKS = pytest.mark.parametrize("banks", [(), ("query",), ("gallery",), ("query", "gallery")])
MEMORY = 1 << 8  # blocks of one row, vectors not held


def data(banks=(), *, queries=QUERIES, gallery=GALLERY, dimension=DIMENSION, seed=0):
    """Unit vectors by name; a bank's entry is None where it is not asked for."""
    q, g = cone_pair(queries, gallery, dimension, seed)
    more_q, more_g = cone_pair(BANK[0] + 5, BANK[1], dimension, seed + 1)
    return {
        "queries": q,
        "gallery": g,
        "query_bank": more_q[: BANK[0]] if "query" in banks else None,
        "gallery_bank": more_g if "gallery" in banks else None,
    }


def direction(given, *, metric="cosine", dtype=F64, memory=None):
    """The same as a Direction whose scores are the features' products."""
    sides = {
        name: None if x is None else Features(x, metric=metric, dtype=dtype, memory=memory)
        for name, x in given.items()
    }
    scores = FeaturePair(sides["queries"], sides["gallery"], memory=memory)
    return Direction(scores, **sides)


# --- the formulas, slowly ---------------------------------------------------------------------


def references(d):
    q = d["queries"] if d["query_bank"] is None else d["query_bank"]
    return q, d["gallery"] if d["gallery_bank"] is None else d["gallery_bank"]


def probe(d):
    return references(d)[0] @ d["gallery"].T


def scores_of(d):
    return d["queries"] @ d["gallery"].T


def top_mean(B, k):
    return np.array([np.mean(sorted(column)[::-1][:k]) for column in B.T])


def plain_csls(d, k=10):
    return 2 * scores_of(d) - top_mean(probe(d), k)


def plain_is(d, temperature=0.05):
    p = np.exp(scores_of(d) / temperature) / np.exp(probe(d) / temperature).sum(0)
    return temperature * np.log(p)


def plain_active(S, B, k):
    found = {j for row in B for j in np.argsort(-row)[:k]}
    return [int(np.argmax(row)) in found for row in S]


def plain_dis(d, temperature=0.05, k=1):
    out, normalised = scores_of(d), plain_is(d, temperature)
    for i, active in enumerate(plain_active(out, probe(d), k)):
        if active:
            out[i] = normalised[i]
    return out


def plain_dsl(d, scale=100.0):
    S = scores_of(d)
    weights = np.exp(S * scale) / np.exp(S * scale).sum(0)
    return S * weights


def plain_dual_is(d, query_temperature=0.0199, gallery_temperature=0.03):
    S, own = scores_of(d), d["gallery_bank"] @ d["gallery"].T
    first = np.exp(S / query_temperature) / np.exp(probe(d) / query_temperature).sum(0)
    second = np.exp(S / gallery_temperature) / np.exp(own / gallery_temperature).sum(0)
    return np.log(first * second) / (1 / query_temperature + 1 / gallery_temperature)


def plain_dual_dis(d, query_temperature=0.0199, gallery_temperature=0.03, k=1):
    out, own = scores_of(d), d["gallery_bank"] @ d["gallery"].T
    by_query, by_item = plain_active(out, probe(d), k), plain_active(out, own, k)
    both = plain_dual_is(d, query_temperature, gallery_temperature)
    for i in range(len(out)):
        if by_query[i] and by_item[i]:
            out[i] = both[i]
        elif by_query[i]:
            out[i] -= query_temperature * logsumexp(probe(d) / query_temperature, axis=0)
        elif by_item[i]:
            out[i] -= gallery_temperature * logsumexp(own / gallery_temperature, axis=0)
    return out


def plain_nnn(d, k=128, alpha=0.75):
    return scores_of(d) - alpha * top_mean(probe(d), k)


def plain_sn(d, temperature=0.01, iterations=10):
    S = scores_of(d)
    g = plain_sinkhorn(S, temperature, iterations)[1]
    return S + temperature * (g - g.mean())


def plain_dbsn(d, temperature=0.01, iterations=10):
    wide = d["query_bank"] @ np.concatenate([d["gallery"], d["gallery_bank"]]).T
    g = plain_sinkhorn(wide, temperature, iterations)[1]
    return scores_of(d) + temperature * (g - g.mean())[: len(d["gallery"])]


def plain_push(x, bank, rate, share, own=None):
    similarity = {j: x @ y for j, y in enumerate(bank) if j != own}
    k = max(1, int(share * len(similarity)))
    near = sorted(similarity, key=similarity.get)[::-1][:k]
    moved = x - rate * sum(similarity[j] * bank[j] for j in near) / k
    return moved / np.linalg.norm(moved)


def plain_invgc(d, gallery_rate=0.1, query_rate=0.25, share=0.01):
    asked, items = references(d)
    moved = []
    for j, x in enumerate(d["gallery"]):
        own = j if d["gallery_bank"] is None else None
        first = plain_push(x, items, gallery_rate, share, own)
        moved.append((first + plain_push(x, asked, query_rate, share)) / 2)
    return d["queries"] @ unit(np.array(moved)).T


def plain_dn(d, weight=0.25):
    q, g = (x.mean(0) for x in references(d))
    return (d["queries"] - weight * q) @ (d["gallery"] - weight * g).T


def plain_centre(d):
    q, g = (x.mean(0) for x in references(d))
    return unit(d["queries"] - q) @ unit(d["gallery"] - g).T


def plain_abtt(d, directions=None):
    directions = max(1, DIMENSION // 100) if directions is None else directions
    q, g = references(d)
    covariance = (np.cov(q.T, bias=True) + np.cov(g.T, bias=True)) / 2
    top = np.linalg.eigh(covariance)[1][:, ::-1][:, :directions]
    out = [x - y.mean(0) for x, y in ((d["queries"], q), (d["gallery"], g))]
    return unit(out[0] - out[0] @ top @ top.T) @ unit(out[1] - out[1] @ top @ top.T).T


def plain_pca(d, rank=32):
    q, g = references(d)
    moments = (q.T @ q / len(q) + g.T @ g / len(g)) / 2
    top = np.linalg.eigh(moments)[1][:, ::-1][:, :rank]
    return unit(d["queries"] @ top @ top.T) @ unit(d["gallery"] @ top @ top.T).T


PLAIN = {
    "csls": (plain_csls, [{}, {"k": 3}]),
    "is": (plain_is, [{}, {"temperature": 0.2}]),
    "dis": (plain_dis, [{}, {"temperature": 0.2, "k": 3}]),
    "dsl": (plain_dsl, [{}, {"scale": 7.0}]),
    "dual-is": (plain_dual_is, [{}, {"query_temperature": 0.2, "gallery_temperature": 0.1}]),
    "dual-dis": (plain_dual_dis, [{}, {"k": 2, "gallery_temperature": 0.1}]),
    "nnn": (plain_nnn, [{}, {"k": 4, "alpha": 0.5}]),
    "sn": (plain_sn, [{}, {"temperature": 0.05, "iterations": 3}]),
    "dbsn": (plain_dbsn, [{}, {"temperature": 0.05, "iterations": 3}]),
    "invgc": (plain_invgc, [{}, {"gallery_rate": 0.7, "query_rate": 0.4, "share": 0.2}]),
    "dn": (plain_dn, [{}, {"weight": 0.5}]),
    "centre": (plain_centre, [{}]),
    "abtt": (plain_abtt, [{}, {"directions": 3}]),
    "pca": (plain_pca, [{}, {"rank": 4}]),
}
RUNS = [
    (name, banks)
    for name, method in METHODS.items()
    for banks in ((), ("query",), ("gallery",), ("query", "gallery"))
    if all(need.split()[0] in banks for need in method.needs if need != "features")
]
CASES = [(name, settings) for name, (_, choices) in PLAIN.items() for settings in choices]
CASES = [(name, settings, banks) for name, settings in CASES for n, banks in RUNS if n == name]


@pytest.mark.parametrize(("name", "settings", "banks"), CASES)
def test_is_its_formula(name, settings, banks):
    """To 1e-6 in float64, with the banks that it gets, for whichever protocol results."""
    given = data(banks)
    problem = direction(given)
    expected = PLAIN[name][0](given, **settings)
    found = METHODS[name].correct(problem, **settings)
    assert_allclose(found.dense(), expected, rtol=0, atol=1e-6)
    assert_allclose(found.T.dense(), expected.T, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "banks"), RUNS)
def test_does_not_depend_on_the_block_size(name, banks):
    given = data(banks, queries=9, gallery=7)
    whole, small = direction(given), direction(given, memory=MEMORY)
    assert small.scores.block_rows == 1
    assert not small.gallery.resident
    expected, found = METHODS[name].correct(whole), METHODS[name].correct(small)
    assert found.block_rows == 1
    assert_allclose(found.dense(), expected.dense(), rtol=0, atol=1e-10)
    assert_allclose(found.T.dense(), expected.T.dense(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_single_precision_is_close(name):
    given = data(("query", "gallery"))
    expected = METHODS[name].correct(direction(given)).dense()
    found = METHODS[name].correct(direction(given, dtype=torch.float32)).dense()
    assert found.dtype == torch.float32
    assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("name", "banks"), RUNS)
def test_changes_no_input(name, banks):
    given = data(banks)
    before = copy.deepcopy(given)
    problem = direction(given, metric="dot")
    held = problem.scores.dense()
    METHODS[name].correct(problem).dense()
    assert_array_equal(problem.scores.dense(), held)
    for key in ("queries", "gallery", *(f"{bank}_bank" for bank in banks)):
        assert_array_equal(given[key], before[key])


@pytest.mark.parametrize(("name", "banks"), RUNS)
def test_follows_a_permutation(name, banks):
    given = data(banks)
    rng = np.random.default_rng(5)
    order = {key: None if x is None else rng.permutation(len(x)) for key, x in given.items()}
    moved = {key: None if x is None else x[order[key]] for key, x in given.items()}
    expected = METHODS[name].correct(direction(given)).dense()
    found = METHODS[name].correct(direction(moved)).dense()
    assert_allclose(found, expected[order["queries"]][:, order["gallery"]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.bank])
def test_a_bank_changes_nothing_where_none_is_used(name):
    """``bank`` is False: the test queries are all that counts."""
    alone = METHODS[name].correct(direction(data())).dense()
    assert_array_equal(METHODS[name].correct(direction(data(("query",)))).dense(), alone)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.bank])
def test_with_a_bank_the_other_queries_do_not_matter(name):
    """``bank`` is True: a query's scores are the same without the rest of the queries."""
    given = data(("query", "gallery"))
    few = {**given, "queries": given["queries"][:5]}
    expected = METHODS[name].correct(direction(given)).dense()[:5]
    found = METHODS[name].correct(direction(few)).dense()
    assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_what_serves_is_one_number_per_item_or_other_vectors(name):
    """And what does not serve adds something to an item that depends on the query."""
    given = data(("query", "gallery"))
    given["query_bank"], given["gallery_bank"] = given["query_bank"][:3], given["gallery_bank"][:3]
    found = METHODS[name].correct(direction(given)).dense().numpy()
    if METHODS[name].needs == ("features",):
        assert METHODS[name].serves
        assert np.linalg.matrix_rank(found, tol=1e-9) <= DIMENSION
        return
    added = found - scores_of(given) * (2 if name == "csls" else 1)
    assert (np.ptp(added, axis=0).max() < 1e-9) == METHODS[name].serves


# --- traps ------------------------------------------------------------------------------------


def test_dis_leaves_queries_alone_whose_best_item_no_bank_query_retrieves():
    """A bank about item 0 only: the query for item 1 keeps its raw scores."""
    eye = np.eye(3)
    given = {"queries": eye[:2], "gallery": eye, "query_bank": eye[[0, 0]], "gallery_bank": None}
    found = METHODS["dis"].correct(direction(given)).dense()
    assert_array_equal(found[1], eye[1])
    assert found[0, 0] < 1


@pytest.mark.parametrize("name", ["is", "dis", "dual-is", "dsl", "sn", "dbsn"])
def test_low_temperatures_do_not_overflow(name):
    """Cosines of 1 in float32, where a bare exp(S / 0.001) is infinite."""
    given = data(("query", "gallery"))
    given["query_bank"][0], given["gallery_bank"][0] = given["gallery"][0], given["gallery"][0]
    low = {"scale": 1000.0} if name == "dsl" else {"temperature": 0.001}
    if name == "dual-is":
        low = {"query_temperature": 0.001, "gallery_temperature": 0.001}
    found = METHODS[name].correct(direction(given, dtype=torch.float32), **low).dense()
    assert torch.isfinite(found).all()


def test_repeated_queries_share_their_probability_in_dsl():
    """The trap that the docstring names: ten copies of a query lower its own best score."""
    given = data()
    copies = {**given, "queries": np.concatenate([given["queries"], [given["queries"][0]] * 9])}
    once = METHODS["dsl"].correct(direction(given)).dense()[0].max()
    assert METHODS["dsl"].correct(direction(copies)).dense()[0].max() < once


def test_an_item_is_no_neighbour_of_its_own_in_invgc():
    """Orthogonal items have no one to be pushed away from; only the queries move them."""
    eye = np.eye(4)
    given = {"queries": eye[:2], "gallery": eye, "query_bank": None, "gallery_bank": None}
    found = METHODS["invgc"].correct(direction(given), gallery_rate=0.9, query_rate=0.0)
    assert_allclose(found.dense(), eye[:2], atol=1e-12)
    one = {**given, "gallery": eye[:1]}
    assert_allclose(METHODS["invgc"].correct(direction(one)).dense(), eye[:2, :1], atol=1e-12)


@pytest.mark.parametrize("name", ["centre", "abtt", "pca", "invgc"])
def test_lengths_are_left_alone_for_inner_products(name):
    """With metric="dot" twice as long vectors have four times the scores (invgc: pushed more)."""
    given = data()
    if name == "invgc":
        longer = METHODS[name].correct(direction(given, metric="dot")).dense()
        assert not np.allclose(longer, METHODS[name].correct(direction(given)).dense())
        return
    longer = {key: None if x is None else 2 * x for key, x in given.items()}
    once = METHODS[name].correct(direction(given, metric="dot")).dense()
    assert_allclose(METHODS[name].correct(direction(longer, metric="dot")).dense(), 4 * once)


@pytest.mark.slow
def test_nnn_is_that_of_its_authors():
    """The PyPI package nnn-retrieval finds the same items with the same scores."""
    pytest.importorskip("tqdm", reason="nnn-retrieval needs tqdm")
    package = pytest.importorskip("nnn", reason="pip install nnn-retrieval, to compare with it")
    given = data(("query",))
    retriever = package.NNNRetriever(DIMENSION)
    ranker = package.NNNRanker(
        retriever, given["gallery"], given["query_bank"], alternate_ks=20, alternate_weight=0.75,
        batch_size=8,
    )  # fmt: skip
    scores, indices = ranker.search(given["queries"], top_k=GALLERY)
    found = METHODS["nnn"].correct(direction(given), k=20).dense().numpy()
    assert_array_equal(np.argsort(-found, axis=1), indices)
    assert_allclose(-np.sort(-found, axis=1), scores, rtol=0, atol=1e-12)


# --- the registry, the direction, the parts ---------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_a_user_has_to_know(name):
    """A formula here; title, paper with its year, needs, serving, settings, trap, source."""
    method = METHODS[name]
    assert list(PLAIN) == list(METHODS)
    assert method.name == name
    assert method.title
    assert any(character.isdigit() for character in method.paper)
    text = " ".join((inspect.getdoc(method.correct) or "").split())
    assert "Needs" in text or "Published with" in text
    assert ("Serves from an index" in text) == method.serves
    assert ("Does not serve from an index" in text) != method.serves
    assert "trap" in text
    assert "References" in text
    assert "setting" in text.lower()
    assert set(method.needs) <= {"features", "query bank", "gallery bank"}
    parameters = list(inspect.signature(method.correct).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[1:])
    assert all(p.default is not p.empty for p in parameters[1:])


@BANKS
def test_applicable_are_those_that_run(banks):
    """With features and banks, and with scores only; every other one says what it needs."""
    whole = direction(data(banks))
    for problem in (whole, Direction(Dense(whole.scores.dense(), dtype=F64))):
        there = applicable(problem)
        assert there == [method for method in METHODS.values() if not method.missing(problem)]
        for method in METHODS.values():
            if method in there:
                assert method.correct(problem).dense().shape == (QUERIES, GALLERY)
            else:
                with pytest.raises(InputValueError, match=r"this method needs (.* bank|features)"):
                    method.correct(problem)
    assert METHODS["pca"].missing(problem) == ("features",)
    assert METHODS["dbsn"].missing(problem) == ("query bank", "gallery bank")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("csls", {"k": 0}),
        ("nnn", {"k": 0}),
        ("nnn", {"alpha": -1.0}),
        ("is", {"temperature": 0.0}),
        ("is", {"temperature": float("nan")}),
        ("dis", {"k": 0}),
        ("dsl", {"scale": -1.0}),
        ("dual-is", {"query_temperature": 0.0}),
        ("dual-dis", {"gallery_temperature": 0.0}),
        ("sn", {"temperature": 0.0}),
        ("sn", {"iterations": 0}),
        ("invgc", {"share": 1.5}),
        ("abtt", {"directions": 0}),
        ("abtt", {"directions": DIMENSION + 1}),
        ("pca", {"rank": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name, settings):
    key, value = next(iter(settings.items()))
    with pytest.raises(InputValueError, match=f"{key}={value}"):
        METHODS[name].correct(direction(data(("query", "gallery"))), **settings)


def test_equal_vectors_have_no_principal_directions():
    same = {**data(), "queries": np.ones((3, 4)), "gallery": np.ones((2, 4))}
    with pytest.raises(InputValueError, match="do not vary"):
        METHODS["abtt"].correct(direction(same))


def test_the_opposite_direction_exchanges_sides_and_banks():
    forward = direction(data(("query",)))
    backward = forward.T
    assert_allclose(backward.scores.dense(), forward.scores.dense().T, atol=1e-12)
    assert backward.queries is forward.gallery
    assert backward.gallery_bank is forward.query_bank
    assert (forward.protocol, backward.protocol) == ("bank", "transductive")
    assert forward.probe().shape == (BANK[0], GALLERY)
    assert backward.probe() is backward.scores


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"queries": np.ones((3, DIMENSION))}, "do not belong together"),
        ({"gallery": None}, "nothing to be compared with"),
        ({"query_bank": np.ones((3, 5))}, "another dimension"),
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong, message):
    given = data(("query",))
    scores = Dense(scores_of(given))
    sides = {k: None if x is None else Features(x) for k, x in {**given, **wrong}.items()}
    with pytest.raises(InputValueError, match=message):
        Direction(scores, **sides)


@pytest.mark.parametrize("memory", [None, MEMORY])
def test_joined_sources_are_the_joined_matrices(memory):
    rng = np.random.default_rng(0)
    a, b, c = rng.random((7, 5)), rng.random((7, 3)), rng.random((4, 5))
    first, beside, below = (Dense(x, dtype=F64, memory=memory) for x in (a, b, c))
    wide, tall = Joined(first, beside, 1), Joined(first, below, 0)
    for source, expected in ((wide, np.hstack([a, b])), (tall, np.vstack([a, c]))):
        assert source.shape == expected.shape
        assert_array_equal(source.dense(), expected)
        assert_array_equal(source.T.dense(), expected.T)
    assert_array_equal(tall.rows(6, 9), np.vstack([a, c])[6:9])
    assert_array_equal(tall.rows(8, 9), np.vstack([a, c])[8:9])


def test_changed_vectors_are_held_only_where_their_source_is():
    x = data()["queries"]
    held = Changed(Features(x, dtype=F64), lambda block, start: block + start)
    lazy = Changed(Features(x, dtype=F64, memory=MEMORY), lambda block, start: block + start)
    assert held.resident
    assert not lazy.resident
    assert_allclose(lazy.rows(3, 4), x[3:4] + 3, atol=1e-12)
    assert_allclose(held.rows(0, len(x)), x, atol=1e-12)
