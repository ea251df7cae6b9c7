"""What a bank taught, and how far to trust it, for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emcl_plugin._internal.citations import CITATIONS
from emcl_plugin._internal.renamed import field as renamed_field
from emcl_plugin.emcl import EMCLReport
from emcl_plugin.evidence.guard import GuardDecision
from emcl_plugin.evidence.mutual_neighbours import Hubs

TOP = 10
"""How many best items of a bank query count for the coverage."""


@renamed_field("rounds", "iterations")
@renamed_field("kinship", "in_domain")
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
    iterations, error, converged
        As in :class:`~emcl_plugin.ncl.Biases`.
    guard : GuardDecision
        Evidence on the bank that there are hubs to correct.
    reliability : float
        R: which part of the biases another bank of this size would teach, too.
    in_domain : float or None
        Mean share, in [0, 1], to which gallery items resemble the gallery bank; None without one.
    strength : float
        What the biases were multiplied with: guard, reliability and the in-domain score.
    coverage : float
        Share of the gallery that is among the ten best of some bank query.
    evenness : float or None
        How evenly the bank asks for the gallery, in [0, 1]; None where NCL was off.
    hubs_before, hubs_after : Hubs
        How the bank queries' best matches spread over the gallery.
    protocol : str
        "bank".
    citations : tuple of str
        What to cite.

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
        if self.iterations:
            std = self.temperature / self.score_std
            state = "converged" if self.converged else f"NOT converged ({self.error:.2g})"
            iterations = f"{self.iterations} iteration{'s' if self.iterations != 1 else ''}"
            facts.append(
                ("NCL", f"temperature {self.temperature:.4g} ({std:.3g} standard deviations of the "
                 f"scores), rho {self.rho:g}, {iterations}, {state}")
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
        if self.guard.enabled and self.iterations:
            facts.append(
                (
                    "reliable",
                    f"{100 * self.reliability:.0f} %: what two halves of the bank agree on",
                )
            )
            if self.in_domain is not None:
                facts.append(
                    (
                        "domain",
                        f"{100 * self.in_domain:.0f} % of the gallery resembles the gallery bank",
                    )
                )
        facts.append(("applied", f"{100 * self.strength:.0f} % of the biases"))
        return facts

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        key = {"iterations": "rounds", "in_domain": "kinship"}  # as format 1 has it
        out = {key.get(k, k): v for k, v in vars(self).items() if not k.startswith("hubs_")}
        out["emcl"] = None if self.emcl is None else self.emcl.to_dict()
        out["guard"] = self.guard.to_dict()
        out["hubs"] = {"before": dict(vars(self.hubs_before)), "after": dict(vars(self.hubs_after))}
        out["citations"] = list(self.citations)
        return out
