"""EMCL: expectation-maximization over the second moments of the features, as a linear map.

Source: Jin et al., "Expectation-Maximization Contrastive Learning for Compact
Video-and-Language Representations", NeurIPS 2022, arXiv 2211.11427, and the released code where
it differs. With X the stacked text and video rows (b x D), the D channels
are the points, M (b x K) the bases and Z (D x K) the responsibilities:

    (E)  Z = softmax_k(X^T M / sigma),  columns divided by (1e-6 + their sum)
    (M)  M = X Z,                       columns divided by (1e-6 + their L2 norm)
    (R)  X' = X + beta M Z^T

M is X Z with its columns rescaled, so everything the loop needs is in G = X^T X (D x D):

    X^T M = G Z diag(1 / (1e-6 + |X z_k|)),   |X z_k| = sqrt(z_k^T G z_k)
    X'    = X (I + beta W),                   W = sum_k z_k z_k^T / (1e-6 + |X z_k|)

One pass over the data gives G; after it the cost does not depend on the number of items. W is
symmetric and positive semi-definite with few non-zero eigenvalues: EMCL multiplies the
coordinate along eigenvector u_k by 1 + beta lambda_k and leaves the rest alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch

from emcl_plugin.candidates import Candidates
from emcl_plugin.errors import InputValueError
from emcl_plugin.similarity import Features, Similarity

_EPS = 1e-6  # the release's guard against division by zero, part of its result
_STRONGEST = 1e6  # of a strength: beyond it, the lengths of float32 vectors could overflow
_ROWS = 1024  # per product: few enough for the working memory of a matrix product to stay small
NORM_FLOOR = 1e-4  # a vector that the map removes almost whole is not blown up beyond this

STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class EMCL:
    """Settings of EMCL. The defaults need no choice; :meth:`preset` gives the published ones.

    Parameters
    ----------
    subspaces : int, default 32
        K, the number of bases. How many turn out distinct is in the result.
    rounds : int, default 9
        T, the number of EM rounds.
    sigma : float, default 0.3
        Temperature of the E-step. At 1 the responsibilities are nearly uniform and one
        subspace is left; below 0.1 EM finds many and their removal costs more than it gives.
    strength : float, optional
        s = beta * largest eigenvalue of W, free of scale: -1 removes the leading shared
        direction, 0 changes nothing, above 0 strengthens as the paper does. Without it (and
        without ``beta``) the strength is chosen from ``strengths`` by mutual nearest
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
    rounds: int = 9
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
        for name, low in (("subspaces", 1), ("rounds", 1)):
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
        _RELEASED, subspaces=7, rounds=10, sigma=0.1, beta=4.0, renormalize=False
    ),
    "emcl-net": replace(_RELEASED, subspaces=32, rounds=9, sigma=1.0, beta=3.0),
    "mmt": replace(_RELEASED, subspaces=64, rounds=5, sigma=1.0, beta=3.0),
    "mmt-lsmdc": replace(_RELEASED, subspaces=16, rounds=9, sigma=1.0, beta=3.0),
}


