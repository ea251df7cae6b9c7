"""Cuts of a bank: no pair crosses, and every candidate is judged as a reranker is."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import unit
from pairs import linked

from emcl_plugin import Reranker
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.tune import cuts as module
from emcl_plugin.tune import tune
from emcl_plugin.tune.cuts import Cuts

seeds = st.integers(0, 10_000)
TRUTHS = {
    "one to one": GroundTruth.diagonal((60, 60)),
    "many to one": GroundTruth.from_index(np.arange(60) % 25, 25),
    "one to many": GroundTruth.from_index(np.arange(60) % 25, 25).T,
    "many to many": linked([(3, 4), (1, 1), (5, 2), (2, 6), (1, 3)] * 3),
    "uneven": linked([(1, 30), (9, 2), (2, 2), (1, 1), (1, 1)]),
}
EVERY = pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)


def halves(truth, seed=0):
    run = Cuts(None, None, truth, 60.0, 0.0, None, "cosine", None)
    return run._halves(np.random.default_rng(seed))


# --- cuts --------------------------------------------------------------------------------


def plain_groups(truth):
    """Which queries and items pairs hold together, by flooding."""
    nodes = [("q", k) for k in range(truth.shape[0])] + [("i", k) for k in range(truth.shape[1])]
    near = {node: set() for node in nodes}
    for query, item in zip(truth.query.tolist(), truth.item.tolist(), strict=True):
        near["q", query].add(("i", item))
        near["i", item].add(("q", query))
    seen, groups = set(), []
    for node in nodes:
        group, todo = set(), [node]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                group.add(one)
                todo += near[one]
        if group:
            groups.append(group)
    return groups


@EVERY
def test_groups_are_what_pairs_hold_together(truth):
    found = module._groups(truth)
    nodes = [("q", k) for k in range(truth.shape[0])] + [("i", k) for k in range(truth.shape[1])]
    mine = {}
    for node, group in zip(nodes, found.tolist(), strict=True):
        mine.setdefault(group, set()).add(node)
    assert sorted(map(sorted, mine.values())) == sorted(map(sorted, plain_groups(truth)))


def check_cut(truth, cut):
    """No pair crosses, nobody is on both sides, the gallery is all that was asked for."""
    known, asked, gallery = (set(x.tolist()) for x in cut)
    assert not known & asked
    pairs = list(zip(truth.query.tolist(), truth.item.tolist(), strict=True))
    assert not [pair for pair in pairs if pair[0] in known and pair[1] in gallery]
    assert not [pair for pair in pairs if pair[0] in asked and pair[1] not in gallery]
    assert known
    assert asked
    assert all(len(x) == len(set(x.tolist())) for x in cut)
    assert all((np.diff(x) > 0).all() for x in cut)  # the order of the bank stays
    return known, asked, gallery


@EVERY
@pytest.mark.parametrize("seed", range(5))
def test_a_cut_parts_the_bank_so_that_no_pair_crosses(truth, seed):
    known, asked, gallery = check_cut(truth, halves(truth, seed))
    assert known | asked == set(truth.query.tolist())
    largest = max(sum(kind == "i" for kind, _ in group) for group in plain_groups(truth))
    half = truth.shape[1] // 2
    assert half - largest < len(gallery) <= max(half, largest)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=12), seeds)
def test_whatever_the_pairs_a_cut_is_fair(groups, seed):
    truth = linked(groups, seed)
    check_cut(truth, halves(truth, seed))


@pytest.mark.parametrize(
    "groups",
    [
        [(5, 12), (5, 8)],
        [(1, 10), (1, 1), (1, 1)],
        [(30, 15), (2, 15)],
        [(1, 1)] * 2,
        [(1, 1)] * 30,
    ],
    ids=str,
)
def test_items_that_nobody_asks_for_are_in_nobody_s_way(groups):
    """Some of 60 items have no query: distractors."""
    truth = linked(groups)
    wide = GroundTruth(truth.query, truth.item, truth.grade, (truth.shape[0], 60))
    for seed in range(20):
        known, asked, gallery = check_cut(wide, halves(wide, seed))
        assert known | asked == set(truth.query.tolist())
        assert gallery <= set(truth.item.tolist())


@EVERY
def test_a_large_bank_is_sampled(truth, monkeypatch):
    """At most so many gallery items, and so many scores of bank x gallery."""
    monkeypatch.setattr(module, "MOST_ITEMS", 7)
    monkeypatch.setattr(module, "MOST_SCORES", 30)
    largest = max(sum(kind == "i" for kind, _ in group) for group in plain_groups(truth))
    for seed in range(5):
        known, asked, gallery = halves(truth, seed)
        assert len(gallery) <= max(7, largest)
        assert max(len(known), len(asked)) <= max(2, 30 // len(gallery))
        assert not set(known.tolist()) & set(asked.tolist())


def test_cuts_differ_from_cut_to_cut_and_from_seed_to_seed():
    truth = TRUTHS["one to one"]
    rng = np.random.default_rng(0)
    run = Cuts(None, None, truth, 60.0, 0.0, None, "cosine", None)
    asked = [tuple(run._halves(rng)[1].tolist()) for _ in range(10)]
    asked += [tuple(halves(truth, seed)[1].tolist()) for seed in range(1, 11)]
    assert len(set(asked)) == 20
    assert len({k for some in asked for k in some}) == 60


@pytest.fixture
def watched(monkeypatch):
    """What every candidate was fitted on, and what it was asked."""
    fits, asked = [], []

    def job(sim, sides, *options):
        fits.append(sides)
        return module_job(sim, sides, *options)

    def scores(corrector, queries):
        asked.append((len(fits), corrector, queries))
        return module_scores(corrector, queries)

    module_job, module_scores = module.Job, module.Scores
    monkeypatch.setattr(module, "Job", job)
    monkeypatch.setattr(module, "Scores", scores)
    return fits, asked


@EVERY
def test_no_query_is_asked_of_a_corrector_that_saw_it_or_its_items(truth, watched):
    """By the vectors themselves, all of them different."""
    rng = np.random.default_rng(0)
    queries, items = (unit(rng.standard_normal((n, 8))) for n in truth.shape)
    found = tune(queries, items, truth, cuts=2)
    fits, asked = watched
    assert len(asked) == 2 * sum(map(len, found.parts))

    def rows(x, of):
        found = np.asarray(x) @ of.T
        assert_allclose(found.max(1), 1)
        return set(found.argmax(1).tolist())

    for known, gallery in fits:
        seen = rows(known, queries)
        owned = set(truth.item[np.isin(truth.query, list(seen))].tolist())
        assert not owned & rows(gallery, items)
    for _, corrector, wanted in asked:
        assert not rows(wanted, queries) & rows(corrector.bank.numpy(), queries)


# --- numbers -----------------------------------------------------------------------------


def plain_cut_ranks(candidate, queries, items, truth, cut):
    """Ranks by a Reranker with the candidate's settings; of several right items the best."""
    known, asked, gallery = cut
    fitted = Reranker(candidate.emcl, candidate.ncl).fit(queries[known], items[gallery])
    S = fitted.transform(queries[asked])
    ranks = []
    for row, query in zip(S, asked, strict=True):
        right = np.isin(gallery, truth.item[truth.query == query])
        best = row[right].max()
        ranks.append(1 + (row[~right] > best).sum() + (row[~right] == best).sum() / 2)
    return np.array(ranks)


