"""Settings of EMCL: the defaults, and the published ones of each release."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from emcl_plugin._internal import renamed
from emcl_plugin.errors import InputValueError

_STRONGEST = 1e6  # of a strength: beyond it, the lengths of float32 vectors could overflow

STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


@renamed.field("rounds", "iterations")
@dataclass(frozen=True)
class EMCL:
    """Settings of EMCL. The defaults need no choice; :meth:`preset` gives the published ones.

    Parameters
    ----------
    subspaces : int, default 32
        K, the number of bases. How many turn out distinct is in the result.
    iterations : int, default 9
        T, the number of EM iterations.
    sigma : float, default 0.3
        Temperature of the E-step. At 1 the responsibilities are nearly uniform and one
        subspace is left; below 0.1 EM finds many and their removal costs more than it gives.
    strength : float, optional
        s = beta * largest eigenvalue of W, free of scale: -1 removes the leading direction and
        weakens the others by their share of its eigenvalue, 0 changes nothing, above 0
        strengthens as the paper does. The leading direction is that of all channels alike, as
        responsibilities are never negative; what the items share comes behind it. Without
        it (and without ``beta``) the strength is chosen from ``strengths`` by mutual nearest
        neighbours.
    beta : float, optional
        The paper's own, unscaled factor. Give this or ``strength``, not both.
    start : {"eigen", "gaussian", "signs"}, default "eigen"
        First bases. "eigen": plus and minus the leading eigenvectors of G, distinct and without
        a seed. "gaussian": seeded Gaussian bases. "signs": the release's, which are one row of
        +1 and -1 repeated for all items, so that two subspaces at most are distinct.
    seed : int, default 0
        For "gaussian", and for "signs" without ``signs``.
    signs : tuple of +1 and -1, optional
        The release's initial row, to reproduce one of its runs.
    batch : int or None, default 128
        The batch size the constants refer to: G is ``batch`` times the mean second moment, text
        and video weighing one half each and its trace brought to 1, so that the result does not
        depend on the number of items or their scale. None: G of all rows stacked, as released.
    renormalize : bool, default True
        Bring the reconstructed vectors to unit length (for cosine similarity only).
    strengths : tuple of float
        What to choose from; must contain 0.

    Examples
    --------
    >>> EMCL.preset("clip2video").beta
    4.0
    """

    subspaces: int = 32
    iterations: int = 9
    sigma: float = 0.3
    strength: float | None = None
    beta: float | None = None
    start: str = "eigen"
    seed: int = 0
    signs: tuple[int, ...] | None = None
    batch: int | None = 128
    renormalize: bool = True
    strengths: tuple[float, ...] = STRENGTHS

    def __post_init__(self) -> None:
        for name, low in (("subspaces", 1), ("iterations", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low:
                raise InputValueError(
                    f"EMCL's {name} must be at least {low}, and whole",
                    f"{name}={getattr(self, name)}",
                    f"leave it out for {getattr(EMCL, name)}",
                )
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise InputValueError(
                "EMCL's sigma must be positive", f"sigma={self.sigma}", "leave it out for 0.3"
            )
        for name in ("strength", "beta"):
            value = getattr(self, name)
            if value is not None and not abs(value) <= _STRONGEST:
                raise InputValueError(
                    f"EMCL's {name} must be finite, and within a million",
                    f"{name}={value}",
                    "-1 to 1 is usual",
                )
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise InputValueError(
                "EMCL's seed must be a whole number of 64 bits", f"seed={self.seed}", "use 0, say"
            )
        if self.strength is not None and self.beta is not None:
            raise InputValueError(
                "EMCL takes a strength or a beta, not both",
                f"strength={self.strength}, beta={self.beta}",
                "keep one (strength = beta times the largest eigenvalue of W)",
            )
        if self.start not in ("eigen", "gaussian", "signs"):
            raise InputValueError(
                "EMCL's start is not known", f"start={self.start!r}", "eigen, gaussian or signs"
            )
        signs = self.signs
        if signs is not None and (len(signs) != self.subspaces or set(signs) - {1, -1}):
            raise InputValueError(
                "EMCL's signs must be one +1 or -1 per subspace",
                f"signs={signs}, subspaces={self.subspaces}",
                "pass the initial row of the run to reproduce, or leave it out",
            )
        if self.batch is not None and self.batch < 1:
            raise InputValueError(
                "EMCL's batch must be at least 1", f"batch={self.batch}", "leave it out for 128"
            )
        if 0.0 not in self.strengths or not all(map(math.isfinite, self.strengths)):
            raise InputValueError(
                "EMCL's strengths must contain 0, so that doing nothing can win, and be finite",
                f"strengths={self.strengths}",
                "add 0, or fix one with strength=",
            )

    @classmethod
    def preset(cls, name: str) -> EMCL:
        """The published settings of one release, by name.

        ``clip2video``: the paper's inference-time module on CLIP2Video (not re-normalised).
        ``emcl-net``: EMCL-Net. ``mmt`` and ``mmt-lsmdc``: EMCL on MMT, one EM per expert; that
        release multiplies by its temperature where the paper divides, which is the same at 1.
        """
        try:
            return PRESETS[name]
        except KeyError:
            raise InputValueError(
                "no EMCL preset has this name", repr(name), f"use one of {', '.join(PRESETS)}"
            ) from None


_RELEASED = EMCL(start="signs", batch=None)
PRESETS: dict[str, EMCL] = {
    "clip2video": replace(
        _RELEASED, subspaces=7, iterations=10, sigma=0.1, beta=4.0, renormalize=False
    ),
    "emcl-net": replace(_RELEASED, subspaces=32, iterations=9, sigma=1.0, beta=3.0),
    "mmt": replace(_RELEASED, subspaces=64, iterations=5, sigma=1.0, beta=3.0),
    "mmt-lsmdc": replace(_RELEASED, subspaces=16, iterations=9, sigma=1.0, beta=3.0),
}
