"""CSLS: cross-domain similarity local scaling."""

from __future__ import annotations

from emcl_plugin.baselines.problem import Direction, Method, check_positive, column_mean
from emcl_plugin.scores import LowRank, Similarity


def csls(direction: Direction, *, k: int = 10) -> Similarity:
    """``2 S_ij - r_j``, with r_j the mean of the k largest scores of gallery item j.

    An item that is close to many queries (a hub) has a large r_j. The published score also
    subtracts the mean of the query's own k best items; that is one number per row, which
    changes no ranking of the gallery, so it is left out here.

    Needs the test queries, or a query bank in their place. Serves from an index (r_j / 2 is one
    more dimension). Published setting: k = 10, which needs no scale.

    Its trap: r has to be taken over the *queries*, column by column; a mean over the rows only
    rescales each query and corrects nothing.

    Parameters
    ----------
    direction : Direction
    k : int, default 10
        At most the number of queries (or bank queries).

    References
    ----------
    Conneau et al., Word Translation Without Parallel Data, ICLR 2018, arXiv 1710.04087.

    Examples
    --------
    >>> import torch
    >>> from emcl_plugin.scores import Dense
    >>> csls(Direction(Dense(torch.tensor([[0.9, 0.5], [0.8, 0.7]])))).dense().argmax(1).tolist()
    [0, 1]
    """
    check_positive(k=k)
    scores = direction.scores
    local = column_mean(direction.probe(), k)
    rows = local.new_ones(scores.shape[0])
    return LowRank(scores, -rows[:, None] / 2, local[:, None], row_scale=2 * rows)  # 2 (S - r / 2)


METHOD = Method(
    name="csls",
    title="cross-domain similarity local scaling",
    paper="Conneau, Lample, Ranzato, Denoyer, Jégou: Word Translation Without Parallel Data, "
    "ICLR 2018, arXiv 1710.04087",
    needs=(),
    bank=True,
    serves=True,
    correct=csls,
)
