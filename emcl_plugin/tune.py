"""Settings chosen by cross-validation inside the bank, where that shows a difference.

The bank has pairs: queries and the items that belong to them. It is cut in two at random, again
and again; the queries of one half are the bank, those of the other the queries to come, with
their own items as the gallery. Every candidate is fitted as :mod:`emcl_plugin.bank` fits, and
judged by the reciprocal rank of the right item, which is steadier than R@1 and rises with it.

First NCL's settings are tried with EMCL as the defaults have it, then EMCL's with the NCL that was
chosen. The best of two dozen is the luckiest, too: so one replaces what stands only if it is
better by three standard errors over the queries,

    z = mean d / (std d / sqrt(n)),   d the paired differences of n queries                 (z)

where a query that was asked in several cuts counts once, with its mean. Where doing nothing is
better than what comes out, by one standard error, nothing is done: to leave a correction that has
lost on no set that we know takes less evidence than to choose among many, but some.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from emcl_plugin.arrays import Array, check_matrix
from emcl_plugin.bank import BANK, BankFit
from emcl_plugin.corrector import Scores
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputValueError
from emcl_plugin.job import Job
from emcl_plugin.metrics import place
from emcl_plugin.ncl import NCL, Progress
from emcl_plugin.significance import Comparison, compare
from emcl_plugin.similarity import Features
from emcl_plugin.truth import Floats, GroundTruth, Ints

TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
RHOS = (0.65, 0.8, 0.9, 1.0)
STRENGTHS = (-1.0, -0.5, 0.5, 1.0)
EVIDENCE = 3.0
"""Standard errors that it takes to leave what stands: 1 in 20 by chance, of 24 candidates."""
AGAINST = 1.0
"""Standard errors by which doing nothing must be better than what came out, to be chosen."""
MOST_CUTS = 10
"""Of each of the two parts."""
MOST_ITEMS = 1_000
MOST_SCORES = 2_000_000
"""Gallery items and scores of bank x gallery in one cut; larger banks are sampled."""
FIRST, BOTH = 0.6, 0.93
"""Shares of the budget after which the first part and the second end."""
FEWEST = 20
"""Items in the bank."""


@dataclass(frozen=True)
class Candidate:
    """One setting: EMCL and NCL as :class:`~emcl_plugin.Reranker` takes them, and its name."""

    name: str
    emcl: EMCL | str | None
    ncl: NCL | None


NOTHING = Candidate("nothing", None, None)
DEFAULTS = Candidate("defaults", "auto", BANK)
NCLS = tuple(
    Candidate(f"NCL {t:g} std, rho {r:g}", "auto", NCL(temperature_std=t, rho=r))
    for t in TEMPERATURES
    for r in RHOS
    if (t, r) != (BANK.temperature_std, BANK.rho)
)


def emcls(stands: Candidate) -> tuple[Candidate, ...]:
    """What is tried of EMCL beside what stands, and EMCL alone."""
    fixed = [replace(stands, name=f"EMCL {s:+g}", emcl=EMCL(strength=s)) for s in STRENGTHS]
    alone = replace(stands, name="no NCL", ncl=None)
    return (replace(stands, name="no EMCL", emcl=None), *fixed, alone)


@dataclass
class Trial:
    """A candidate and what it did, per query.

    Attributes
    ----------
    candidate : Candidate
    hits, gains : (n_queries,)
        Sums over the cuts of R@1 (0 or 1) and of the reciprocal rank.
    asked : (n_queries,) int
        In how many cuts the query was asked.
    """

    candidate: Candidate
    hits: Floats
    gains: Floats
    asked: Ints

    def add(self, queries: Ints, ranks: Floats) -> None:
        """Take in one cut."""
        self.hits[queries] += ranks < 1.5
        self.gains[queries] += 1 / ranks
        self.asked[queries] += 1

    def per_query(self, sums: Floats, other: Trial | None = None) -> Floats:
        """Means of the queries that were asked (here and, as often, of the other)."""
        there = self.asked > 0
        if other is not None:
            there &= other.asked > 0
        found: Floats = sums[there] / self.asked[there]
        return found

    @property
    def r1(self) -> float:
        """R@1 in per cent."""
        return 100 * float(self.per_query(self.hits).mean())

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return float(self.per_query(self.gains).mean())

    def z(self, other: Trial) -> float:
        """Standard errors by which this one's reciprocal ranks are better, see (z)."""
        difference = self.per_query(self.gains, other) - other.per_query(other.gains, self)
        spread = float(difference.std())
        return float(difference.mean()) / (spread / math.sqrt(len(difference))) if spread else 0.0