@dataclass(frozen=True)
class SecondMoments:
    """What EM needs of the data: G = X^T X, (D, D), and X^T 1, (D,), in float64."""

    gram: torch.Tensor
    total: torch.Tensor

    @cached_property
    def eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues of G, none below 0, and eigenvectors, in rising order."""
        values, vectors = torch.linalg.eigh(self.gram)
        return values.clamp(min=0), vectors


def second_moments(
    *sides: Features,
    batch: int | None = 128,
    weights: Sequence[torch.Tensor | None] = (),
) -> SecondMoments:
    """G and X^T 1 in one streaming pass.

    Parameters
    ----------
    *sides : Features
        Text and video (one or more sets of vectors of one dimension).
    batch : int or None
        A number: ``batch`` times the mean over sides of each side's mean, its trace made 1, as
        if a batch of that size held each side in equal parts. None: all rows stacked.
    weights : sequence of (n,) or None
        As how many each vector of each side counts, one if not given; only with a ``batch``.
    """
    dimension = sides[0].shape[1]
    gram = torch.zeros(dimension, dimension, dtype=torch.float64, device=sides[0].device)
    total = torch.zeros(dimension, dtype=torch.float64, device=sides[0].device)
    for side, given in zip_longest(sides, weights):
        counts = None if batch is None else given
        size = side.shape[0] if counts is None else float(counts.sum())
        share = 1.0 if batch is None else 1.0 / (size * len(sides))
        own_gram, own_total = torch.zeros_like(gram), torch.zeros_like(total)
        for start, _, block in side.blocks():
            for first in range(0, len(block), _ROWS):
                x = counted = block[first : first + _ROWS]
                if counts is not None:
                    counted = x * counts[start + first : start + first + len(x), None]
                own_gram.add_(counted.T @ x, alpha=share)
                own_total.add_(counted.sum(0, dtype=torch.float64), alpha=share)
        gram += side.world.sum(own_gram)
        total += side.world.sum(own_total)
    trace = gram.trace()
    if not trace > 0:
        raise InputValueError(
            "all features are zero, or their squares are, so there are no subspaces to find",
            f"{', '.join(str(side.shape) for side in sides)}",
            "check how the features were made; multiply them all by one number if they are tiny",
        )
    if batch is not None:
        gram *= batch / trace
        total *= batch / trace.sqrt()
    return SecondMoments(gram, total)


@dataclass(frozen=True)
class Subspaces:
    """What EM found: the eigenvectors and eigenvalues of W, largest first.

    Attributes
    ----------
    basis : (D, r) float64
        Orthonormal directions.
    eigenvalues : (r,) float64
        Of W; all positive. The map multiplies direction k by 1 + beta eigenvalue_k.
    """

    basis: torch.Tensor
    eigenvalues: torch.Tensor

    @property
    def effective_rank(self) -> float:
        """(sum lambda)^2 / sum lambda^2: how many distinct subspaces W amounts to."""
        return float(self.eigenvalues.sum() ** 2 / self.eigenvalues.square().sum())

    def above_rounding(self, dtype: torch.dtype) -> Subspaces:
        """Without directions that a strength of 1 changes by less than this dtype's rounding."""
        keep = self.eigenvalues > torch.finfo(dtype).eps / 8 * self.eigenvalues[0]
        return Subspaces(self.basis[:, keep], self.eigenvalues[keep])

    def strength(self, config: EMCL) -> float | None:
        """The strength that the settings fix, or None where it is to be chosen."""
        if config.beta is not None:
            return config.beta * float(self.eigenvalues[0])
        return config.strength

    def factors(self, strength: float) -> torch.Tensor:
        """beta lambda_k for beta = strength / lambda_max: the relative change of direction k."""
        return strength * self.eigenvalues / self.eigenvalues[0]

    def apply(self, x: torch.Tensor, strength: float, *, renormalize: bool = False) -> torch.Tensor:
        """X' = X (I + beta W), (n, D), in the dtype of ``x`` (R)."""
        basis = self.basis.to(device=x.device, dtype=x.dtype)
        change = self.factors(strength).to(device=x.device, dtype=x.dtype)
        out = x + ((x @ basis) * change) @ basis.T
        if not renormalize:
            return out
        return renormalized(out, torch.linalg.vector_norm(x, dim=1, keepdim=True))


def renormalized(out: torch.Tensor, length: torch.Tensor | float) -> torch.Tensor:
    """``out``, (n, D), which the map made of vectors of these lengths, (n, 1), at unit length.

    A vector that lost almost all of its length is left shorter than that: it is noise.
    """
    least = math.sqrt(NORM_FLOOR) * length
    if isinstance(least, torch.Tensor):
        least = least.clamp(min=torch.finfo(out.dtype).tiny)
    now: torch.Tensor = torch.linalg.vector_norm(out, dim=1, keepdim=True)
    return out / now.clamp(min=least)


def fit_subspaces(moments: SecondMoments, config: EMCL) -> Subspaces:
    """Run EM on the second moments and return the eigenvectors of the map W.

    Deterministic; cost grows with D^2 K, not with the number of items.
    """
    gram = moments.gram
    products, copies = _start(moments, config)  # X^T M, and how often each base occurs in K
    log_copies = copies.log()
    for _ in range(config.rounds):
        z = torch.softmax(products / config.sigma + log_copies, dim=1) / copies  # (E)
        z = z / (_EPS + z.sum(0))
        norms = (z * (gram @ z)).sum(0).clamp(min=0).sqrt()  # |X z_k|
        products = (gram @ z) / (_EPS + norms)  # X^T M after (M)
    # W = F F^T with K columns: its eigenvectors are the left singular vectors of F
    factor = z * (copies / (_EPS + norms)).sqrt()
    basis, roots, _ = torch.linalg.svd(factor, full_matrices=False)
    keep = roots > 1e-12 * roots[0]
    return Subspaces(basis=basis[:, keep], eigenvalues=roots[keep].square())


