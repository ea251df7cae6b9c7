"""NNN: nearest-neighbour normalization."""

from __future__ import annotations

import math

from emcl_plugin.baselines.problem import (
    Direction,
    Method,
    add_to_columns,
    check_positive,
    column_mean,
)
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Similarity


def nnn(direction: Direction, *, k: int = 128, alpha: float = 0.75) -> Similarity:
    """``S_ij - alpha r_j``, with r_j the mean of the k largest bank scores of gallery item j.

    Published with a bank of reference queries; without one, the test queries are used. Serves from
    an index (an extra dimension). Published settings: k = 128, alpha = 0.75, at any scale.

    Its trap: ``topk`` fails on a bank of fewer than k queries. Here r_j is then the mean over the
    whole bank.

    Parameters
    ----------
    k : int, default 128
        At most the number of queries (or bank queries).
    alpha : float, default 0.75
        Weight; 1/2 ranks like CSLS at the same k.

    References
    ----------
    Chowdhury, Wang, Shenoy, Kiela, Schwettmann, Thrush: Nearest Neighbor Normalization Improves
    Multimodal Retrieval, EMNLP 2024, arXiv 2410.24114.
    """
    check_positive(k=k)
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise InputValueError("alpha must not be negative", f"alpha={alpha}", "leave it out")
    return add_to_columns(direction.scores, -alpha * column_mean(direction.probe(), k))


METHOD = Method("nnn", "nearest-neighbour normalization", nnn)