@dataclass(frozen=True)
class Tuning:
    """What was tried inside the bank, and what came out.

    Attributes
    ----------
    chosen : Candidate
        ``Reranker(emcl=chosen.emcl, ncl=chosen.ncl)`` has its settings.
    parts : tuple of list of Trial
        NCL's and EMCL's, each beside "nothing" and what stood before it.
    against_nothing : Comparison or None
        R@1 of the chosen one against nothing, in points, paired; None if there was no cut.
    cuts : int
    seconds : float
    seed : int
    reason : str
    """

    chosen: Candidate
    parts: tuple[list[Trial], ...]
    against_nothing: Comparison | None
    cuts: int
    seconds: float
    seed: int
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        against = self.against_nothing
        return {
            "chosen": settings(self.chosen),
            "reason": self.reason,
            "cuts": self.cuts,
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "against_nothing": None if against is None else against.to_dict(),
            "tried": [
                [
                    {**settings(t.candidate), "R@1": t.r1, "MRR": t.mrr, "z": t.z(part[1])}
                    for t in part
                ]
                for part in self.parts
            ],
        }


def settings(candidate: Candidate) -> dict[str, Any]:
    """A candidate in plain words and numbers."""
    emcl, ncl = candidate.emcl, candidate.ncl
    return {
        "name": candidate.name,
        "emcl_strength": emcl.strength if isinstance(emcl, EMCL) else emcl,
        "temperature_std": None if ncl is None else ncl.temperature_std,
        "rho": None if ncl is None else ncl.rho,
    }


