"""Settings by cross-validation inside the bank: fair cuts, honest evidence, a budget that holds."""

from __future__ import annotations

import functools
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracles import asked_often, cone_pair, unit
from scipy import stats

from emcl_plugin import EMCL, NCL, Reranker
from emcl_plugin import tune as module
from emcl_plugin.bank import BANK
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.significance import compare
from emcl_plugin.truth import GroundTruth
from emcl_plugin.tune import (
    BOTH,
    DEFAULTS,
    EVIDENCE,
    FEWEST,
    FIRST,
    NCLS,
    NOTHING,
    RHOS,
    TEMPERATURES,
    Candidate,
    Trial,
    emcls,
    settings,
    tune,
)

WON, OTHER = NCLS[0], NCLS[1]
seeds = st.integers(0, 10_000)


@functools.lru_cache
def bank(n=60, seed=0, dtype="f4"):
    """Pairs that NCL helps a little."""
    return tuple(x.astype(dtype) for x in cone_pair(n, n, 16, seed, cone=1.5, noise=0.6))


@functools.lru_cache
def hubby(n=400, seed=0):
    """Pairs that are all but the same, well covered, with strong hubs: all of NCL is right."""
    return tuple(x.astype("f4") for x in cone_pair(n, n, 8, seed, cone=1.5, noise=0.3))


@functools.lru_cache
def popular(**kwargs):
    """Text and video side, and the truth."""
    *sides, owner = asked_often(**kwargs)
    return *sides, GroundTruth.from_index(owner, len(sides[1]))


def plain(found):
    """Everything but the time it took."""
    return {key: value for key, value in found.to_dict().items() if key != "seconds"}