@functools.lru_cache
def one_cut(kind):
    """Tuned with one cut for each part: data, what was found, and the cuts."""
    truth = {
        "one to one": GroundTruth.diagonal((120, 120)),
        "many to one": GroundTruth.from_index(np.arange(200) % 90, 90),
        "many to many": linked([(3, 4), (1, 1), (5, 2), (2, 6), (1, 3)] * 8),
    }[kind]
    rng = np.random.default_rng(0)
    item, shared = rng.standard_normal((truth.shape[1], 8)), 1.5 * rng.standard_normal(8)
    query = np.stack([item[truth.item[truth.query == k]].mean(0) for k in range(truth.shape[0])])
    query += 0.3 * rng.standard_normal(query.shape)
    queries, items = (x.astype("f4") for x in (unit(query + shared), unit(item + 0.7 * shared)))
    cuts, original = [], Cuts._halves
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Cuts, "_halves", lambda self, rng: cuts.append(original(self, rng)) or cuts[-1]
        )
        found = tune(queries, items, truth, cuts=1)
    return queries, items, truth, found, cuts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "alone"),
    [
        ("one to one", False),
        ("many to one", False),
        ("many to many", False),
        pytest.param("one to one", True),
        pytest.param("many to one", True),
    ],
)
def test_every_candidate_is_judged_as_a_reranker_with_its_settings(kind, alone):
    """Hits and reciprocal ranks are those of fit and transform, query by query."""
    *data, found, cuts = one_cut(kind)
    assert found.cuts == len(cuts) == len(found.parts) == 2
    for part, cut in zip(found.parts, cuts, strict=True):
        for trial in part:
            if alone != (trial.candidate.name == "no NCL"):
                continue
            ranks = plain_cut_ranks(trial.candidate, *data, cut)
            asked = np.zeros(data[2].shape[0])
            asked[cut[1]] = 1
            assert_array_equal(trial.asked, asked)
            assert_array_equal(trial.gains[cut[1]], 1 / ranks)
            assert trial.r1 == pytest.approx(100 * (ranks == 1).mean())
            assert trial.mrr == pytest.approx((1 / ranks).mean())
