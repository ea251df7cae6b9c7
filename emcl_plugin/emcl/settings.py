"""Settings of EMCL: defaults, and the published settings of each release."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from emcl_plugin._internal import renamed
from emcl_plugin._internal.constraints import require
from emcl_plugin.errors import InputValueError

_STRONGEST = 1e6  # beyond this strength the lengths of float32 vectors could overflow

STARTS = ("eigen", "gaussian", "signs")
STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


@renamed.field("rounds", "iterations")
@dataclass(frozen=True)
class EMCL:
    """Settings of EMCL; :meth:`preset` returns the published ones.

    Parameters
    ----------
    subspaces : int, default 32
        K, the number of bases. The result holds how many are distinct.
    iterations : int, default 9
        T, the number of EM iterations.
    sigma : float, default 0.3
        Temperature of the E-step. At 1 the responsibilities are nearly uniform and one
        subspace is left. Below 0.1 EM finds many, and removing them costs more than it gains.
    strength : float, optional
        beta times the largest eigenvalue of W, free of scale. -1 removes the leading direction
        and weakens the others by their share of its eigenvalue, 0 changes nothing, positive
        values amplify as the paper does. The leading direction is common to all channels,
        because responsibilities are never negative; the component that items share comes
        second. Default: without NCL chosen from ``strengths`` by mutual nearest neighbours; with
        NCL, which finds the same pairs, 0.
    beta : float, optional
        The paper's own, unscaled factor. Give this or ``strength``, not both.
    start : {"eigen", "gaussian", "signs"}, default "eigen"
        First bases. "eigen": plus and minus the leading eigenvectors of G; distinct, without a
        seed. "gaussian": seeded Gaussian bases. "signs": those of the release, one row of +1 and
        -1 repeated for all items, so that at most two subspaces are distinct.
    seed : int, default 0
        For "gaussian", and for "signs" without ``signs``.
    signs : tuple of +1 and -1, optional
        The release's initial row, to reproduce one of its runs.
    batch : int or None, default 128
        Batch size that the constants refer to: G is ``batch`` times the mean second moment of
        text and video, one half each, normalized to trace 1. The result then depends neither on
        the number of items nor on their scale. None: G of all rows stacked, as released.
    renormalize : bool, default True
        Normalize the reconstructed vectors to unit length (cosine similarity only).
    strengths : tuple of float
        Strengths to choose from; must contain 0.

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
        strength, beta, signs, batch = self.strength, self.beta, self.signs, self.batch
        require(
            *(
                (isinstance(value, int) and value >= 1,
                 f"EMCL's {name} must be at least 1, and whole",
                 f"{name}={value}", f"leave it out for {getattr(EMCL, name)}")
                for name, value in (("subspaces", self.subspaces), ("iterations", self.iterations))
            ),
            (0 < self.sigma < math.inf, "EMCL's sigma must be positive", f"sigma={self.sigma}",
             "leave it out for 0.3"),
            *(
                (value is None or abs(value) <= _STRONGEST,
                 f"EMCL's {name} must be finite, and within a million", f"{name}={value}",
                 "-1 to 1 is usual")
                for name, value in (("strength", strength), ("beta", beta))
            ),
            (-(1 << 63) <= self.seed < 1 << 63, "EMCL's seed must be a whole number of 64 bits",
             f"seed={self.seed}", "use 0, say"),
            (strength is None or beta is None, "EMCL takes a strength or a beta, not both",
             f"strength={strength}, beta={beta}",
             "keep one (strength = beta times the largest eigenvalue of W)"),
            (self.start in STARTS, "EMCL's start is not known", f"start={self.start!r}",
             "eigen, gaussian or signs"),
            (signs is None or (len(signs) == self.subspaces and set(signs) <= {1, -1}),
             "EMCL's signs must be one +1 or -1 per subspace",
             f"signs={signs}, subspaces={self.subspaces}",
             "pass the initial row of the run to reproduce, or leave it out"),
            (batch is None or batch >= 1, "EMCL's batch must be at least 1", f"batch={batch}",
             "leave it out for 128"),
            (0.0 in self.strengths and all(map(math.isfinite, self.strengths)),
             "EMCL's strengths must contain 0 (EMCL off) and be finite",
             f"strengths={self.strengths}", "add 0, or fix one with strength="),
        )  # fmt: skip

    @classmethod
    def preset(cls, name: str) -> EMCL:
        """Return the published settings of a release.

        ``clip2video``: the paper's inference-time module on CLIP2Video (not re-normalised).
        ``emcl-net``: EMCL-Net. ``mmt`` and ``mmt-lsmdc``: EMCL on MMT, one EM per expert; that
        release multiplies by its temperature where the paper divides; both are equal at 1.
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