def linked(groups, seed=0, extra=1):
    """Truth of groups of (queries, items) that pairs hold together, in any order."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(sum(column)) for column in zip(*groups, strict=True))
    order = [rng.permutation(n) for n in shape]
    pairs, at = set(), np.zeros(2, int)
    for queries, items in groups:
        for k in range(max(queries, items)):
            pairs.add((at[0] + min(k, queries - 1), at[1] + min(k, items - 1)))
            pairs.add((at[0] + min(k, queries - 1), at[1]))
        for _ in range(extra):
            pairs.add((at[0] + rng.integers(queries), at[1] + rng.integers(items)))
        at += (queries, items)
    moved = [(order[0][query], order[1][item]) for query, item in pairs]
    return GroundTruth.from_pairs(sorted(moved), shape)


TRUTHS = {
    "one to one": GroundTruth.diagonal((60, 60)),
    "many to one": GroundTruth.from_index(np.arange(60) % 25, 25),
    "one to many": GroundTruth.from_index(np.arange(60) % 25, 25).T,
    "many to many": linked([(3, 4), (1, 1), (5, 2), (2, 6), (1, 3)] * 3),
    "uneven": linked([(1, 30), (9, 2), (2, 2), (1, 1), (1, 1)]),
}
EVERY = pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)


def halves(truth, seed=0):
    run = module._Run(None, None, truth, 60.0, 0.0, None, {})
    return run._halves(np.random.default_rng(seed))


# --- what is tried -----------------------------------------------------------------------


def test_nothing_the_defaults_and_a_grid_around_them_are_tried():
    first, second = tune(*bank(), cuts=1).parts
    assert [trial.candidate for trial in first] == [NOTHING, DEFAULTS, *NCLS]
    assert [trial.candidate for trial in second] == [NOTHING, DEFAULTS, *emcls(DEFAULTS)]
    assert (NOTHING.emcl, NOTHING.ncl, DEFAULTS.emcl, DEFAULTS.ncl) == (None, None, "auto", BANK)
    grid = {(c.ncl.temperature_std, c.ncl.rho) for c in (DEFAULTS, *NCLS)}
    assert grid == {(t, rho) for t in TEMPERATURES for rho in RHOS}
    assert len(NCLS) == len(grid) - 1
    assert {c.emcl for c in NCLS} == {"auto"}
    for part in (first, second):
        assert max(Counter(trial.candidate.name for trial in part).values()) == 1


def test_emcl_is_tried_with_the_ncl_that_stands_and_alone():
    found = emcls(WON)
    strengths = [c.emcl.strength for c in found if isinstance(c.emcl, EMCL)]
    assert min(strengths) < 0 < max(strengths)
    assert Counter((c.emcl is None, c.ncl) for c in found) == {
        (True, WON.ncl): 1, (False, WON.ncl): len(strengths), (False, None): 1,
    }  # fmt: skip


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
    run = module._Run(None, None, truth, 60.0, 0.0, None, {})
    asked = [tuple(run._halves(rng)[1].tolist()) for _ in range(10)]
    asked += [tuple(halves(truth, seed)[1].tolist()) for seed in range(1, 11)]
    assert len(set(asked)) == 20
    assert len({k for some in asked for k in some}) == 60


@pytest.fixture
def watched(monkeypatch):
    """What every candidate was fitted on, and what it was asked."""
    fits, asked = [], []

    def job(sim, sides, **options):
        fits.append(sides)
        return module_job(sim, sides, **options)

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
    cuts, original = [], module._Run._halves
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module._Run, "_halves", lambda self, rng: cuts.append(original(self, rng)) or cuts[-1]
        )
        found = tune(queries, items, truth, cuts=1)
    return queries, items, truth, found, cuts


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


@pytest.mark.parametrize("kind", ["one to one", "many to one", "many to many"])
def test_candidates_differ_in_what_they_do(kind):
    """Otherwise the comparison above would show little."""
    for part in one_cut(kind)[3].parts:
        assert len({trial.mrr for trial in part}) >= 3


def trial_of(candidate, cuts, n):
    """A trial of (queries, ranks) by cuts."""
    trial = Trial(candidate, np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64))
    for queries, ranks in cuts:
        trial.add(queries, ranks)
    return trial


@given(seeds, st.integers(1, 5), st.integers(4, 60))
def test_z_is_that_of_a_paired_test_over_queries(seed, cuts, n):
    """mean d / (std d / sqrt(n)); a query that was asked in several cuts counts once."""
    rng = np.random.default_rng(seed)
    asked = [rng.permutation(n)[: rng.integers(3, n + 1)] for _ in range(cuts)]
    ranks = [[rng.integers(1, 9, len(some)) / 1.0 for some in asked] for _ in range(2)]
    one, two = (trial_of(WON, zip(asked, r, strict=True), n) for r in ranks)
    means = []
    for of in ranks:
        values = {k: [] for k in range(n)}
        for some, r in zip(asked, of, strict=True):
            for k, rank in zip(some.tolist(), r.tolist(), strict=True):
                values[k].append(1 / rank)
        means.append(np.array([np.mean(v) for v in values.values() if v]))
    difference = means[0] - means[1]
    z = difference.mean() / (difference.std() / np.sqrt(len(difference)))
    assert one.z(two) == pytest.approx(z, rel=1e-9)
    t = stats.ttest_rel(*means).statistic  # divides by n - 1
    assert one.z(two) == pytest.approx(t * np.sqrt(len(difference) / (len(difference) - 1)))
    assert two.z(one) == pytest.approx(-z, rel=1e-9)
    assert one.z(one) == 0
    assert one.mrr == pytest.approx(means[0].mean())


def test_right_is_a_rank_below_one_and_a_half():
    """A tie with one wrong item is rank 1.5, and no hit."""
    trial = trial_of(WON, [(np.arange(4), np.array([1.0, 1.5, 2.0, 1.0]))], 5)
    assert trial.r1 == 50
    assert trial.mrr == pytest.approx((1 + 2 / 3 + 1 / 2 + 1) / 4)


def test_the_gain_that_is_told_is_that_of_the_choice_over_nothing():
    found = tune(*hubby(200), cuts=2)
    part = found.parts[-1]
    nothing, chosen = part[0], next(t for t in part if t.candidate == found.chosen)
    before, after = (100 * t.hits[t.asked > 0] / t.asked[t.asked > 0] for t in (nothing, chosen))
    assert found.against_nothing == compare(before, after)
    assert found.against_nothing.gain == pytest.approx(chosen.r1 - nothing.r1)
    assert found.against_nothing.gain > 20


# --- the choice --------------------------------------------------------------------------


def test_where_other_settings_are_plainly_better_they_are_chosen():
    """And they are better for queries outside the bank, too."""
    queries, items = hubby(800)
    found = tune(queries[:400], items[:400], cuts=2)
    assert found.chosen == Candidate(
        "NCL 0.15 std, rho 1", "auto", NCL(temperature_std=0.15, rho=1.0)
    )
    assert found.reason == f"{found.chosen.name}: better than what stood by three standard errors"
    defaults, chosen = (
        next(t for t in found.parts[0] if t.candidate == c) for c in (DEFAULTS, found.chosen)
    )
    assert chosen.z(defaults) > EVIDENCE
    r1 = [
        (Reranker(c.emcl, c.ncl).fit(queries[:400], items[400:]).transform(queries[400:]).argmax(1)
         == np.arange(400)).mean()
        for c in (NOTHING, DEFAULTS, found.chosen)
    ]  # fmt: skip
    assert r1[0] + 0.2 < r1[1] < r1[2] - 0.05


def test_where_corrections_hurt_nothing_is_done():
    queries, items, truth = popular()
    found = tune(queries, items, truth, cuts=2, metric="dot")
    assert found.chosen is NOTHING
    assert found.reason == "on this bank doing nothing is better than any correction"
    assert found.against_nothing.gain == 0 == found.against_nothing.changed
    nothing, defaults, *_ = found.parts[0]
    assert nothing.z(defaults) > EVIDENCE
    assert found.to_dict()["chosen"] == {
        "name": "nothing", "emcl_strength": None, "temperature_std": None, "rho": None,
    }  # fmt: skip


def test_where_nothing_stands_out_the_defaults_stay():
    found = tune(*bank(200), cuts=2)
    assert found.chosen is DEFAULTS
    assert found.reason == "nothing tried was better than the defaults by three standard errors"
    assert max(t.z(found.parts[0][1]) for t in found.parts[0]) < EVIDENCE


@pytest.fixture
def judged(monkeypatch):
    """Choose by made-up reciprocal ranks: (z over what stands, mean gain) by candidate's name.

    ``None`` is a part that found no time. What is not named is as what stands, or for "nothing"
    worse by 10 standard errors.
    """

    def choose(*parts, n=400):
        stood = []
        noise = np.tile([-1.0, 1.0], n // 2)

        def part(_, stands, others, cuts, *__):
            made = parts[len(stood)]
            stood.append(stands)
            if made is None:
                return [], 0
            trials = []
            for candidate in (NOTHING, stands, *others):
                z, gain = made.get(candidate.name, (0, 0))
                if candidate is NOTHING and candidate.name not in made:
                    z, gain = -10, -0.02
                spread = gain / z * np.sqrt(n) if z else 0
                gains = 0.5 + (gain + spread * noise if candidate is not stands else 0 * noise)
                trials.append(Trial(candidate, 1.0 * (gains > 0.5), gains, np.ones(n, int)))
            return trials, cuts

        monkeypatch.setattr(module._Run, "part", part)
        found = tune(*bank(), cuts=3)
        return found, stood

    return choose


LEFT = "nothing tried was better than the defaults by three standard errors"
NONE = "on this bank doing nothing is better"


@pytest.mark.parametrize(
    ("first", "second", "chosen", "reason"),
    [
        ({}, {}, "defaults", LEFT),
        ({WON.name: (2.9, 0.1)}, {}, "defaults", LEFT),
        ({WON.name: (3.1, 0.1)}, {}, WON.name, f"{WON.name}: better"),
        ({WON.name: (3.1, 0.01)}, {}, WON.name, f"{WON.name}: better"),
        ({WON.name: (9, 0.01), OTHER.name: (2.9, 0.02)}, {}, "defaults", LEFT),
        ({WON.name: (4, 0.01), OTHER.name: (4, 0.02)}, {}, OTHER.name, OTHER.name),
        ({}, {"EMCL -1": (3.1, 0.1)}, "EMCL -1", "EMCL -1: better"),
        ({}, {"EMCL -1": (2.9, 0.1)}, "defaults", LEFT),
        ({}, {"no EMCL": (3.1, 0.1)}, "no EMCL", "no EMCL: better"),
        ({WON.name: (5, 0.1)}, {"EMCL +1": (5, 0.1)}, "EMCL +1", f"{WON.name}, then EMCL +1: "),
        ({WON.name: (5, 0.1)}, None, WON.name, f"{WON.name}: better"),
        ({}, None, "defaults", LEFT),
        ({"nothing": (1.1, 0.1)}, None, "nothing", NONE),
        ({}, {"nothing": (1.1, 0.01)}, "nothing", NONE),
        ({}, {"nothing": (0.9, 0.1)}, "defaults", LEFT),
        ({}, {"nothing": (0, 0)}, "defaults", LEFT),
        ({WON.name: (5, 0.1)}, {"nothing": (8, 0.2)}, "nothing", NONE),
        ({}, {"nothing": (-0.1, -0.01)}, "defaults", LEFT),
    ],
)  # fmt: skip
def test_what_stands_gives_way_to_three_standard_errors(judged, first, second, chosen, reason):
    """The best by mean reciprocal rank, if it is better by so much; and better than nothing."""
    found, stood = judged(first, second)
    assert found.chosen.name == chosen
    assert found.reason.startswith(reason)
    assert found.cuts == (3 if second is None else 6)
    assert stood[0] is DEFAULTS
    after = [name for name, (z, _) in first.items() if z > 3]
    assert stood[1].name == (after[-1] if LEFT not in reason and after else "defaults")
    if found.chosen.name.startswith(("EMCL", "no EMCL")):
        assert found.chosen.ncl == stood[1].ncl


def test_without_a_single_cut_the_defaults_are_given_and_it_says_why(judged):
    found, stood = judged(None)
    assert found.chosen is DEFAULTS
    assert (found.parts, found.cuts, found.against_nothing) == ((), 0, None)
    assert "too short for one cut; these are the defaults" in found.reason
    assert len(stood) == 1


# --- seed --------------------------------------------------------------------------------


def test_the_same_seed_and_cuts_give_the_same_numbers():
    """Whatever the state of the global generators, and without moving it."""
    first = tune(*bank(), cuts=2, seed=7)
    state = np.random.get_state()[1].copy()
    torch.manual_seed(5)
    again = tune(*bank(), cuts=2, seed=7)
    assert plain(again) == plain(first)
    assert_array_equal(np.random.get_state()[1], state)
    assert first.to_dict()["seed"] == 7


def test_another_seed_cuts_otherwise():
    mrr = [[t["MRR"] for t in tune(*bank(), cuts=1, seed=s).to_dict()["tried"][0]] for s in (0, 1)]
    assert mrr[0] != mrr[1]


def test_more_cuts_ask_more_queries():
    """Each at most once in a cut."""
    counts = [tune(*bank(), cuts=cuts).parts[0][0].asked for cuts in (1, 4)]
    assert [x.max() for x in counts] <= [1, 4]
    assert counts[0].sum() == 30
    assert counts[1].sum() == 120
    assert (counts[1] > 0).sum() > 45


# --- time --------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only where work is done: ``costs`` of one evaluation after the other."""

    def __init__(self, costs):
        self.now, self.costs, self.done = 1000.0, costs, 0

    def monotonic(self):
        return self.now

    def work(self):
        self.now += self.costs(self.done)
        self.done += 1


