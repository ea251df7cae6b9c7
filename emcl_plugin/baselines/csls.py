"""CSLS: cross-domain similarity local scaling."""

from __future__ import annotations

from emcl_plugin.baselines.problem import Direction, Method, check_positive, column_mean
from emcl_plugin.scores import LowRank, Similarity


def csls(direction: Direction, *, k: int = 10) -> Similarity:
    """``2 S_ij - r_j``, with r_j the mean of the k largest scores of gallery item j.

    Hubs have a large r_j. The published score also subtracts a mean per query, which does not
    change the ranking of the gallery; it is omitted.

    Needs the test queries or a query bank. Serves from an index (r_j / 2 is an extra dimension).
    Published setting: k = 10, at any scale of the scores.

    Its trap: r is a mean over *queries*, per column. A mean per row corrects nothing.

    Parameters
    ----------
    k : int, default 10
        At most the number of queries (or bank queries).

    References
    ----------
    Conneau, Lample, Ranzato, Denoyer, Jégou: Word Translation Without Parallel Data, ICLR 2018,
    arXiv 1710.04087.
    """
    check_positive(k=k)
    scores = direction.scores
    local = column_mean(direction.probe(), k)
    rows = local.new_ones(scores.shape[0])
    return LowRank(scores, -rows[:, None] / 2, local[:, None], row_scale=2 * rows)  # 2 (S - r / 2)


METHOD = Method("csls", "cross-domain similarity local scaling", csls)
