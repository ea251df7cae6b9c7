"""Whether an item is like those that were seen before: the gate for items from another domain.

Biases that one kind of queries taught do harm to another kind. How close a new item has to be
is learnt from the known ones alone: each known item has a nearest other one,

    n_i = max_k <x_i, x_k>,    over the items k that ask for something else               (n)

and a new item x is let through by how its own nearest, n(x) = max_k <x, x_k>, compares with
them: not at all below the 1st percentile of the n_i, wholly from the 5th on, and in between

    s(x) = (n(x) - n_1%) / (n_5% - n_1%)                                                   (s)

Of items of the same kind one in twenty-five loses some of its correction; of captions against
those of another encoder, or videos against captions, all lose all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from emcl_plugin.similarity import Features
from emcl_plugin.tiles import TILE, padded

QUANTILES = (0.01, 0.05)
MOST = 1024
"""Known items kept. More would make a search slower, not the percentiles better."""
FEWEST = 50
"""Known items below which there are no percentiles to speak of, and all are let through."""


@dataclass(frozen=True)
class Likeness:
    """The gate (s).

    Attributes
    ----------
    known : (n, D)
        Unit vectors of known items, at most 1,024.
    low, high : float
        Cosine up to which an item is refused, and from which it is let through.
    """

    known: torch.Tensor
    low: float
    high: float

    def of(self, unit: torch.Tensor) -> torch.Tensor:
        """s of unit vectors, (n,), each in [0, 1].

        >>> known = torch.eye(3)
        >>> Likeness(known, low=0.5, high=1.0).of(torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]]))
        tensor([1.0000, 0.6000])
        """
        if not len(self.known):
            return torch.ones(len(unit), dtype=unit.dtype, device=unit.device)
        nearest = (padded(unit) @ self._known.T)[: len(unit), : len(self.known)].amax(1)
        return ((nearest - self.low) / (self.high - self.low)).clamp(0, 1)

    @cached_property
    def _known(self) -> torch.Tensor:
        return padded(self.known)


def directions(x: torch.Tensor) -> torch.Tensor:
    """Rows at unit length, of any magnitude; zeros stay zeros."""
    largest = x.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(x / torch.where(largest > 0, largest, 1), dim=1)


def fit_likeness(items: Features, group: torch.Tensor, order: torch.Tensor) -> Likeness:
    """Learn the gate from known items.

    Parameters
    ----------
    items : Features, (n, D)
    group : (n,) int
        Items of one group ask for the same and are not compared with each other, so that copies
        and near-copies do not make everything else look far away.
    order : (n,) float
        Where there are more than 1,024 items, a sample evenly spread in this is kept: the sample
        does not depend on the order in which the items came.
    """
    n = items.shape[0]
    ranked = torch.argsort(order, stable=True)
    if n > MOST:
        ranked = ranked[torch.linspace(0, n - 1, MOST, device=ranked.device).round().long()]
    known = directions(items.take(ranked))
    kind = group[ranked]
    if bool((kind == kind[0]).all()):  # of a space far away: each is compared with all others
        kind = torch.arange(len(kind), device=kind.device)
    nearest = []
    for rows, kinds in zip(torch.split(known, TILE), torch.split(kind, TILE), strict=True):
        cosines = rows @ known.T
        cosines[kinds[:, None] == kind] = -torch.inf
        nearest.append(cosines.amax(1))
    found = torch.cat(nearest)
    found = found[torch.isfinite(found)]
    if len(found) < FEWEST:
        return Likeness(known[:0], -1.0, 0.0)
    low, high = (float(torch.quantile(found, q)) for q in QUANTILES)
    return Likeness(known, low, max(high, low + 1e-6))
