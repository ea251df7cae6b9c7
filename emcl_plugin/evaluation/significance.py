"""Is the gain real? Paired randomisation test and bootstrap interval over the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emcl_plugin.errors import InputValueError
from emcl_plugin.ground_truth import Floats

RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """The difference of a per-query measure, after less before.

    Attributes
    ----------
    gain : float
        Mean difference, in the measure's own units.
    low, high : float
        95 % bootstrap interval of the gain (percentile method over queries).
    p_value : float
        Two-sided paired randomisation test: how often a gain at least so large comes up when
        before and after are swapped at random for each query.
    queries : int
        How many were compared.
    changed : int
        How many of them have another value after.
    detectable : float
        Smallest gain that a set of this size could tell from chance at 5 %, 80 % of the time
        (2.8 standard errors of the mean difference, taken at no less than one changed query).
    """

    gain: float
    low: float
    high: float
    p_value: float
    queries: int
    changed: int
    detectable: float

    @property
    def significant(self) -> bool:
        """Whether chance explains the gain less than one time in twenty."""
        return self.p_value < 0.05

    @property
    def too_small(self) -> bool:
        """Whether the set is too small for a difference of this size to mean anything."""
        return self.changed > 0 and not self.significant and abs(self.gain) < self.detectable

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "significant": self.significant, "too_small": self.too_small}


def compare(before: Floats, after: Floats, *, seed: int = 0) -> Comparison:
    """Compare the same queries before and after.

    Parameters
    ----------
    before, after : (n_queries,)
        A measure of each query, in the same order.
    seed : int
        Of the resampling; the same numbers come out each time.

    Examples
    --------
    >>> before = np.array([0.0] * 50 + [100.0] * 50)
    >>> after = np.array([100.0] * 75 + [0.0] * 5 + [100.0] * 20)
    >>> result = compare(before, after)
    >>> result.gain, result.significant
    (45.0, True)
    """
    if before.shape != after.shape or before.ndim != 1 or len(before) == 0:
        raise InputValueError(
            "only the same queries can be compared",
            f"{before.shape} before, {after.shape} after",
            "evaluate both with the same ground truth",
        )
    from scipy import stats

    difference = np.asarray(after - before, dtype=np.float64)
    n, gain = len(difference), float(difference.mean())
    changed = difference[difference != 0]  # swapping equals changes nothing
    if len(changed) == 0:
        return Comparison(0.0, 0.0, 0.0, 1.0, n, 0, 0.0)
    batch = max(1, 4_000_000 // n)
    if np.ptp(np.abs(changed)) == 0:  # all changes alike, as for R@K: the test in closed form
        p_value = stats.binomtest(int((changed > 0).sum()), len(changed)).pvalue
    else:
        p_value = stats.permutation_test(
            (changed,),
            np.mean,
            permutation_type="samples",
            n_resamples=RESAMPLES,
            vectorized=True,
            batch=batch,
            rng=np.random.default_rng(seed),
        ).pvalue
    low = high = gain
    if difference.std() > 0:
        interval = stats.bootstrap(
            (difference,),
            np.mean,
            n_resamples=RESAMPLES,
            vectorized=True,
            batch=batch,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    error = max(float(difference.std()), float(np.abs(changed).min()) / n**0.5) / n**0.5
    return Comparison(gain, low, high, float(p_value), n, len(changed), 2.8 * error)