def _start(moments: SecondMoments, config: EMCL) -> tuple[torch.Tensor, torch.Tensor]:
    """X^T M of the first bases, (D, distinct), and how many of the K bases each stands for."""
    gram, k = moments.gram, config.subspaces
    generator = torch.Generator().manual_seed(config.seed)
    if config.start == "signs":
        if config.signs is not None:
            signs = torch.tensor(config.signs)
        else:
            signs = torch.randn(k, generator=generator).sign().long()
        distinct, copies = torch.unique(signs, return_counts=True)
        products = moments.total[:, None] * distinct.to(gram)
        return products, copies.to(gram)
    values, vectors = moments.eigen
    if config.start == "gaussian":
        # X^T m for m uniform on the unit sphere of `batch` rows is close to N(0, G / batch)
        noise = torch.randn(len(gram), k, generator=generator, dtype=torch.float64).to(gram)
        root = values.sqrt()[:, None]
        products = vectors @ (root * (vectors.T @ noise)) / math.sqrt(config.batch or 1)
        return products, torch.ones(k).to(gram)
    k = min(k, 2 * len(gram))
    pairs = (k + 1) // 2
    leading = vectors[:, -pairs:].flip(1)
    axes = leading * values[-pairs:].flip(0).sqrt() * _sign(leading)  # X^T Xu/|Xu| = sqrt(lambda) u
    products = torch.cat([axes, -axes[:, : k // 2]], dim=1)
    return products, torch.ones(k).to(gram)


def _sign(vectors: torch.Tensor) -> torch.Tensor:
    """+-1 per column, so that each column's entry of largest magnitude becomes positive."""
    rows = vectors.abs().argmax(0)
    return vectors[rows, torch.arange(vectors.shape[1], device=vectors.device)].sign()


class Reconstruction:
    """The scores after EMCL, for any strength, from one projection of each side.

    With c_k = (1 + beta lambda_k)^2 - 1, a_i = U^T t_i and b_j = U^T v_j,

        <t_i (I + beta W), v_j (I + beta W)> = <t_i, v_j> + sum_k c_k a_ik b_jk
        |t_i (I + beta W)|^2                 = |t_i|^2    + sum_k c_k a_ik^2

    so that a candidate costs a product of rank r, not of dimension D. For a similarity that is
    not the features' inner product the same sum is added as a residual, in its scale.

    Parameters
    ----------
    text, video : Features
    subspaces : Subspaces
    renormalize : bool
        Divide by the lengths of the reconstructed vectors (only for their own inner product).
    scale : float, default 1
        Units of the similarity per unit of the features' inner product.
    """

    def __init__(
        self,
        text: Features,
        video: Features,
        subspaces: Subspaces,
        *,
        renormalize: bool,
        scale: float = 1.0,
    ) -> None:
        self.subspaces = subspaces = subspaces.above_rounding(text.dtype)
        self.scale = scale
        self._text = text.project(subspaces.basis)
        self._video = video.project(subspaces.basis)
        self._of_candidates: list[torch.Tensor] | None = None
        self._norms: tuple[torch.Tensor, torch.Tensor] | None = None
        if renormalize:
            self._norms = text.squared_norms(), video.squared_norms()

    def scores(self, base: Similarity, strength: float) -> Similarity:
        """``base`` after the map of this strength."""
        gain = ((1 + self.subspaces.factors(strength)).square() - 1).to(self._text)
        left = self._text * (gain * self.scale)
        scales = [
            renormalizing(norms, projected, gain)
            for projected, norms in zip((self._text, self._video), self._norms or (), strict=False)
        ]
        if isinstance(base, Candidates):  # c_k = 2 s l_k + s^2 l_k^2: two products do for every s
            once, twice = self._products(base)
            change = self.scale * (2 * strength * once + strength**2 * twice)
            return base.with_values(base.values + change, left, self._video, *scales)
        return base.changed(left, self._video, *scales)

    def _products(self, base: Candidates) -> list[torch.Tensor]:
        """sum_k l_k a_ik b_jk and sum_k l_k^2 a_ik b_jk of every candidate."""
        if self._of_candidates is None:
            shares = self.subspaces.factors(1.0).to(self._text)
            lefts = self._text * shares, self._text * shares.square()
            self._of_candidates = base.products(*lefts, self._video)
        return self._of_candidates


def renormalizing(norms: torch.Tensor, projected: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """One over the new length of every vector, (n,), from its squared length and projections."""
    squared = norms + projected.square() @ gain
    return torch.maximum(squared, NORM_FLOOR * norms).rsqrt()


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
