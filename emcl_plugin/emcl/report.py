"""Report of EMCL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EMCLReport:
    """Report of EMCL.

    Attributes
    ----------
    strength : float
        Strength applied, or tried if the guard rejected the result; 0: EMCL changed nothing.
    effective_rank : float
        Effective number of distinct subspaces.
    tried : tuple of (strength, share)
        Candidates and their shares of mutual nearest neighbours; empty if none was tried.
    reason : str
        The choice in words.
    """

    strength: float
    effective_rank: float
    tried: tuple[tuple[float, float], ...]
    reason: str

    def lines(self, verbose: bool = False) -> list[tuple[str, str]]:
        """Return the lines of a summary as (label, text)."""
        off = self.reason.startswith("not applied")
        found = [("EMCL", self.reason if off else f"strength {self.strength:g}: {self.reason}")]
        if verbose:
            found.append(("", f"{self.effective_rank:.1f} distinct subspaces"))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "strength": self.strength,
            "effective_rank": self.effective_rank,
            "tried": [{"strength": s, "mutual_nearest_neighbours": m} for s, m in self.tried],
            "reason": self.reason,
        }
