"""Choice of settings: the current ones stay unless others are significantly better.

NCL's settings are tried first, with EMCL's defaults; then EMCL's, with the chosen NCL. The best of
two dozen is also the luckiest, so it replaces the current settings only if it is better by three
standard errors, see (z) of :mod:`emcl_plugin.tune.trials`. If no correction is better than the
result by one standard error, no correction is chosen: this takes less evidence, because it is
one alternative and not the best of many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array, check_matrix
from emcl_plugin._internal.constraints import require
from emcl_plugin._internal.progress import Progress
from emcl_plugin.evaluation.significance import Comparison, compare
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.settings import Resources
from emcl_plugin.scores import Features
from emcl_plugin.tune.cuts import Cuts
from emcl_plugin.tune.trials import DEFAULTS, NCLS, NOTHING, Candidate, Trial, emcls, settings

EVIDENCE = 3.0
"""Standard errors to replace the current settings: 1 in 20 by chance, for 24 candidates."""
AGAINST = 1.0
"""Standard errors by which no correction must be better than the result to be chosen."""
MOST_CUTS = 10
"""Default number of cuts of each of the two parts."""
FIRST, BOTH = 0.6, 0.93
"""Shares of the budget after which the first and the second part end."""
FEWEST = 20
"""Minimum number of items in the bank."""
TOO_SHORT = "the budget of {:g} s is too short for one cut; these are the defaults"


@dataclass(frozen=True)
class Tuning:
    """What was tried inside the bank, and the choice.

    Attributes
    ----------
    chosen : Candidate
        Use it as ``Reranker(emcl=chosen.emcl, ncl=chosen.ncl)``.
    parts : tuple of list of Trial
        NCL's and EMCL's, each with "nothing" and the settings before it.
    against_nothing : Comparison or None
        Paired gain in R@1 over no correction, in points; None without a cut.
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
    """Choose the settings of bank mode by cross-validation on the bank's own pairs.

    Parameters
    ----------
    queries, items : (n_queries, D), (n_items, D)
        The bank of the query side and the bank of the gallery side, of at least 20 items.
    truth : GroundTruth, optional
        Which item is right for which query. Default: query i belongs to item i. InputValueError is
        raised if the pairs cannot be split in two.
    budget : float, default 60
        Time limit in seconds. No cut starts that would not end in time; more time allows more
        cuts and a finer choice.
    cuts : int, default 10
        Maximum number of cuts for NCL and for EMCL.
    seed : int, default 0
        Of the cuts. The same seed and number of cuts give the same choice.
    metric, device, memory
        As in :func:`emcl_plugin.rerank`.
    progress : callable, optional
        Called with ("tuning", elapsed, budget) in tenths of a second.

    Examples
    --------
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> found = tune(demo.text_bank[:200], demo.video_bank[:200], cuts=1)
    >>> found.cuts, len(found.parts[0])  # nothing, the defaults, and 23 other settings of NCL
    (2, 25)
    """
    started = time.monotonic()
    shape = (len(check_matrix(queries, "queries")), len(check_matrix(items, "items")))
    truth = GroundTruth.diagonal(shape) if truth is None else truth
    require(
        (truth.shape == shape, "the ground truth is of another bank",
         f"{truth.shape}, the bank {shape}", "one entry per query of the bank"),
        (shape[1] >= FEWEST and budget > 0 and cuts >= 1,
         f"tuning needs at least {FEWEST} items, one cut and some time",
         f"{shape[1]} items, {cuts} cuts, a budget of {budget:g} s",
         "without enough pairs the defaults are the best choice"),
    )  # fmt: skip
    for x, name in ((queries, "queries"), (items, "items")):
        Features(x, name=name, metric=metric, memory=memory)  # checks every vector
    resources = Resources(device=device, memory=memory)
    run = Cuts(queries, items, truth, budget, started, progress, metric, resources)
    second: list[Trial] = []
    more = 0
    with _one_thread():
        first, done = run.part(DEFAULTS, NCLS, cuts, FIRST, (seed, 0))
        if first:
            current = _best(first).candidate
            second, more = run.part(current, emcls(current), cuts, BOTH, (seed, 1))
    chosen, against, reason = DEFAULTS, None, TOO_SHORT.format(budget)
    if first:
        chosen, against, reason = _choose(first, second, seed)
    parts = tuple(part for part in (first, second) if part)
    return Tuning(chosen, parts, against, done + more, time.monotonic() - started, seed, reason)


def _choose(
    first: list[Trial], second: list[Trial], seed: int
) -> tuple[Candidate, Comparison, str]:
    """Return the choice, its gain over no correction, and the reason."""
    best = _best(first)
    last, nothing = (_best(second), second[0]) if second else (best, first[0])
    chosen = last.candidate
    reason = "no setting beats the defaults by three standard errors"
    if chosen is not DEFAULTS:
        names = dict.fromkeys(trial.candidate.name for trial in (best, last))
        names.pop(DEFAULTS.name, None)
        reason = f"{', then '.join(names)}: beats the defaults by more than three standard errors"
    changes_nothing = chosen is not DEFAULTS and nothing.mrr == last.mrr
    if changes_nothing or nothing.z(last) >= AGAINST:
        last, chosen = nothing, NOTHING
        reason = "on this bank no correction is better than the input"
    before, after = (100 * t.per_query(t.hits, o) for t, o in ((nothing, last), (last, nothing)))
    return chosen, compare(before, after, seed=seed), reason


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one CPU thread.

    A cut is thousands of small steps. Two threads take 0.8 of the time on two idle cores, but
    more than 20 times as long when another program keeps those busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best(trials: list[Trial]) -> Trial:
    """Return the trial with the highest MRR if it beats the current one by enough."""
    _, stands, *_ = trials
    best = max(trials[1:], key=lambda trial: trial.mrr)
    return best if best.z(stands) >= EVIDENCE else stands
