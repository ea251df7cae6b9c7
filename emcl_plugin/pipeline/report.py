"""`Report`: what a correction assumed, chose and found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emcl_plugin._internal.citations import CITATIONS
from emcl_plugin.emcl import EMCLReport
from emcl_plugin.evidence.guard import GuardDecision
from emcl_plugin.evidence.mutual_neighbours import Hubs
from emcl_plugin.evidence.prior import Prior, Probes
from emcl_plugin.ncl import Biases
from emcl_plugin.scores.candidates import RecallEstimate


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a correction assumed, chose and found.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    protocol : str
        "transductive": the biases were computed from all scored texts at once; say so when you
        publish results. "bank": from other queries.
    score_std : float
        Standard deviation of the input scores.
    emcl : EMCLReport or None
        Strength, effective rank, strengths tried and why. None if EMCL was off or there were no
        features.
    biases : Biases or None
        Text and video biases, temperature, iterations, error, converged. None if NCL was off.
        These were added to the scores, scaled by ``guard.strength``; where that is 0 they are
        those of the gentle run, and nothing was added.
    probes : Probes or None
        Biases of the gentle and of the leave-best-out run, which prior and guard rest on. The
        videos with the lowest ``probes.leave_best_out.video`` are hubs, however popular they
        are. None if NCL was off.
    prior : Prior or None
        How often each video was assumed to be requested. None if NCL was not applied.
    guard : GuardDecision
        How much of the correction was applied. If none, the scores are those of the input.
    hubs_before, hubs_after : Hubs
        How the texts' top-1 videos spread over the gallery.
    repeated_texts, repeated_videos : int
        Exact duplicates of an earlier item (0 without features).
    banks : mapping of str to BankReport
        Report of each direction's bank; empty if the protocol is transductive.
    coverage : RecallEstimate or None
        Estimated recall of the candidates; None if all pairs were scored.
    citations : tuple of str
        The papers to cite.

    Examples
    --------
    >>> import numpy as np
    >>> from emcl_plugin import rescore
    >>> report = rescore(np.eye(3, dtype="float32"))
    >>> report.protocol, report.hubs_before.largest, report.shape
    ('transductive', 1, (3, 3))
    """

    shape: tuple[int, int]
    protocol: str
    score_std: float
    emcl: EMCLReport | None
    biases: Biases | None
    probes: Probes | None
    prior: Prior | None
    guard: GuardDecision
    hubs_before: Hubs
    hubs_after: Hubs
    repeated_texts: int
    repeated_videos: int
    banks: Mapping[str, Any] = field(default_factory=dict)
    coverage: RecallEstimate | None = None
    citations: tuple[str, ...] = CITATIONS

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the biases themselves, for JSON."""
        biases = self.biases
        return {
            "texts": self.shape[0],
            "videos": self.shape[1],
            "protocol": self.protocol,
            "score_std": self.score_std,
            "emcl": None if self.emcl is None else self.emcl.to_dict(),
            "ncl": None
            if biases is None
            else {
                "temperature": biases.temperature,
                "rounds": biases.iterations,
                "error": biases.error,
                "converged": biases.converged,
                "solver": biases.solver,
            },
            "prior": None if self.prior is None else self.prior.to_dict(),
            "guard": self.guard.to_dict(),
            "banks": {direction: found.to_dict() for direction, found in self.banks.items()},
            "hubs": {"before": dict(vars(self.hubs_before)), "after": dict(vars(self.hubs_after))},
            "repeated": {"texts": self.repeated_texts, "videos": self.repeated_videos},
            "candidates": None if self.coverage is None else self.coverage.to_dict(),
            "citations": list(self.citations),
        }