@torch.no_grad()
def tune(
    queries: Array,
    items: Array,
    truth: GroundTruth | None = None,
    *,
    budget: float = 60.0,
    cuts: int = MOST_CUTS,
    seed: int = 0,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Choose the settings of bank mode with the bank's own pairs; never sees what will be asked.

    Parameters
    ----------
    queries, items : (n_queries, D), (n_items, D)
        The bank of the side that will ask and the bank of the side that will answer.
    truth : GroundTruth, optional
        Which item is right for which query. Default: query i belongs to item i.
    budget : float, default 60
        Seconds to take at most. No cut is begun that would not end in time; a longer budget means
        more cuts and a finer choice.
    cuts : int, default 10
        At most so many cuts for NCL and so many for EMCL.
    seed : int, default 0
        Of the cuts. The same seed and the same number of cuts give the same choice.
    metric, device, memory
        As in :func:`emcl_plugin.rerank`.
    progress : callable, optional
        Called with ("tuning", seconds gone, seconds to go at most), in tenths.

    Raises
    ------
    InputValueError
        If there are fewer than 20 items, or the pairs cannot be cut in two.

    Examples
    --------
    >>> from emcl_plugin.demo import load_demo
    >>> demo = load_demo()
    >>> found = tune(demo.text_bank[:200], demo.video_bank[:200], cuts=1)
    >>> found.cuts, len(found.parts[0])  # nothing, the defaults, and 23 other settings of NCL
    (2, 25)
    """
    started = time.monotonic()
    shape = (
        int(check_matrix(queries, "queries").shape[0]),
        int(check_matrix(items, "items").shape[0]),
    )
    truth = GroundTruth.diagonal(shape) if truth is None else truth
    if truth.shape != shape:
        raise InputValueError(
            "the ground truth is of another bank", f"{truth.shape}, the bank {shape}",
            "one entry per query of the bank",
        )  # fmt: skip
    if shape[1] < FEWEST or not budget > 0 or cuts < 1:
        raise InputValueError(
            f"tuning needs at least {FEWEST} items, one cut and some time",
            f"{shape[1]} items, {cuts} cuts, a budget of {budget:g} s",
            "without enough pairs the defaults are the best choice",
        )
    for x, name in ((queries, "queries"), (items, "items")):
        Features(x, name=name, metric=metric, memory=memory)  # looks at every vector
    options = {"metric": metric, "device": device, "memory": memory}
    run = _Run(queries, items, truth, budget, started, progress, options)
    with _one_thread():
        first, done = run.part(DEFAULTS, NCLS, cuts, FIRST, (seed, 0))
        stands = _best(first) if first else None
        second: list[Trial] = []
        more = 0
        if stands is not None:
            others = emcls(stands.candidate)
            second, more = run.part(stands.candidate, others, cuts, BOTH, (seed, 1))
    if stands is None:
        reason = f"the budget of {budget:g} s is too short for one cut; these are the defaults"
        return Tuning(DEFAULTS, (), None, 0, time.monotonic() - started, seed, reason)
    last, nothing = (_best(second), second[0]) if second else (stands, first[0])
    chosen = last.candidate
    reason = "nothing tried was better than the defaults by three standard errors"
    if chosen is not DEFAULTS:
        names = dict.fromkeys(trial.candidate.name for trial in (stands, last))
        names.pop(DEFAULTS.name, None)
        reason = f"{', then '.join(names)}: better than what stood by three standard errors"
    if nothing.z(last) >= AGAINST:
        last, chosen = nothing, NOTHING
        reason = "on this bank doing nothing is better than any correction"
    before, after = (100 * t.per_query(t.hits, o) for t, o in ((nothing, last), (last, nothing)))
    parts = tuple(part for part in (first, second) if part)
    seconds = time.monotonic() - started
    return Tuning(
        chosen, parts, compare(before, after, seed=seed), done + more, seconds, seed, reason
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch with one CPU thread, as long as this lasts.

    A cut is thousands of small steps. Two threads take 0.8 of the time on two idle cores, but
    where another program keeps those busy they wait for each other, more than 20 times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best(trials: list[Trial]) -> Trial:
    """The one of the highest mean reciprocal rank, if it beats what stands by enough."""
    _, stands, *_ = trials
    best = max(trials[1:], key=lambda trial: trial.mrr)
    return best if best.z(stands) >= EVIDENCE else stands


@dataclass
class _Run:
    """The bank, the clock, and one part after the other."""

    queries: Array
    items: Array
    truth: GroundTruth
    budget: float
    started: float
    progress: Progress | None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        groups = _groups(self.truth)
        asked = np.unique(groups[self.truth.query])  # the others have no pair
        if len(asked) < 2:
            raise InputValueError(
                "the bank's pairs cannot be cut in two",
                "every query is linked to every other one by the items they share",
                "give pairs of which some have nothing to do with others",
            )
        number = np.full(groups.max() + 1, -1)
        number[asked] = np.arange(len(asked))
        self.of_query, self.of_item = np.split(number[groups], [self.truth.shape[0]])

    def part(
        self,
        stands: Candidate,
        others: Sequence[Candidate],
        cuts: int,
        share: float,
        seed: tuple[int, int],
    ) -> tuple[list[Trial], int]:
        """Cut after cut until this share of the budget is gone: the trials, and how many cuts.

        The trials are nothing, what stands, and the others, in this order; a cut that does not
        end in time counts for none of them.
        """
        n = self.truth.shape[0]
        trials = [
            Trial(candidate, np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64))
            for candidate in (NOTHING, stands, *others)
        ]
        longest = 0.0
        for done in range(cuts):
            begun = time.monotonic()
            if begun + longest - self.started > share * self.budget:
                return (trials, done) if done else ([], 0)
            found = self._cut(trials, np.random.default_rng((*seed, done)), share)
            if found is None:
                return (trials, done) if done else ([], 0)
            asked, ranks = found
            for trial, of in zip(trials, ranks, strict=True):
                trial.add(asked, of)
            longest = max(longest, time.monotonic() - begun)
        return trials, cuts

    def _cut(
        self, trials: list[Trial], seeds: np.random.Generator, share: float
    ) -> tuple[Ints, list[Floats]] | None:
        """The asked queries and their ranks by every candidate; None where time is up."""
        bank, asked, gallery = self._halves(seeds)
        where = np.full(self.truth.shape[1], -1)
        where[gallery] = np.arange(len(gallery))
        row = np.full(self.truth.shape[0], -1)
        row[asked] = np.arange(len(asked))
        kept = row[self.truth.query] >= 0
        kept &= where[self.truth.item] >= 0
        pairs = np.stack([row[self.truth.query[kept]], where[self.truth.item[kept]]], 1)
        truth = GroundTruth.from_pairs(pairs, (len(asked), len(gallery)), self.truth.grade[kept])
        fits: dict[Any, BankFit] = {}
        ranks = []
        for trial in trials:
            gone = time.monotonic() - self.started
            if gone > share * self.budget:
                return None
            if self.progress is not None:
                self.progress("tuning", int(10 * gone), int(10 * self.budget))
            emcl, ncl = trial.candidate.emcl, trial.candidate.ncl
            key = emcl.strength if isinstance(emcl, EMCL) else emcl, ncl is None
            if key not in fits:
                sides = _take(self.queries, bank), _take(self.items, gallery)
                use = None if ncl is None else "auto"
                job = Job(None, sides, emcl=emcl, ncl=use, prior="gentle", **self.options)
                fits[key] = BankFit(job, len(gallery))
            if trial.candidate is NOTHING:
                corrector = fits[key].bare()
            else:
                corrector = fits[key].corrector(ncl)[0]
            placement = place(Scores(corrector, _take(self.queries, asked)), truth)
            ranks.append(placement.ranks())
        return asked[placement.queries], ranks

    def _halves(self, seeds: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """Queries of one half, and of the other with its items; each sorted."""
        order = seeds.permutation(int(self.of_item.max()) + 1)
        place_of = np.argsort(order)
        items, queries = (np.flatnonzero(x >= 0) for x in (self.of_item, self.of_query))
        right = np.bincount(place_of[self.of_item[items]])
        most = min(MOST_ITEMS, len(items) // 2)
        split = max(1, min(len(order) - 1, int(np.searchsorted(right.cumsum(), most, "right"))))
        held = place_of < split
        gallery = items[held[self.of_item[items]]]
        asks = held[self.of_query[queries]]
        asked, bank = queries[asks], queries[~asks]
        size = max(2, MOST_SCORES // len(gallery))
        return (
            np.sort(seeds.permutation(bank)[:size]),
            np.sort(seeds.permutation(asked)[:size]),
            gallery,
        )


def _groups(truth: GroundTruth) -> Ints:
    """A number for each query, then for each item: the same where pairs link them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = sum(truth.shape)
    links = (np.ones(len(truth.query)), (truth.query, truth.shape[0] + truth.item))
    found: Ints = connected_components(coo_matrix(links, shape=(n, n)), directed=False)[1]
    return found


def _take(x: Array, rows: Ints) -> Array:
    return x[torch.from_numpy(rows).to(x.device)] if isinstance(x, torch.Tensor) else x[rows]
