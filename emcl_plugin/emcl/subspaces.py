"""EMCL: expectation-maximization over the second moments of the features, as a linear map.

Source: Jin et al., "Expectation-Maximization Contrastive Learning for Compact
Video-and-Language Representations", NeurIPS 2022, arXiv 2211.11427, and the released code where
it differs. With X the stacked text and video rows (b x D), the D channels are the points, M (b x K)
the bases and Z (D x K) the responsibilities:

    (E)  Z = softmax_k(X^T M / sigma),  columns divided by (1e-6 + their sum)
    (M)  M = X Z,                       columns divided by (1e-6 + their L2 norm)
    (R)  X' = X + beta M Z^T

M is X Z with its columns rescaled, so everything the loop needs is in G = X^T X (D x D):

    X^T M = G Z diag(1 / (1e-6 + |X z_k|)),   |X z_k| = sqrt(z_k^T G z_k)
    X'    = X (I + beta W),                   W = sum_k z_k z_k^T / (1e-6 + |X z_k|)

One pass over the data gives G; then the cost does not depend on the number of items. W is
symmetric and positive semi-definite with few non-zero eigenvalues. EMCL multiplies the coordinate
along eigenvector u_k by 1 + beta lambda_k and changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import torch

from emcl_plugin.emcl.settings import EMCL
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Features

_EPS = 1e-6  # of the release, which it affects
_ROWS = 1024  # per product, to limit its working memory
NORM_FLOOR = 1e-4  # of squared lengths: vectors that lose more are noise, and not rescaled


@dataclass(frozen=True)
class SecondMoments:
    """Sufficient statistics of EM in float64: G = X^T X, (D, D), and X^T 1, (D,)."""

    gram: torch.Tensor
    total: torch.Tensor

    @cached_property
    def eigen(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues of G in rising order, clamped at 0, and eigenvectors."""
        values, vectors = torch.linalg.eigh(self.gram)
        return values.clamp(min=0), vectors


def second_moments(
    *sides: Features,
    batch: int | None = 128,
    weights: Sequence[torch.Tensor | None] = (),
) -> SecondMoments:
    """Return G and X^T 1 in one streaming pass.

    Parameters
    ----------
    *sides : Features
        Text and video; one or more sets of vectors of one dimension.
    batch : int or None
        A number: ``batch`` times the mean of both sides' means, normalized to trace 1, as in a
        batch of that size with equal parts of each side. None: all rows stacked.
    weights : sequence of (n,) or None
        Weight of each vector of each side, default 1; only with a ``batch``.
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
        gram += side.group.sum(own_gram)
        total += side.group.sum(own_total)
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
    """Eigenvectors and eigenvalues of W, largest first.

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
        """Effective number of distinct subspaces, (sum lambda)^2 / sum lambda^2."""
        return float(self.eigenvalues.sum() ** 2 / self.eigenvalues.square().sum())

    def above_rounding(self, dtype: torch.dtype) -> Subspaces:
        """Drop directions that a strength of 1 changes by less than this dtype's rounding."""
        keep = self.eigenvalues > torch.finfo(dtype).eps / 8 * self.eigenvalues[0]
        return Subspaces(self.basis[:, keep], self.eigenvalues[keep])

    def strength(self, config: EMCL) -> float | None:
        """Return the strength given by the settings, or None if it is to be chosen."""
        if config.beta is not None:
            return config.beta * float(self.eigenvalues[0])
        return config.strength

    def factors(self, strength: float) -> torch.Tensor:
        """Return beta lambda_k for beta = strength / lambda_max: the change of direction k."""
        return strength * self.eigenvalues / self.eigenvalues[0]

    def apply(self, x: torch.Tensor, strength: float, *, renormalize: bool = False) -> torch.Tensor:
        """Return X' = X (I + beta W), (n, D), in the dtype of ``x`` (R)."""
        basis = self.basis.to(device=x.device, dtype=x.dtype)
        change = self.factors(strength).to(device=x.device, dtype=x.dtype)
        out = x + ((x @ basis) * change) @ basis.T  # (R)
        if not renormalize:
            return out
        return renormalized(out, torch.linalg.vector_norm(x, dim=1, keepdim=True))


def renormalized(out: torch.Tensor, length: torch.Tensor | float) -> torch.Tensor:
    """Normalize ``out``, (n, D), mapped from vectors of these lengths, (n, 1), to unit length.

    Vectors that lost almost all of their length are noise and stay shorter.
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
    products, copies = _start(moments, config)  # X^T M, and each base's multiplicity in K
    log_copies = copies.log()
    for _ in range(config.iterations):
        z = torch.softmax(products / config.sigma + log_copies, dim=1) / copies  # (E)
        z = z / (_EPS + z.sum(0))  # (E)
        norms = (z * (gram @ z)).sum(0).clamp(min=0).sqrt()  # |X z_k|
        products = (gram @ z) / (_EPS + norms)  # (M), as X^T M
    # W = F F^T with K columns: its eigenvectors are the left singular vectors of F
    factor = z * (copies / (_EPS + norms)).sqrt()
    basis, roots, _ = torch.linalg.svd(factor, full_matrices=False)
    keep = roots > 1e-12 * roots[0]
    return Subspaces(basis=basis[:, keep], eigenvalues=roots[keep].square())


def _start(moments: SecondMoments, config: EMCL) -> tuple[torch.Tensor, torch.Tensor]:
    """Return X^T M of the distinct first bases, (D, distinct), and their multiplicities."""
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
    """Return the sign of each column's entry of largest magnitude."""
    rows = vectors.abs().argmax(0)
    return vectors[rows, torch.arange(vectors.shape[1], device=vectors.device)].sign()
