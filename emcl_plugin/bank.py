"""Bank mode: biases from other queries than those that will be asked.

EMCL and the guard as in :mod:`emcl_plugin.correct`, on the scores of bank queries x gallery; NCL
with the gentler settings of :data:`BANK`; then three questions that only arise here, because the
queries to come are not these.

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
from emcl_plugin.corrector import Corrector
from emcl_plugin.emcl import EMCL, EMCLReport
from emcl_plugin.errors import EmclWarning, InputTypeError, InputValueError, RepeatedItemsWarning
from emcl_plugin.job import CITATIONS, Job
from emcl_plugin.likeness import directions, fit_likeness, leading_plane, open_to_all
from emcl_plugin.ncl import NCL, Biases, Progress, fit_biases
from emcl_plugin.prior import GENTLE_RHO, GENTLE_TEMPERATURE_STD, check_mode
from emcl_plugin.reductions import topk
from emcl_plugin.repeats import first_equal
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

    def facts(self, verbose: bool = False) -> list[tuple[str, str]]:
        """In words: (what, how) for people."""
        bank = f"{self.bank} queries"
        if self.queries < self.bank - 0.5:
            bank += f", near-equal ones count once: {self.queries:.0f}"
        if self.gallery_bank:
            bank += f"; {self.gallery_bank} items of the gallery's kind"
        facts = [
            ("bank", bank),
            ("coverage", f"{100 * self.coverage:.0f} % of the {self.gallery} gallery items are "
             f"among the {TOP} best of some bank query"),
        ]  # fmt: skip
        if self.rounds:
            std = self.temperature / self.score_std
            state = "converged" if self.converged else f"NOT converged ({self.error:.2g})"
            rounds = f"{self.rounds} round{'s' if self.rounds != 1 else ''}"
            facts.append(
                ("NCL", f"temperature {self.temperature:.4g} ({std:.3g} standard deviations of the "
                 f"scores), rho {self.rho:g}, {rounds}, {state}")
            )  # fmt: skip
        else:
            facts.append(("NCL", "not applied"))
        if self.emcl is None:
            facts.append(("EMCL", "off"))
        else:
            facts.append(("EMCL", f"strength {self.emcl.strength:g}: {self.emcl.reason}"))
            if verbose:
                facts.append(("", f"{self.emcl.effective_rank:.1f} distinct subspaces"))
        facts.append(("guard", self.guard.reason.replace(" texts ", " queries ")))
        if self.guard.enabled and self.rounds:
            facts.append(
                (
                    "reliable",
                    f"{100 * self.reliability:.0f} %: what two halves of the bank agree on",
                )
            )
            if self.kinship is not None:
                facts.append(
                    ("kinship", f"{100 * self.kinship:.0f} % of the gallery is like its bank")
                )
        facts.append(("applied", f"{100 * self.strength:.0f} % of the biases"))
        return facts

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
    if not all(isinstance(name, str) for name in names):
        raise InputTypeError(
            "the names are not all text", repr(names[:3]), "pass str(name) of each"
        )
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
    check_mode(prior)
    given = default_ncl(prior) if ncl == "auto" else ncl
    job = Job(
        None,
        (bank, gallery if gallery_bank is None else _stacked(gallery, gallery_bank)),
        emcl=emcl,
        ncl=given,
        prior=prior if prior in ("even", "off") else "gentle",
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
        names=("bank", "gallery" if gallery_bank is None else "gallery and gallery bank"),
    )
    with warnings.catch_warnings():
        if gallery_bank is not None:  # it may well hold items of the gallery
            warnings.simplefilter("ignore", RepeatedItemsWarning)
        fit = BankFit(job, n, progress)
    corrector, trust = fit.corrector(job.ncl)
    report = fit.report(corrector, trust)
    return replace(corrector, names=tuple(names), facts=report.to_dict()), report


def default_ncl(prior: str) -> NCL:
    """NCL's settings in bank mode: gentle ones, or with "even" those of the paper.

    >>> default_ncl("auto").rho, default_ncl("even").rho
    (0.8, 1.0)
    """
    return {"gentle": GENTLE, "even": NCL()}.get(prior, BANK)


@dataclass(frozen=True)
class Trust:
    """The biases before they were weakened (None: there are none), and by what they were."""

    biases: Biases | None
    reliability: float = 1.0
    kinship: float | None = None

    @property
    def share(self) -> float:
        """Reliability times kinship."""
        return self.reliability * (1.0 if self.kinship is None else self.kinship)


class BankFit:
    """What a run on bank x gallery found, and the correctors that follow from it.

    Parameters
    ----------
    job : Job
        Of the bank's queries and the gallery, whose first ``size`` items will be searched and
        whose others are the gallery bank. Its guard, weights and EMCL are taken.
    size : int
    progress : callable, optional
    """

    def __init__(self, job: Job, size: int, progress: Progress | None = None) -> None:
        assert job.features is not None
        self.job, self.size, self.progress = job, size, progress
        self.queries, self.columns = job.features
        self.found = job.correct(progress)
        every = torch.ones(job.shape[0], dtype=job.dtype, device=job.device)
        self.weights = every if self.found.weights is None else self.found.weights

    def corrector(self, ncl: NCL | None) -> tuple[Corrector, Trust]:
        """The corrector with these settings of NCL (None: EMCL alone), and what was applied."""
        corrector, guard = self.bare(), self.found.guard
        if ncl is None or self.found.probes is None or not guard.applied:
            return corrector, Trust(None)
        pair, memory = self._pair(corrector, corrector.bank), self.job.memory
        biases = fit_biases(pair, ncl, weights=self.weights, memory=memory, progress=self.progress)
        corrector = replace(
            corrector,
            potential=biases.text,
            temperature=biases.temperature,
            rho=ncl.rho,
            strength=guard.strength,
        ).renewed()
        if not guard.enabled:
            return corrector, Trust(biases)
        before = self.found.before
        plane = leading_plane(directions(corrector.gallery))
        gate = fit_likeness(self.queries, before.video_of_text, before.text_score, plane)
        kinship = self._kinship(plane) if self.size < self.job.shape[1] else None
        trust = Trust(biases, self._reliability(corrector), kinship)
        return replace(corrector, likeness=gate).weakened(trust.share), trust

    def bare(self) -> Corrector:
        """Vectors and EMCL, without biases or gate."""
        job, found = self.job, self.found
        columns = self.columns.rows(0, self.columns.shape[0])
        basis, change = columns.new_zeros(columns.shape[1], 0), columns.new_zeros(0)
        emcl, applied = found.emcl, found.guard.applied
        if applied and found.subspaces is not None and emcl is not None and emcl.strength:
            basis = found.subspaces.basis.to(columns)
            change = found.subspaces.factors(emcl.strength).to(columns)
        renormalize = job.emcl is not None and job.emcl.renormalize
        queries = self.queries.rows(0, job.shape[0])
        return Corrector(
            metric=self.columns.metric,
            gallery=columns[: self.size].clone(),
            bias=columns.new_zeros(self.size),
            basis=basis,
            change=change,
            renormalize=renormalize and self.columns.metric == "cosine",
            likeness=open_to_all(columns),
            bank=queries.clone(),
            potential=queries.new_zeros(len(queries)),
            weight=self.weights,
            beside=columns[self.size :].clone(),
            beside_bias=columns.new_zeros(len(columns) - self.size),
            level=0.0,
            temperature=1.0,
            rho=1.0,
            strength=0.0,
        )

    def _pair(self, corrector: Corrector, queries: torch.Tensor) -> FeaturePair:
        """Scores after EMCL of these queries x gallery and gallery bank."""
        columns = corrector.map(self.columns.rows(0, self.columns.shape[0]))
        sides = self._features(corrector.map(queries)), self._features(columns)
        return FeaturePair(*sides, memory=self.job.memory)

    def _kinship(self, plane: torch.Tensor) -> float:
        """How far the gallery is of the gallery bank's kind."""
        rows = torch.arange(self.size, self.columns.shape[0], device=self.job.device)
        others = self._features(self.columns.take(rows))
        before = self.found.before
        gate = fit_likeness(
            others, before.text_of_video[self.size :], before.video_score[self.size :], plane
        )
        unit = directions(self.columns.rows(0, self.size))
        return float(torch.cat([gate.of(part) for part in torch.split(unit, 1024)]).mean())

    def _reliability(self, corrector: Corrector) -> float:
        """R of this bank."""
        config = NCL(temperature=corrector.temperature, rho=corrector.rho)
        halves = []
        for half in self._halves():
            if len(half) < 2:
                return 0.0
            pair, weights = self._pair(corrector, self.queries.take(half)), self.weights[half]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmclWarning)
                biases = fit_biases(pair, config, weights=weights, memory=self.job.memory)
            halves.append(biases.video[: self.size])
        r = float(torch.corrcoef(torch.stack(halves).double())[0, 1])
        return 2 * r / (1 + r) if r > 0 else 0.0  # also where r is NaN: equal biases

    def _halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every other bank query by its best score, near-equal ones kept together."""
        before = self.found.before
        order = torch.argsort(before.text_score, stable=True)
        vectors = self._features(self.queries.take(order))
        first = first_equal(vectors, before.video_of_text[order])
        rank = torch.unique(first, return_inverse=True)[1]
        return order[rank % 2 == 0], order[rank % 2 == 1]

    def _features(self, x: torch.Tensor) -> Features:
        job = self.job
        return Features(x, metric="dot", dtype=job.dtype, device=job.device, memory=job.memory)

    def report(self, corrector: Corrector, trust: Trust) -> BankReport:
        """Everything about the fit but the corrector."""
        biases = trust.biases
        job, found = self.job, self.found
        bank = self._features(corrector.map(corrector.bank))
        gallery = self._features(corrector.map(corrector.gallery))
        own = FeaturePair(self.queries, self._features(corrector.gallery), memory=job.memory)
        before = found.before if self.size == job.shape[1] else nearest(own)
        after: Similarity = FeaturePair(bank, gallery, memory=job.memory)
        after = Biased(after, corrector.bias.new_zeros(len(corrector.bank)), corrector.bias)
        ranked = topk(own, TOP)[1]
        return BankReport(
            bank=job.shape[0],
            gallery=self.size,
            gallery_bank=job.shape[1] - self.size,
            queries=float(self.weights.sum()),
            score_std=found.score_std,
            emcl=found.emcl,
            temperature=biases.temperature if biases is not None else 0.0,
            rho=corrector.rho if biases is not None else 0.0,
            rounds=biases.rounds if biases is not None else 0,
            error=biases.error if biases is not None else 0.0,
            converged=biases is None or biases.converged,
            guard=found.guard,
            reliability=trust.reliability,
            kinship=trust.kinship,
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
        other = torch.as_tensor(gallery_bank).to(gallery.device)
        dtype = torch.promote_types(gallery.dtype, other.dtype)
        return torch.cat([gallery.to(dtype), other.to(dtype)])
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
