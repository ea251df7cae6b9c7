"""What a bank teaches: biases, how much of them another bank would teach, and of which gallery.

The bank is cut into halves, each gives biases, and with r their correlation over the gallery the
whole bank's are worth

    R = 2 r / (1 + r)                                                                      (R)

(Spearman and Brown, 1910): the best linear estimate of what an endless bank would give is R times
what this one gave. A bank of ten queries keeps little of its biases, one of thousands all.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch

from emcl_plugin._internal.progress import Progress
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.bank.ood_gate import directions, fit_ood_gate, leading_plane, open_to_all
from emcl_plugin.bank.report import TOP, BankReport
from emcl_plugin.errors import EmclWarning
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.evidence.near_duplicates import first_equal
from emcl_plugin.ncl import NCL, Biases, fit_biases
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores import Biased, FeaturePair, Features, Similarity
from emcl_plugin.scores.reductions import topk


@dataclass(frozen=True)
class Trust:
    """The biases before they were weakened (None: there are none), and by what they were."""

    biases: Biases | None
    reliability: float = 1.0
    in_domain: float | None = None

    @property
    def share(self) -> float:
        """Reliability times the gallery's in-domain score."""
        return self.reliability * (1.0 if self.in_domain is None else self.in_domain)


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
        gate = fit_ood_gate(self.queries, before.video_of_text, before.text_score, plane)
        in_domain = self._in_domain(plane) if self.size < self.job.shape[1] else None
        trust = Trust(biases, self._reliability(corrector), in_domain)
        return replace(corrector, ood_gate=gate).weakened(trust.share), trust

    def bare(self) -> Corrector:
        """Vectors and EMCL, without biases or gate."""
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
        """Scores after EMCL of these queries x gallery and gallery bank."""
        columns = corrector.map(self.columns.rows(0, self.columns.shape[0]))
        sides = self._features(corrector.map(queries)), self._features(columns)
        return FeaturePair(*sides, memory=self.job.memory)

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
            iterations=biases.iterations if biases is not None else 0,
            error=biases.error if biases is not None else 0.0,
            converged=biases is None or biases.converged,
            guard=found.guard,
            reliability=trust.reliability,
            in_domain=trust.in_domain,
            strength=corrector.strength,
            coverage=int((torch.bincount(ranked.flatten()) > 0).sum()) / self.size,
            evenness=None if found.prior is None else found.prior.evenness,
            hubs_before=before.hubs(),
            hubs_after=nearest(after).hubs(),
        )
