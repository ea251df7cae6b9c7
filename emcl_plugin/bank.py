"""Bank mode: biases from other queries than those that will be asked.

As in :mod:`emcl_plugin.correct`, on the scores of bank queries x gallery, with the gentler
settings of :data:`BANK`; then three questions that only arise here, because the queries to come
are not these.

How much of the biases would another bank teach, too? The bank is cut into halves, each gives
biases, and with r their correlation over the gallery the whole bank's are worth

    R = 2 r / (1 + r)                                                                      (R)

(Spearman and Brown, 1910): the best linear estimate of what an endless bank would give is R times
what this one gave. A bank of ten queries keeps little of its biases, one of thousands all.

Is the gallery of the bank's kind? Where a gallery bank is given (videos that belong to the bank's
texts), the mean of :class:`~emcl_plugin.likeness.Likeness` of the gallery to it says so.

Is the query? That is asked of every query by itself, when it comes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from emcl_plugin.agreement import GuardDecision, Hubs, nearest
from emcl_plugin.arrays import Array, check_matrix
from emcl_plugin.correct import Correction
from emcl_plugin.corrector import Corrector
from emcl_plugin.emcl import EMCL, EMCLReport
from emcl_plugin.errors import EmclWarning, InputValueError
from emcl_plugin.job import CITATIONS, Job
from emcl_plugin.likeness import Likeness, fit_likeness
from emcl_plugin.ncl import NCL, Progress, fit_biases
from emcl_plugin.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD
from emcl_plugin.reductions import topk
from emcl_plugin.similarity import Biased, FeaturePair, Features, Similarity

BANK = NCL(temperature_std=0.4, rho=0.8)
"""Gentler than for queries that are known: what a bank asks for is not what will be asked."""
GENTLE = NCL(temperature_std=GENTLE_TEMPERATURE_STD, rho=GENTLE_RHO)

TOP = 10


@dataclass(frozen=True, kw_only=True)
class BankReport:
    """What a bank taught, and how far to trust it.

    Attributes
    ----------
    bank, gallery, gallery_bank : int
        Items.
    queries : float
        How many different bank queries there are, near-equal ones counted once.
    score_std : float
        Standard deviation of the bank's scores.
    emcl : EMCLReport or None
    temperature, rho : float
        Of NCL, in the units of the scores; 0 and 0 where NCL was off.
    rounds, error, converged
        As in :class:`~emcl_plugin.ncl.Biases`.
    guard : GuardDecision
        Evidence on the bank that there are hubs to correct.
    reliability : float
        R: which part of the biases another bank of this size would teach, too.
    kinship : float or None
        How far the gallery is of the gallery bank's kind, in [0, 1]; None without one.
    strength : float
        What the biases were multiplied with: guard, reliability and kinship.
    coverage : float
        Share of the gallery that is among the ten best of some bank query.
    evenness : float or None
        How evenly the bank asks for the gallery, in [0, 1]; None where NCL was off.
    hubs_before, hubs_after : Hubs
        How the bank queries' best matches spread over the gallery.
    protocol : str
        "bank".
    """

    bank: int
    gallery: int
    gallery_bank: int
    queries: float
    score_std: float
    emcl: EMCLReport | None
    temperature: float
    rho: float
    rounds: int
    error: float
    converged: bool
    guard: GuardDecision
    reliability: float
    kinship: float | None
    strength: float
    coverage: float
    evenness: float | None
    hubs_before: Hubs
    hubs_after: Hubs
    protocol: str = "bank"
    citations: tuple[str, ...] = CITATIONS

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        out = {k: v for k, v in vars(self).items() if not k.startswith("hubs_")}
        out["emcl"] = None if self.emcl is None else self.emcl.to_dict()
        out["guard"] = self.guard.to_dict()
        out["hubs"] = {"before": dict(vars(self.hubs_before)), "after": dict(vars(self.hubs_after))}
        out["citations"] = list(self.citations)
        return out


@torch.no_grad()
def fit_corrector(
    bank: Array,
    gallery: Array,
    *,
    gallery_bank: Array | None = None,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    names: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> tuple[Corrector, BankReport]:
    """Learn from a bank of queries how to correct the scores of queries to come.

    Parameters
    ----------
    bank : (n_bank, D)
        Queries that are not those to be scored: of a training set, a log, another split.
    gallery : (n_gallery, D)
        What will be searched.
    gallery_bank : (n, D), optional
        More items of the gallery's kind, best those that belong to the bank's queries: NCL then
        runs over both and they take the mass that is theirs (dual-bank Sinkhorn).
    emcl, ncl, prior, guard, metric, device, memory, progress
        As in :func:`emcl_plugin.rerank`, but that NCL's own settings are :data:`BANK`.
        ``guard=False`` also takes reliability and kinship for 1 and lets every query through.
    names : tuple of str
        What the gallery's items are called.

    Returns
    -------
    Corrector, BankReport
    """
    n = int(check_matrix(gallery, "gallery").shape[0])
    if names and len(names) != n:
        raise InputValueError(
            "there must be one name per gallery item", f"{len(names)} for {n}", "add the others"
        )
    if isinstance(ncl, NCL) and (ncl.text_marginal is not None or ncl.video_marginal is not None):
        raise InputValueError(
            "a bank's biases take no marginals",
            "NCL(text_marginal=...) or NCL(video_marginal=...)",
            "leave them out; repeated bank queries are weighed by themselves",
        )
    if ncl == "auto":
        ncl = {"gentle": GENTLE, "even": NCL()}.get(prior, BANK)
    job = Job(
        None,
        (bank, gallery if gallery_bank is None else _stacked(gallery, gallery_bank)),
        emcl=emcl,
        ncl=ncl,
        prior=prior,
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
    )
    found = job.correct(progress, prior=prior if prior in ("even", "off") else "bank")
    fit = _Fit(job, found, n)
    corrector = replace(fit.corrector(), names=tuple(names))
    reliability, kinship = 1.0, None
    if guard and corrector.strength > 0:
        corrector = replace(corrector, likeness=fit.likeness())
        reliability = fit.reliability(corrector)
        kinship = fit.kinship() if gallery_bank is not None else None
        corrector = corrector.weakened(reliability * (1.0 if kinship is None else kinship))
    report = fit.report(corrector, reliability, kinship)
    return replace(corrector, facts=report.to_dict()), report


class _Fit:
    """What a run on bank x gallery (and gallery bank) found, and what follows from it."""

    def __init__(self, job: Job, found: Correction, size: int) -> None:
        assert job.features is not None
        self.job, self.found, self.size = job, found, size
        self.queries, self.columns = job.features
        every = torch.ones(job.shape[0], dtype=job.dtype, device=job.device)
        self.weights = every if found.weights is None else found.weights

    def corrector(self) -> Corrector:
        """The corrector with all of the guard's strength, and no gate."""
        job, found, guard = self.job, self.found, self.found.guard
        columns = self.columns.rows(0, self.columns.shape[0])
        basis, change = columns.new_zeros(columns.shape[1], 0), columns.new_zeros(0)
        emcl = found.emcl
        if guard.applied and found.subspaces is not None and emcl is not None and emcl.strength:
            basis = found.subspaces.basis.to(columns)
            change = found.subspaces.factors(emcl.strength).to(columns)
        renormalize = job.emcl is not None and job.emcl.renormalize
        queries = self.queries.rows(0, job.shape[0])
        bare = Corrector(
            metric=self.columns.metric,
            gallery=columns[: self.size],
            bias=columns.new_zeros(self.size),
            basis=basis,
            change=change,
            renormalize=renormalize and self.columns.metric == "cosine",
            likeness=Likeness(columns[:0], -1.0, 0.0),
            bank=queries,
            potential=queries.new_zeros(len(queries)),
            weight=self.weights,
            level=0.0,
            temperature=1.0,
            rho=1.0,
            strength=0.0,
        )
        if found.biases is None or not guard.applied or job.ncl is None:
            return bare
        tau = found.biases.temperature
        whole = replace(
            bare,
            potential=found.biases.text / guard.strength,
            temperature=tau,
            rho=job.ncl.rho,
            strength=guard.strength,
        )
        return whole.renewed()

    def likeness(self) -> Likeness:
        """The gate for queries."""
        before = self.found.before
        return fit_likeness(self.queries, before.video_of_text, before.text_score)

    def kinship(self) -> float:
        """How far the gallery is of the gallery bank's kind."""
        rows = torch.arange(self.size, self.columns.shape[0], device=self.job.device)
        others = self._features(self.columns.take(rows))
        before = self.found.before
        gate = fit_likeness(
            others, before.text_of_video[self.size :], before.video_score[self.size :]
        )
        unit = torch.nn.functional.normalize(self.columns.rows(0, self.size), dim=1)
        return float(torch.cat([gate.of(part) for part in torch.split(unit, 1024)]).mean())

    def reliability(self, corrector: Corrector) -> float:
        """R of this bank."""
        config = NCL(temperature=corrector.temperature, rho=corrector.rho)
        columns = self._features(corrector.map(self.columns.rows(0, self.columns.shape[0])))
        halves = []
        for half in self._halves():
            if len(half) < 2:
                return 0.0
            rows = self._features(corrector.map(self.queries.take(half)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmclWarning)
                pair = FeaturePair(rows, columns, memory=self.job.memory)
                biases = fit_biases(
                    pair, config, weights=self.weights[half], memory=self.job.memory
                )
            halves.append(biases.video[: self.size])
        r = float(torch.corrcoef(torch.stack(halves))[0, 1])
        return 2 * r / (1 + r) if r > 0 else 0.0  # also where r is NaN: equal biases

    def _halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every other bank query by its best score, copies kept together."""
        before = self.found.before
        order = torch.argsort(before.text_score, stable=True)
        score, video = before.text_score[order], before.video_of_text[order]
        other = (score.diff() > before.slack) | (video.diff() != 0)
        rank = torch.cat([other.new_zeros(1), other]).cumsum(0)
        return order[rank % 2 == 0], order[rank % 2 == 1]

    def _features(self, x: torch.Tensor) -> Features:
        job = self.job
        return Features(x, metric="dot", dtype=job.dtype, device=job.device, memory=job.memory)

    def report(self, corrector: Corrector, reliability: float, kinship: float | None) -> BankReport:
        """Everything about the fit but the corrector."""
        job, found = self.job, self.found
        bank = self._features(corrector.map(corrector.bank))
        gallery = self._features(corrector.map(corrector.gallery))
        own = FeaturePair(self.queries, self._features(corrector.gallery), memory=job.memory)
        before = found.before if self.size == job.shape[1] else nearest(own)
        after: Similarity = FeaturePair(bank, gallery, memory=job.memory)
        after = Biased(after, corrector.bias.new_zeros(len(corrector.bank)), corrector.bias)
        ranked = topk(own, TOP)[1]
        applied = found.biases if corrector.strength > 0 else None
        return BankReport(
            bank=job.shape[0],
            gallery=self.size,
            gallery_bank=job.shape[1] - self.size,
            queries=float(self.weights.sum()),
            score_std=found.score_std,
            emcl=found.emcl,
            temperature=corrector.temperature if applied else 0.0,
            rho=corrector.rho if applied else 0.0,
            rounds=applied.rounds if applied else 0,
            error=applied.error if applied else 0.0,
            converged=applied.converged if applied else True,
            guard=found.guard,
            reliability=reliability,
            kinship=kinship,
            strength=corrector.strength,
            coverage=int((torch.bincount(ranked.flatten()) > 0).sum()) / self.size,
            evenness=None if found.prior is None else found.prior.evenness,
            hubs_before=before.hubs(),
            hubs_after=nearest(after).hubs(),
        )


def _stacked(gallery: Array, gallery_bank: Array) -> Array:
    """Both in one array of the gallery's kind."""
    check_matrix(gallery_bank, "gallery bank")
    if gallery_bank.shape[1] != gallery.shape[1]:
        raise InputValueError(
            "the gallery bank has another dimension than the gallery",
            f"{tuple(gallery_bank.shape)} against {tuple(gallery.shape)}",
            "embed it with the same model",
        )
    if isinstance(gallery, torch.Tensor):
        return torch.cat([gallery, torch.as_tensor(gallery_bank).to(gallery)])
    return np.concatenate([gallery, np.asarray(gallery_bank)])


def leak(count: int, total: int, what: str) -> str:
    """What to say where the bank holds items that are scored.

    >>> leak(3, 50, "queries")
    '3 of the 50 queries are in the bank: what they gain says little about new ones'
    """
    verb = "is" if count == 1 else "are"
    return (
        f"{count} of the {total} {what} {verb} in the bank: what they gain says "
        "little about new ones"
    )
