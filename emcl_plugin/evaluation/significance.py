"""Paired randomisation test and bootstrap interval of a gain, over the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emcl_plugin.errors import InputValueError
from emcl_plugin.ground_truth import Floats

RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """Difference of a per-query measure, after minus before.

    Attributes
    ----------
    gain : float
        Mean difference, in units of the measure; above 0 is better for R@K.
    low, high : float
        95 % bootstrap interval of the gain (percentile method over queries).
    p_value : float
        Two-sided paired randomisation test: how often a gain at least this large occurs when
        before and after are swapped at random for each query.
    queries : int
        Number of queries compared.
    changed : int
        Number of queries whose value changed.
    detectable : float
        Smallest gain that a set of this size detects at the 5 % level with 80 % power: 2.8
        standard errors of the mean difference, at least that of one changed query.
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
        """True if the p-value is below 0.05."""
        return self.p_value < 0.05

    @property
    def too_small(self) -> bool:
        """True if the set is too small to detect a difference of this size."""
        return self.changed > 0 and not self.significant and abs(self.gain) < self.detectable

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "significant": self.significant, "too_small": self.too_small}


def compare(before: Floats, after: Floats, *, seed: int = 0) -> Comparison:
    """Compare the same queries before and after, (n_queries,) each, in the same order.

    ``seed`` is that of the resampling. Raise InputValueError if the shapes differ or are empty.

    Examples
    --------
    >>> before = np.array([0.0] * 50 + [100.0] * 50)
    >>> after = np.array([100.0] * 75 + [0.0] * 5 + [100.0] * 20)
    >>> result = compare(before, after)
    >>> result.gain, result.significant
    (45.0, True)
    """
    if before.shape != after.shape or before.ndim != 1 or len(before) == 0:
        problem = "only the same queries can be compared"
        remedy = "evaluate both with the same ground truth"
        raise InputValueError(problem, f"{before.shape} before, {after.shape} after", remedy)
    from scipy import stats

    difference = np.asarray(after - before, dtype=np.float64)
    n, gain = len(difference), float(difference.mean())
    changed = difference[difference != 0]
    if len(changed) == 0:
        return Comparison(0.0, 0.0, 0.0, 1.0, n, 0, 0.0)
    batch = max(1, 4_000_000 // n)
    if np.ptp(np.abs(changed)) == 0:  # as for R@K: the test in closed form
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
