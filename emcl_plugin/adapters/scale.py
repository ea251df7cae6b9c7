"""Detect and remove the logit scale of a similarity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin.errors import InputValueError
from emcl_plugin.pipeline.inputs import FeaturesPair
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores.reductions import moments, slope

SAME = 1e-3
"""Largest difference of equal cosines, given float16 rounding and summation."""


@dataclass(frozen=True)
class Scale:
    """Least-squares slope of a similarity on the cosine, and largest |sim / slope - cosine|."""

    factor: float
    difference: float

    @property
    def exact(self) -> bool:
        """Whether the similarity is a multiple of the cosine."""
        return self.factor > 0 and self.difference <= SAME


def find_scale(sim: Array, feats: FeaturesPair) -> Scale:
    """Compare a similarity with the cosine of its features.

    >>> x = np.eye(3, dtype=np.float32) + 0.1
    >>> unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    >>> found = find_scale(100 * unit @ unit.T, (x, x))
    >>> round(found.factor, 3), found.exact
    (100.0, True)
    """
    given, own = Job(sim, None).source(), Job(None, feats).source()
    factor = slope(given, own)
    difference = math.inf
    if factor > 0:
        difference = max(
            float((block / factor - own.rows(start, stop)).abs().max())
            for start, stop, block in given.blocks()
        )
    return Scale(factor, difference)


def check_scale(given: Any) -> float:
    """Return the logit scale, the factor of the cosines, as a number; 100 for most CLIP models."""
    numbers = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    value = float(numbers.item()) if numbers.size == 1 else math.nan
    if not (math.isfinite(value) and value > 0):
        received, remedy = " ".join(str(given).split())[:60], "pass model.logit_scale.exp()"
        raise InputValueError("the logit scale must be one positive number", received, remedy)
    return value


def unscaled(
    sim: Array, feats: FeaturesPair | None, logit_scale: Any, notes: list[str]
) -> Array | None:
    """Return the similarity without its logit scale, or None if it is the cosine of the features.

    ``logit_scale`` is the factor of the cosines, if known; ``notes`` receives what was found.
    """
    if logit_scale is not None:
        factor = check_scale(logit_scale)
        sim = sim / factor
        notes.append(f"a logit scale of {factor:.4g} was divided out")
    if feats is not None:
        found = find_scale(sim, feats)
        if found.exact:
            times = "" if abs(found.factor - 1) < SAME else f" times {found.factor:.4g}"
            notes.append(f"sim is the cosine of the features{times}: the features are used")
            return None
    found_range = moments(Job(sim, None).source())
    largest = max(-found_range.low, found_range.high)
    if logit_scale is None and largest > 1 + SAME:
        notes.append(
            f"scores reach {largest:.4g}, more than any cosine, and may include a logit scale; no "
            "default depends on it"
        )
    return sim
