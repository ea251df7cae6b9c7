"""Random splits of a bank: every candidate is fitted on one half and evaluated on the other.

The queries of one half are the bank. Those of the other are the test queries, and their items the
gallery. Queries that share items stay in one half.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin._internal.progress import Progress
from emcl_plugin.bank import BankFit
from emcl_plugin.bank.corrector import Scores
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.metrics import place
from emcl_plugin.ground_truth import Floats, GroundTruth, Ints
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.tune.trials import NOTHING, Candidate, Trial

MOST_ITEMS = 1_000
MOST_SCORES = 2_000_000
"""Limits of gallery items and of bank x gallery scores per cut; larger banks are sampled."""


@dataclass
class Cuts:
    """The bank and the time budget of its cuts."""

    queries: Array
    items: Array
    truth: GroundTruth
    budget: float
    started: float
    progress: Progress | None
    metric: str
    resources: Resources

    def __post_init__(self) -> None:
        groups = _groups(self.truth)
        asked = np.unique(groups[self.truth.query])  # others have no pair
        if len(asked) < 2:
            received = "every query is linked to every other one by the items they share"
            remedy = "give pairs of which some have nothing to do with others"
            raise InputValueError("the bank's pairs cannot be cut in two", received, remedy)
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
        """Cut until this share of the budget is spent; return the trials and the number of cuts.

        The trials are "nothing", the current settings and the others, in this order. A cut that
        does not end in time is discarded.
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
        """Return the test queries and their ranks by every candidate; None if time is up."""
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
                settings = Settings.of(emcl, use, "gentle", metric=self.metric)
                fits[key] = BankFit(Job(None, sides, settings, self.resources), len(gallery))
            if trial.candidate is NOTHING:
                corrector = fits[key].bare()
            else:
                corrector = fits[key].corrector(ncl)[0]
            placement = place(Scores(corrector, _take(self.queries, asked)), truth)
            ranks.append(placement.ranks())
        return asked[placement.queries], ranks

    def _halves(self, seeds: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """Return the bank queries, the test queries and the gallery items, each sorted."""
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
    """Return a component number for each query, then for each item."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = sum(truth.shape)
    links = (np.ones(len(truth.query)), (truth.query, truth.shape[0] + truth.item))
    found: Ints = connected_components(coo_matrix(links, shape=(n, n)), directed=False)[1]
    return found


def _take(x: Array, rows: Ints) -> Array:
    return x[torch.from_numpy(rows).to(x.device)] if isinstance(x, torch.Tensor) else x[rows]