def clocked(budget, cuts=10, cost=lambda _: 1.0, **settings):
    """Tune with evaluations that take what they are told and find nothing: (found, time, cuts)."""
    clock, made = Clock(cost), []
    original = module._Run._halves

    class Fit:
        def __init__(self, *_):
            pass

        def bare(self):
            return None

        def corrector(self, *_):
            return None, None

    def place(_, truth):
        clock.work()
        queries = np.arange(truth.shape[0])
        return SimpleNamespace(queries=queries, ranks=lambda: 1.0 + queries % 3)

    def cut(self, rng):
        made.append([x.tolist() for x in original(self, rng)])
        return [np.array(x) for x in made[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        patch.setattr(module, "Job", lambda *_, **__: None)
        patch.setattr(module, "BankFit", Fit)
        patch.setattr(module, "Scores", lambda *_: None)
        patch.setattr(module, "place", place)
        patch.setattr(module._Run, "_halves", cut)
        found = tune(*bank(), budget=budget, cuts=cuts, **settings)
    return found, clock.now - 1000, made


N_FIRST, N_SECOND = 2 + len(NCLS), 2 + len(emcls(DEFAULTS))


def test_with_time_to_spare_all_cuts_are_made():
    found, seconds, _ = clocked(10_000, cuts=4)
    assert found.cuts == 8
    assert found.seconds == seconds == 4 * (N_FIRST + N_SECOND)


@pytest.mark.parametrize("budget", [1, 5, N_FIRST / FIRST - 2])
def test_a_tiny_budget_gives_the_defaults_and_says_so(budget):
    found, seconds, _ = clocked(budget)
    assert found.chosen is DEFAULTS
    assert found.cuts == 0
    assert found.reason == (
        f"the budget of {budget:g} s is too short for one cut; these are the defaults"
    )
    assert seconds <= FIRST * budget + 1
    facts = found.to_dict()
    assert facts["tried"] == []
    assert facts["against_nothing"] is None


def test_a_tiny_budget_of_real_time_too():
    found = tune(*bank(200), budget=1e-9)
    assert (found.chosen, found.cuts) == (DEFAULTS, 0)
    assert "1e-09 s is too short" in found.reason
    assert found.seconds < 5


def test_no_cut_is_begun_that_would_not_end_in_time():
    """As long as the longest so far: 25 evaluations of a second, then 8."""
    assert (N_FIRST, N_SECOND) == (25, 8)
    found, seconds, cuts = clocked(100)
    assert len(cuts) == found.cuts == 2 + 5  # up to 50 of 60 s, then up to 90 of 93 s
    assert seconds == 90
    assert clocked(50)[0].cuts == 1 + 2


def test_a_cut_that_turns_out_too_long_is_left_and_counts_for_nothing():
    """The second is four times as slow as the first was."""
    found, seconds, cuts = clocked(100, cost=lambda done: 1.0 if done < N_FIRST else 4.0)
    assert len(cuts) > found.cuts
    assert seconds <= BOTH * 100 + 4
    first, *_ = found.parts
    assert {tuple(trial.asked.tolist()) for trial in first} == {
        tuple(float(k in cuts[0][1]) for k in range(60))
    }


@given(
    budget=st.floats(0.5, 2000),
    costs=st.lists(st.floats(0.01, 20), min_size=1, max_size=30),
    cuts=st.integers(1, 6),
)
def test_the_budget_is_never_overrun_by_more_than_one_evaluation(budget, costs, cuts):
    found, seconds, _ = clocked(budget, cuts, lambda done: costs[done % len(costs)])
    assert seconds <= BOTH * budget + max(costs)
    assert found.seconds == pytest.approx(seconds)
    assert found.cuts <= 2 * cuts
    assert (found.cuts == 0) == (not found.parts)


def test_how_fast_the_machine_is_does_not_matter_where_the_cuts_are_as_many():
    """One cut for each part: by what was asked for, or because there was no time for a second."""
    _, _, told = clocked(10_000, cuts=1)
    slow = 7.0
    found, _, cuts = clocked(
        100, cuts=2, cost=lambda done: 1.0 if done < N_FIRST else slow if done < 31 else 3.0
    )
    assert found.cuts == 2
    assert [cuts[0], cuts[-1]] == told


def test_progress_is_the_time_that_is_gone():
    calls = []
    clocked(100, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"tuning"}
    done = [k for _, k, _ in calls]
    assert done == sorted(done)
    assert {total for _, _, total in calls} == {1000}
    assert done[-1] == 890


# --- what comes in, what goes out --------------------------------------------------------


def test_half_precision_and_tensors_are_the_numbers_they_hold(tmp_path):
    """And files, memory-mapped, as the command line opens them."""
    half = [x.astype("f2") for x in bank()]
    wanted = plain(tune(*half, cuts=1))
    assert plain(tune(*(x.astype("f4") for x in half), cuts=1)) == wanted
    assert plain(tune(*map(torch.from_numpy, half), cuts=1)) == wanted
    for k, x in enumerate(half):
        np.save(tmp_path / f"{k}.npy", x)
    mapped = [np.load(tmp_path / f"{k}.npy", mmap_mode="r") for k in range(2)]
    assert plain(tune(*mapped, cuts=1)) == wanted


def test_bfloat16_and_float64_can_be_tuned_on():
    brain = [torch.from_numpy(x).bfloat16() for x in bank()]
    assert plain(tune(*brain, cuts=1)) == plain(tune(*(x.float() for x in brain), cuts=1))
    assert tune(*bank(dtype="f8"), cuts=1).cuts == 2


def test_metric_device_and_memory_reach_the_fit():
    queries, items = bank()
    long = queries * np.linspace(1, 9, 60, dtype="f4")[:, None], items
    assert plain(tune(*long, cuts=1)) == plain(tune(*bank(), cuts=1))
    dot = tune(*long, cuts=1, metric="dot", device="cpu", memory=1 << 30)
    assert dot.parts[0][1].mrr != tune(*long, cuts=1).parts[0][1].mrr
    with pytest.raises(InputValueError, match="metric is not known"):
        tune(*bank(), metric="euclidean")
    with pytest.raises(InputValueError, match="device cannot be used"):
        tune(*bank(), device="tpu")


@pytest.mark.parametrize("kind", ["usual", "no time", "nothing", "all alike", "two queries"])
@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.EmclWarning")
def test_the_outcome_is_json_without_nan(kind):
    given = {
        "usual": lambda: tune(*bank(), cuts=1),
        "no time": lambda: tune(*bank(), budget=1e-9),
        "nothing": lambda: tune(*popular()[:2], popular()[2], cuts=1, metric="dot"),
        "all alike": lambda: tune(np.ones((30, 4)), np.ones((30, 4)), cuts=1),
        "two queries": lambda: tune(
            bank()[0][:2], bank()[1][:20], linked([(1, 10), (1, 10)]), cuts=1
        ),
    }
    found = given[kind]()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(facts) == {
        "chosen", "reason", "cuts", "seconds", "seed", "against_nothing", "tried",
    }  # fmt: skip
    assert facts["chosen"] == settings(found.chosen)
    for part, trials in zip(facts["tried"], found.parts, strict=True):
        assert [t["name"] for t in part] == [t.candidate.name for t in trials]
        assert part[1]["z"] == 0
        for told, trial in zip(part, trials, strict=True):
            assert told["R@1"] == trial.r1
            assert told["MRR"] == trial.mrr
            assert told["z"] == trial.z(trials[1])


def test_settings_in_words_and_numbers():
    assert settings(DEFAULTS) == {
        "name": "defaults", "emcl_strength": "auto", "temperature_std": 0.4, "rho": 0.8,
    }  # fmt: skip
    fixed = next(c for c in emcls(WON) if c.name == "EMCL -0.5")
    assert settings(fixed) == {
        "name": "EMCL -0.5", "emcl_strength": -0.5, "temperature_std": 0.1, "rho": 0.65,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": bank()[0][:19], "items": bank()[1][:19]}, "tuning needs at least 20 items"),
        ({"budget": 0}, "a budget of 0 s"),
        ({"budget": -1.0}, "a budget of -1 s"),
        ({"budget": float("nan")}, "a budget of nan s"),
        ({"cuts": 0}, "0 cuts"),
        ({"queries": bank()[0][:50]}, "which text belongs to which video is not known"),
        ({"truth": GroundTruth.diagonal((50, 50))}, "ground truth is of another bank"),
        pytest.param(
            {"truth": GroundTruth.from_index(np.zeros(60, int), 60)}, "cannot be cut in two"
        ),
        ({"truth": linked([(60, 60)])}, "cannot be cut in two"),
        ({"items": bank()[1][:, :5]}, "different dimensions"),
        ({"queries": bank()[0][0]}, "queries must have two dimensions"),
        ({"items": bank()[1][:, :0]}, "items is empty"),
        ({"items": bank()[1] * [[1.0]] * [[np.inf]]}, "NaN or infinity"),
    ],
)
def test_what_cannot_be_tuned_on_is_said_in_three_parts(change, words):
    given = {"queries": bank()[0], "items": bank()[1], **change}
    with pytest.raises(InputValueError, match=words) as caught:
        tune(given.pop("queries"), given.pop("items"), **given)
    assert caught.value.received
    assert caught.value.remedy


@pytest.mark.parametrize("wrong", [bank()[0].tolist(), bank()[0].astype(int)], ids=["list", "int"])
def test_what_is_no_array_of_numbers_is_refused(wrong):
    with pytest.raises(InputTypeError, match="queries"):
        tune(wrong, bank()[1])


def test_a_nan_is_told_by_its_place_in_the_bank():
    queries = bank()[0].copy()
    queries[59, 3] = np.nan
    with pytest.raises(InputValueError, match=r"queries\[59, 3\] = nan"):
        tune(queries, bank()[1], cuts=1)


def test_twenty_items_are_enough():
    assert FEWEST == 20
    assert tune(*(x[:20] for x in bank()), cuts=1).cuts == 2


def test_the_threads_are_as_many_as_before():
    """Torch's; tuning takes one, also where it ends early."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tune(*bank(), cuts=1)
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyboardInterrupt):
            tune(*bank(), cuts=1, progress=interrupt)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def interrupt(*_):
    raise KeyboardInterrupt
