"""Changed feature vectors, for methods that work on features."""

from __future__ import annotations

from collections.abc import Callable

import torch

from emcl_plugin.baselines.problem import Direction
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import FeaturePair, Features

Change = Callable[[torch.Tensor, int], torch.Tensor]


class Changed(Features):
    """Features after a change, computed block by block; kept in memory if the originals are.

    ``change`` maps a block of vectors and the index of its first item to new vectors, which are not
    normalized again (``metric`` is "dot").
    """

    def __init__(self, base: Features, change: Change) -> None:
        self.base = base
        self.change = change
        self.name, self.metric = base.name, "dot"
        self.dtype, self.device = base.dtype, base.device
        self.shape, self.block_rows, self.group = base.shape, base.block_rows, base.group
        self.kept = None
        if base.resident:
            self.kept = torch.cat([block for _, _, block in self.blocks()])

    def _read(self, start: int, stop: int) -> torch.Tensor:
        return self.change(self.base.rows(start, stop), start)


def changed_pair(
    direction: Direction, change_of: Callable[[Features, Features], Change]
) -> FeaturePair:
    """Return both sides after ``change_of(side, its reference)``; see Direction.references."""
    pairs = zip(direction.sides, direction.references, strict=True)
    queries, gallery = (Changed(side, change_of(side, reference)) for side, reference in pairs)
    return FeaturePair(queries, gallery, memory=direction.memory)


def mean(features: Features) -> torch.Tensor:
    """Return the mean vector, (dimension,), summed in float64."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for _, _, block in features.blocks():
        total += block.sum(0, dtype=torch.float64)
    return (total / features.shape[0]).to(features.dtype)


def to_unit(x: torch.Tensor, like: Features) -> torch.Tensor:
    """Normalize rows if ``like`` is compared by cosine; zero vectors stay zero."""
    return torch.nn.functional.normalize(x, dim=1) if like.metric == "cosine" else x


def check_rank(name: str, value: int, features: Features) -> None:
    """Raise if the features have fewer directions than ``value``."""
    if not 1 <= value <= features.shape[1]:
        problem = f"{name} must be between 1 and the features' dimension"
        remedy = "leave it out"
        raise InputValueError(problem, f"{name}={value}, dimension {features.shape[1]}", remedy)
