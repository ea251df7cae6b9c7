"""Whether an item is like those that were seen before: the gate for items from another domain.

Biases that one kind of queries taught do harm to another kind. How close a new item has to be
is learnt from the known ones alone: each known item has a nearest other one,

    n_i = max_k <x_i, x_k>,    over the items k that ask for something else               (n)

and a new item x is let through by how its own nearest, n(x) = max_k <x, x_k>, compares with
them: not at all below the 1st percentile of the n_i, wholly from the 5th on, and in between

    s(x) = (n(x) - n_1%) / (n_5% - n_1%)                                                   (s)

Known items that are near nobody, such as random vectors, would let everything through. So an
item must also lie towards the other side as the known ones do: with P the sixteen leading
directions of the other side, the cosine of x to the plane they span,

    c(x) = |P^T x|                                                                         (p)

has to be between the 1st and the 99th percentile of the known c_i; s falls to 0 where c(x) is as
far outside again as they are from the median. The lower of both is s.

Of items of the same kind one in twenty-five loses some of its correction; of captions against
those of another encoder, or videos against captions, all lose all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from emcl_plugin.scores import Features
from emcl_plugin.scores.batch_invariant import TILE, padded

QUANTILES = (0.01, 0.05)
MOST = 256
"""Known items kept. More make every query slower, and no gate better that we measured."""
PROBES = 1024
"""Known items at most whose own nearest give the percentiles."""
FEWEST = 50
"""Known items below which there are no percentiles to speak of, and all are let through."""
PLANE = 16
"""Directions of the other side's plane; at most a quarter of all dimensions."""
WITHIN = (0.01, 0.5, 0.99)


@dataclass(frozen=True)
class OODGate:
    """The gate (s).

    Attributes
    ----------
    known : (n, D)
        Unit vectors of known items, at most 256.
    low, high : float
        Cosine up to which an item is refused, and from which it is let through.
    plane : (D, p)
        P of (p), orthonormal; p = 0 where the dimensions are few.
    within : (float, float, float)
        1st, 50th and 99th percentile of the known c_i.
    """

    known: torch.Tensor
    low: float
    high: float
    plane: torch.Tensor
    within: tuple[float, float, float] = (0.0, 0.5, 1.0)

    def of(self, unit: torch.Tensor) -> torch.Tensor:
        """s of unit vectors, (n,), each in [0, 1].

        >>> gate = OODGate(torch.eye(3), low=0.5, high=1.0, plane=torch.empty(3, 0))
        >>> gate.of(torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]]))
        tensor([1.0000, 0.6000])
        """
        if not len(self.known):
            return torch.ones(len(unit), dtype=unit.dtype, device=unit.device)
        return self.opened((padded(unit) @ self._padded.T)[: len(unit), : len(self.rows)])

    @cached_property
    def rows(self) -> torch.Tensor:
        """Known items, then the plane's directions; none where all items are let through."""
        return torch.cat([self.known, self.plane.T]) if len(self.known) else self.known

    def opened(self, products: torch.Tensor) -> torch.Tensor:
        """s by the inner products with all :attr:`rows`."""
        nearest = products[:, : len(self.known)].amax(1)
        if not self.plane.shape[1]:
            return ((nearest - self.low) / (self.high - self.low)).clamp(0, 1)
        towards = torch.linalg.vector_norm(products[:, len(self.known) :], dim=1)
        start, width = self._ramps
        s: torch.Tensor = ((torch.stack([nearest, towards, towards], 1) - start) / width).amin(1)
        return s.clamp(0, 1)

    @cached_property
    def _ramps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where s is 0, and how far it is from there to 1: of n, of small c, of large c."""
        least, middle, most = self.within
        below, above = max(middle - least, 1e-6), max(most - middle, 1e-6)
        start = self.known.new_tensor([self.low, least - below, most + above])
        return start, self.known.new_tensor([self.high - self.low, below, -above])

    @cached_property
    def _padded(self) -> torch.Tensor:
        return padded(self.rows)


def directions(x: torch.Tensor) -> torch.Tensor:
    """Rows at unit length, of any magnitude; zeros stay zeros."""
    largest = x.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(x / torch.where(largest > 0, largest, 1), dim=1)


def leading_plane(unit: torch.Tensor) -> torch.Tensor:
    """P of (p): the leading directions of unit vectors (n, D), as orthonormal columns (D, p)."""
    p = min(PLANE, unit.shape[1] // 4, len(unit))
    vectors: torch.Tensor = torch.linalg.eigh(unit.T @ unit)[1]
    return vectors[:, unit.shape[1] - p :].contiguous()


def fit_ood_gate(
    items: Features, group: torch.Tensor, order: torch.Tensor, plane: torch.Tensor
) -> OODGate:
    """Learn the gate from known items.

    Parameters
    ----------
    items : Features, (n, D)
    group : (n,) int
        Items of one group ask for the same and are not compared with each other, so that copies
        and near-copies do not make everything else look far away.
    order : (n,) float
        Of more than 1,024 items a sample evenly spread in this is looked at, and of more than 256
        one is kept: neither depends on the order in which the items came.
    plane : (D, p)
        Of the other side: :func:`leading_plane`.
    """
    ranked = _spread(torch.argsort(order, stable=True), PROBES)
    probes, kind = directions(items.take(ranked)), group[ranked]
    if bool((kind == kind[0]).all()):  # of a space far away: each is compared with all others
        kind = torch.arange(len(kind), device=kind.device)
    kept = _spread(torch.arange(len(ranked), device=ranked.device), MOST)
    known = probes[kept]
    nearest = []
    for rows, kinds in zip(torch.split(probes, TILE), torch.split(kind, TILE), strict=True):
        cosines = rows @ known.T
        cosines[kinds[:, None] == kind[kept]] = -torch.inf
        nearest.append(cosines.amax(1))
    found = torch.cat(nearest)
    found = found[torch.isfinite(found)]
    if len(found) < FEWEST:
        return open_to_all(known)
    low, high = (float(torch.quantile(found, q)) for q in QUANTILES)
    towards = torch.linalg.vector_norm(probes @ plane, dim=1)
    least, middle, most = (float(torch.quantile(towards, q)) for q in WITHIN)
    return OODGate(known, low, max(high, low + 1e-6), plane, (least, middle, most))


def open_to_all(like: torch.Tensor) -> OODGate:
    """The gate that lets everything through, in this dtype and dimension, (n, D)."""
    return OODGate(like[:0], -1.0, 0.0, like[:0].T)


def _spread(x: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many of them, evenly spread."""
    if len(x) <= most:
        return x
    return x[torch.linspace(0, len(x) - 1, most, device=x.device).round().long()]
