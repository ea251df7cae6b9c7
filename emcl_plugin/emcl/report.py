"""What EMCL did, for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EMCLReport:
    """What EMCL did.

    Attributes
    ----------
    strength : float
        The one applied (or tried, where the guard held the result back); 0 means that EMCL
        changed nothing.
    effective_rank : float
        Distinct subspaces that EM found.
    tried : tuple of (strength, share)
        Candidates and their mutual nearest neighbours, in [0, 1]; empty if none was tried.
    reason : str
        The choice in words.
    """

    strength: float
    effective_rank: float
    tried: tuple[tuple[float, float], ...]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "strength": self.strength,
            "effective_rank": self.effective_rank,
            "tried": [{"strength": s, "mutual_nearest_neighbours": m} for s, m in self.tried],
            "reason": self.reason,
        }
