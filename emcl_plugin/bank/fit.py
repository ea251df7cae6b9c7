"""Fit a corrector on a bank of queries: biases, shrunk by their reliability.

The bank is split into halves, and each half gives biases. With r their correlation over the
gallery, the reliability of the whole bank's biases is

    R = 2 r / (1 + r)                                                                      (R)

(Spearman and Brown, 1910): R times these biases is the best linear estimate of those of an
infinite bank. A bank of ten queries keeps little of its biases, one of thousands all.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, check_matrix
from emcl_plugin._internal.progress import Progress
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.bank.ood_gate import directions, fit_ood_gate, leading_plane, open_to_all
from emcl_plugin.bank.report import TOP, BankReport
from emcl_plugin.bank.settings import default_ncl
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import EmclWarning, InputTypeError, InputValueError, RepeatedItemsWarning
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.evidence.near_duplicates import first_equal
from emcl_plugin.ncl import NCL, Biases, fit_biases
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.scores import Biased, FeaturePair, Features
from emcl_plugin.scores.reductions import topk


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
    """Fit a corrector of future queries' scores on a bank of other queries.

    Arguments, errors and warnings are those of :meth:`emcl_plugin.Reranker.fit` and
    :func:`emcl_plugin.rerank`, but NCL defaults to :data:`BANK`. With a gallery bank, NCL runs over
    both galleries, so that these items take their own mass (dual-bank Sinkhorn). ``guard=False``
    also sets reliability and the in-domain score to 1 and opens the gate.
    """
    n = int(check_matrix(gallery, "gallery").shape[0])
    _check(ncl, names, n)
    given = default_ncl(prior) if ncl == "auto" else ncl
    settings = Settings.of(emcl, given, prior, guard, metric)
    job = Job(
        None,
        (bank, gallery if gallery_bank is None else _stacked(gallery, gallery_bank)),
        replace(settings, prior=prior if prior in ("even", "off") else "gentle"),
        Resources(device=device, memory=memory),
        names=("bank", "gallery" if gallery_bank is None else "gallery and gallery bank"),
    )
    with warnings.catch_warnings():
        if gallery_bank is not None:  # it may well hold items of the gallery
            warnings.simplefilter("ignore", RepeatedItemsWarning)
        fit = BankFit(job, n, progress)
    corrector, trust = fit.corrector(job.settings.ncl)
    report = fit.report(corrector, trust)
    return replace(corrector, names=tuple(names), facts=report.to_dict()), report


def _check(ncl: NCL | str | None, names: tuple[str, ...], n: int) -> None:
    if not all(isinstance(name, str) for name in names):
        raise InputTypeError(
            "the names are not all strings", repr(names[:3]), "pass str(name) of each"
        )
    if names and len(names) != n:
        raise InputValueError(
            "there must be one name per gallery item", f"{len(names)} for {n}", "name each item"
        )
    if isinstance(ncl, NCL) and (ncl.text_marginal is not None or ncl.video_marginal is not None):
        problem = "a bank's biases take no marginals"
        remedy = "leave them out; near-duplicate bank queries are merged automatically"
        raise InputValueError(problem, "NCL(text_marginal=...) or NCL(video_marginal=...)", remedy)


def _stacked(gallery: Array, gallery_bank: Array) -> Array:
    check_matrix(gallery_bank, "gallery bank")
    if gallery_bank.shape[1] != gallery.shape[1]:
        problem = "the gallery bank has another dimension than the gallery"
        received = f"{tuple(gallery_bank.shape)} against {tuple(gallery.shape)}"
        raise InputValueError(problem, received, "embed it with the same model")
    if isinstance(gallery, torch.Tensor):
        other = torch.as_tensor(gallery_bank).to(gallery.device)
        dtype = torch.promote_types(gallery.dtype, other.dtype)
        return torch.cat([gallery.to(dtype), other.to(dtype)])
    return np.concatenate([gallery, np.asarray(gallery_bank)])


class Trust(NamedTuple):
    """Unshrunk biases (None: no NCL) and their shrinkage factors."""

    biases: Biases | None
    reliability: float = 1.0
    in_domain: float | None = None


class BankFit:
    """A correction of bank x gallery, and the correctors that follow from it.

    The job is over the bank's queries and the gallery, of which the first ``size`` items will be
    searched and the others are the gallery bank; its guard, weights and EMCL are used.
    """

    def __init__(self, job: Job, size: int, progress: Progress | None = None) -> None:
        assert job.features is not None
        self.job, self.size, self.progress = job, size, progress
        self.queries, self.columns = job.features
        self.found = job.correct(progress)
        every = torch.ones(job.shape[0], dtype=job.dtype, device=job.device)
        self.weights = every if self.found.weights is None else self.found.weights

    def corrector(self, ncl: NCL | None) -> tuple[Corrector, Trust]:
        """Return the corrector for these settings of NCL (None: EMCL alone) and its trust."""
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
        gate = fit_ood_gate(self.queries, before.video_of_text, before.text_score, plane)
        in_domain = self._in_domain(plane) if self.size < self.job.shape[1] else None
        trust = Trust(biases, self._reliability(corrector), in_domain)
        share = trust.reliability * (1.0 if in_domain is None else in_domain)
        return replace(corrector, ood_gate=gate).weakened(share), trust

    def bare(self) -> Corrector:
        """Return a corrector with EMCL only: no biases, an open gate."""
        job, found = self.job, self.found
        columns = self.columns.rows(0, self.columns.shape[0])
        basis, change = columns.new_zeros(columns.shape[1], 0), columns.new_zeros(0)
        emcl, applied = found.emcl, found.guard.applied
        if applied and found.subspaces is not None and emcl is not None and emcl.strength:
            basis = found.subspaces.basis.to(columns)
            change = found.subspaces.factors(emcl.strength).to(columns)
        renormalize = job.settings.emcl is not None and job.settings.emcl.renormalize
        queries = self.queries.rows(0, job.shape[0])
        return Corrector(
            metric=self.columns.metric,
            gallery=columns[: self.size].clone(),
            bias=columns.new_zeros(self.size),
            basis=basis,
            change=change,
            renormalize=renormalize and self.columns.metric == "cosine",
            ood_gate=open_to_all(columns),
            bank=queries.clone(),
            potential=queries.new_zeros(len(queries)),
            weight=self.weights,
            auxiliary=columns[self.size :].clone(),
            auxiliary_bias=columns.new_zeros(len(columns) - self.size),
            level=0.0,
            temperature=1.0,
            rho=1.0,
            strength=0.0,
        )

    def _pair(self, corrector: Corrector, queries: torch.Tensor) -> FeaturePair:
        """Return the scores after EMCL of queries x (gallery and gallery bank)."""
        sides = queries, self.columns.rows(0, self.columns.shape[0])
        return FeaturePair(
            *(self._features(corrector.map(x)) for x in sides), memory=self.job.memory
        )

    def _in_domain(self, plane: torch.Tensor) -> float:
        """How far the gallery is of the gallery bank's kind."""
        rows = torch.arange(self.size, self.columns.shape[0], device=self.job.device)
        others = self._features(self.columns.take(rows))
        before = self.found.before
        gate = fit_ood_gate(
            others, before.text_of_video[self.size :], before.video_score[self.size :], plane
        )
        unit = directions(self.columns.rows(0, self.size))
        return float(torch.cat([gate.of(part) for part in torch.split(unit, 1024)]).mean())

    def _reliability(self, corrector: Corrector) -> float:
        """Return R of this bank, see (R)."""
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
        """Split the bank queries alternately by best score; near-duplicates stay together."""
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
        """Return the report on the fit."""
        job, found, biases = self.job, self.found, trust.biases
        names = ("temperature", "iterations", "error", "converged")
        solved: dict[str, Any] = dict(zip(names, (0.0, 0, 0.0, True), strict=True))
        if biases is not None:
            solved = {name: getattr(biases, name) for name in names}
        sides = (self._features(corrector.map(x)) for x in (corrector.bank, corrector.gallery))
        mapped = FeaturePair(*sides, memory=job.memory)
        after = Biased(mapped, corrector.bias.new_zeros(job.shape[0]), corrector.bias)
        own = FeaturePair(self.queries, self._features(corrector.gallery), memory=job.memory)
        before = found.before if self.size == job.shape[1] else nearest(own)
        ranked = topk(own, TOP)[1]
        return BankReport(
            bank=job.shape[0],
            gallery=self.size,
            gallery_bank=job.shape[1] - self.size,
            queries=float(self.weights.sum()),
            score_std=found.score_std,
            emcl=found.emcl,
            **solved,
            rho=0.0 if biases is None else corrector.rho,
            guard=found.guard,
            reliability=trust.reliability,
            in_domain=trust.in_domain,
            strength=corrector.strength,
            coverage=int((torch.bincount(ranked.flatten()) > 0).sum()) / self.size,
            evenness=None if found.prior is None else found.prior.evenness,
            hubs_before=before.hubs(),
            hubs_after=nearest(after).hubs(),
        )


def overlap_message(count: int, total: int, what: str) -> str:
    """Return the warning about scored items that the bank holds.

    >>> overlap_message(3, 50, "queries")
    '3 of the 50 queries are in the bank: their gain does not carry over to new ones'
    """
    held = f"{count} of the {total} {what} {'is' if count == 1 else 'are'} in the bank"
    return f"{held}: their gain does not carry over to new ones"
