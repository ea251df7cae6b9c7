"""Out-of-distribution gate: which share of the correction an item gets, by its known neighbours.

Biases learned from one kind of queries harm another kind. The threshold is learned from the known
items alone. Each has a nearest neighbour,

    n_i = max_k <x_i, x_k>,    over the items k of other groups                           (n)

and a new item x is compared by its own, n(x) = max_k <x, x_k>: 0 below the 1st percentile of the
n_i, 1 from the 5th on, and in between

    s(x) = (n(x) - n_1%) / (n_5% - n_1%)                                                   (s)

Known items without near neighbours, such as random vectors, would accept everything. An item must
therefore also lie towards the other side as the known ones do. With P the sixteen leading
directions of the other side, the cosine of x to the plane that they span,

    c(x) = |P^T x|                                                                         (p)

must be between the 1st and the 99th percentile of the known c_i. Outside, s falls linearly to 0
over the distance of that percentile from the median. The lower of both values is s.

One in twenty-five items of the same kind loses part of its correction. Captions of another
encoder, or videos instead of captions, lose all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from emcl_plugin.scores import Features
from emcl_plugin.scores.batch_invariant import TILE, padded

QUANTILES = (0.01, 0.05)
MOST = 256
"""Maximum number of known items kept. More make every query slower and improved no gate."""
PROBES = 1024
"""Maximum number of known items for the percentiles."""
FEWEST = 50
"""Minimum number of known items; below it the gate is open."""
PLANE = 16
"""Dimension of the other side's plane; at most a quarter of all dimensions."""
WITHIN = (0.01, 0.5, 0.99)


@dataclass(frozen=True)
class OODGate:
    """The gate (s).

    Attributes
    ----------
    known : (n, D)
        Unit vectors of known items, at most 256.
    low, high : float
        Cosines up to which s is 0, and from which it is 1.
    plane, within : (D, p), (float, float, float)
        P of (p), orthonormal; p = 0 if the dimensions are few. Percentiles 1, 50 and 99 of c_i.
    """

    known: torch.Tensor
    low: float
    high: float
    plane: torch.Tensor
    within: tuple[float, float, float] = (0.0, 0.5, 1.0)

    def of(self, unit: torch.Tensor) -> torch.Tensor:
        """Return s of unit vectors, (n,), each in [0, 1].

        >>> gate = OODGate(torch.eye(3), low=0.5, high=1.0, plane=torch.empty(3, 0))
        >>> gate.of(torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]]))
        tensor([1.0000, 0.6000])
        """
        if not len(self.known):
            return torch.ones(len(unit), dtype=unit.dtype, device=unit.device)
        return self.opened((padded(unit) @ self._padded.T)[: len(unit), : len(self.rows)])

    @cached_property
    def rows(self) -> torch.Tensor:
        """Return the known items, then the plane's directions; none if the gate is open."""
        return torch.cat([self.known, self.plane.T]) if len(self.known) else self.known

    def opened(self, products: torch.Tensor) -> torch.Tensor:
        """Return s, given the inner products with all :attr:`rows`."""
        nearest = products[:, : len(self.known)].amax(1)
        if not self.plane.shape[1]:
            return ((nearest - self.low) / (self.high - self.low)).clamp(0, 1)
        towards = torch.linalg.vector_norm(products[:, len(self.known) :], dim=1)
        start, width = self._ramps
        s: torch.Tensor = ((torch.stack([nearest, towards, towards], 1) - start) / width).amin(1)
        return s.clamp(0, 1)

    @cached_property
    def _ramps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where s is 0 and the distance to 1, for n, small c and large c."""
        least, middle, most = self.within
        below, above = max(middle - least, 1e-6), max(most - middle, 1e-6)
        start = self.known.new_tensor([self.low, least - below, most + above])
        return start, self.known.new_tensor([self.high - self.low, below, -above])

    @cached_property
    def _padded(self) -> torch.Tensor:
        return padded(self.rows)


def directions(x: torch.Tensor) -> torch.Tensor:
    """Return rows of any magnitude at unit length; zeros stay zeros."""
    largest = x.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(x / torch.where(largest > 0, largest, 1), dim=1)


def leading_plane(unit: torch.Tensor) -> torch.Tensor:
    """Return P of (p), (D, p): leading directions of unit vectors (n, D), orthonormal."""
    p = min(PLANE, unit.shape[1] // 4, len(unit))
    vectors: torch.Tensor = torch.linalg.eigh(unit.T @ unit)[1]
    return vectors[:, unit.shape[1] - p :].contiguous()


def fit_ood_gate(
    items: Features, group: torch.Tensor, order: torch.Tensor, plane: torch.Tensor
) -> OODGate:
    """Learn the gate from known items, (n, D).

    Items of one ``group`` (n,) have the same best match. They are not compared with each other;
    otherwise duplicates would make every other item look far away. Samples of at most 1,024 items
    for the percentiles, and of 256 to keep, are evenly spread in ``order`` (n,), so that the order
    of the items does not matter. ``plane`` is the :func:`leading_plane` of the other side.
    """
    ranked = _spread(torch.argsort(order, stable=True), PROBES)
    probes, kind = directions(items.take(ranked)), group[ranked]
    if bool((kind == kind[0]).all()):  # then compare each with all others
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
    """Return the open gate for vectors like these, (n, D)."""
    return OODGate(like[:0], -1.0, 0.0, like[:0].T)


def _spread(x: torch.Tensor, most: int) -> torch.Tensor:
    if len(x) <= most:
        return x
    return x[torch.linspace(0, len(x) - 1, most, device=x.device).round().long()]
