"""Report of a fit on a bank, for the summary and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emcl_plugin._internal.citations import CITATIONS
from emcl_plugin._internal.renamed import field as renamed_field
from emcl_plugin.emcl import EMCLReport
from emcl_plugin.evidence.guard import GuardDecision
from emcl_plugin.evidence.mutual_neighbours import Hubs

TOP = 10
"""Best items per bank query that count for the coverage."""


@renamed_field("rounds", "iterations")
@renamed_field("kinship", "in_domain")
@dataclass(frozen=True, kw_only=True)
class BankReport:
    """Result of a fit on a bank, with the evidence for it.

    Attributes
    ----------
    bank, gallery, gallery_bank : int
        Number of items.
    queries : float
        Number of different bank queries; near-duplicates count once.
    score_std, emcl : float, EMCLReport or None
        Standard deviation of the bank's scores, and what EMCL did.
    temperature, rho : float
        Of NCL, in the units of the scores; both 0 if NCL was off.
    iterations, error, converged
        As in :class:`~emcl_plugin.ncl.Biases`.
    guard : GuardDecision
        Evidence on the bank that there are hubs to correct.
    reliability : float
        R: expected agreement of the biases with those of another bank of this size, 0 to 1.
    in_domain : float or None
        In-domain score: how far the gallery resembles the gallery bank, 0 to 1; None without one.
    strength : float
        Factor of the biases: the product of guard, reliability and in-domain score.
    coverage : float
        Share of the gallery that is among the ten best of some bank query.
    evenness : float or None
        How evenly the bank queries cover the gallery, 0 to 1; None if NCL was off.
    hubs_before, hubs_after : Hubs
        Distribution of the bank queries' best matches over the gallery.
    protocol, citations : str, tuple of str
        "bank", and references to cite.

    Examples
    --------
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> report = Reranker().fit(demo.text_bank, demo.video).report_
    >>> report.bank, report.gallery, report.protocol, round(report.reliability, 1)
    (946, 945, 'bank', 0.8)
    """

    bank: int
    gallery: int
    gallery_bank: int
    queries: float
    score_std: float
    emcl: EMCLReport | None
    temperature: float
    rho: float
    iterations: int
    error: float
    converged: bool
    guard: GuardDecision
    reliability: float
    in_domain: float | None
    strength: float
    coverage: float
    evenness: float | None
    hubs_before: Hubs
    hubs_after: Hubs
    protocol: str = "bank"
    citations: tuple[str, ...] = CITATIONS

    def facts(self, verbose: bool = False) -> list[tuple[str, str]]:
        """Return the lines of the summary as (label, text)."""
        bank = f"{self.bank} queries"
        if self.queries < self.bank - 0.5:
            bank += f"; near-duplicates merged: they count as {self.queries:.0f}"
        if self.gallery_bank:
            bank += f"; gallery bank of {self.gallery_bank} items"
        covered = f"{100 * self.coverage:.0f} % of the {self.gallery} gallery items"
        ncl = "not applied"
        if self.iterations:
            std = self.temperature / self.score_std
            state = "converged" if self.converged else f"NOT converged ({self.error:.2g})"
            ncl = (
                f"temperature {self.temperature:.4g} ({std:.3g} standard deviations of the "
                f"scores), rho {self.rho:g}, {self.iterations} iteration"
                f"{'s' if self.iterations != 1 else ''}, {state}"
            )
        lines = [
            ("bank", bank),
            ("coverage", f"{covered} are among the {TOP} best of a bank query"),
            ("NCL", ncl),
            *([("EMCL", "off")] if self.emcl is None else self.emcl.lines(verbose)),
            ("guard", self.guard.reason.replace(" texts ", " queries ")),
        ]
        if self.guard.enabled and self.iterations:
            agreement = f"{100 * self.reliability:.0f} % (agreement between two halves of the bank)"
            lines.append(("reliability", agreement))
            if self.in_domain is not None:
                share = f"{100 * self.in_domain:.0f} %"
                lines.append(("in-domain", f"{share} of the gallery resembles the gallery bank"))
        return [*lines, ("applied", f"{100 * self.strength:.0f} % of the biases")]

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        key = {"iterations": "rounds", "in_domain": "kinship"}  # as format 1 has it
        out = {key.get(k, k): v for k, v in vars(self).items() if not k.startswith("hubs_")}
        out["emcl"] = None if self.emcl is None else self.emcl.to_dict()
        out["guard"] = self.guard.to_dict()
        out["hubs"] = {"before": dict(vars(self.hubs_before)), "after": dict(vars(self.hubs_after))}
        out["citations"] = list(self.citations)
        return out
