"""The choice of settings: what stands stays, unless something is better beyond chance.

First NCL's settings are tried with EMCL as the defaults have it, then EMCL's with the NCL that was
chosen. The best of two dozen is the luckiest, too: so one replaces what stands only if it is
better by three standard errors, see (z) of :mod:`emcl_plugin.tune.trials`. Where doing nothing is
better than what comes out, by one standard error, nothing is done: to leave a correction that has
lost on no set that we know takes less evidence than to choose among many, but some.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array, check_matrix
from emcl_plugin._internal.progress import Progress
from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.significance import Comparison, compare
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.settings import Resources
from emcl_plugin.scores import Features
from emcl_plugin.tune.cuts import Cuts
from emcl_plugin.tune.trials import DEFAULTS, NCLS, NOTHING, Candidate, Trial, emcls, settings

EVIDENCE = 3.0
"""Standard errors that it takes to leave what stands: 1 in 20 by chance, of 24 candidates."""
AGAINST = 1.0
"""Standard errors by which doing nothing must be better than what came out, to be chosen."""
MOST_CUTS = 10
"""Of each of the two parts."""
FIRST, BOTH = 0.6, 0.93
"""Shares of the budget after which the first part and the second end."""
FEWEST = 20
"""Items in the bank."""


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
    >>> from emcl_plugin.data.demo import load_demo
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
    resources = Resources(device=device, memory=memory)
    run = Cuts(queries, items, truth, budget, started, progress, metric, resources)
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
