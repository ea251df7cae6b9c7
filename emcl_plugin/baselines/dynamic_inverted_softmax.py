"""DIS: dynamic inverted softmax (QB-Norm)."""

from __future__ import annotations

import torch

from emcl_plugin.baselines.problem import (
    QUERY_BANK,
    Direction,
    Method,
    check_positive,
    column_softmax,
)
from emcl_plugin.scores import LowRank, Similarity


def dynamic_inverted_softmax(
    direction: Direction, *, temperature: float = 0.05, k: int = 1
) -> Similarity:
    """Apply the inverted softmax to queries whose top-1 item is also that of a bank query.

    With A the items in the top k of any bank query, row i of the result is
    ``S_ij - tau log sum_i exp(B_ij / tau)`` where ``argmax_j S_ij`` is in A and ``S_ij``
    elsewhere. A bank from another domain retrieves few items and does little harm.

    Needs a query bank: with the test queries as the bank it is the inverted softmax. Does not
    serve from an index, because the correction depends on the query. Published settings: tau 0.05
    (for cosines), k = 1.

    Its traps: the released script overwrites its input. **Rank rows only**: rows are corrected
    differently, so columns are not comparable.

    Parameters
    ----------
    temperature : float, default 0.05
        tau, in the units of the scores.
    k : int, default 1
        Items per bank query in the activation set A.

    References
    ----------
    Bogolin, Croitoru, Jin, Liu, Albanie: Cross Modal Retrieval with Querybank Normalisation, CVPR
    2022, arXiv 2112.12777.
    """
    check_positive(temperature=temperature, k=k)
    bank = direction.query_probe()
    active = activated(direction.scores, bank, k).to(direction.scores.dtype)
    bias = column_softmax(bank, temperature)
    return LowRank(direction.scores, -active[:, None], bias[:, None])


def activated(scores: Similarity, bank: Similarity, k: int) -> torch.Tensor:
    """Find queries whose top-1 item is in the top ``k`` of any row of ``bank``, (n_query,)."""
    retrieved = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
    for _, _, block in bank.blocks():
        retrieved[torch.topk(block, min(k, bank.shape[1]), dim=1).indices.flatten()] = True
    active = torch.empty(scores.shape[0], dtype=torch.bool, device=scores.device)
    for start, stop, block in scores.blocks():
        active[start:stop] = retrieved[block.argmax(1)]
    return active


METHOD = Method(
    "dis",
    "dynamic inverted softmax (QB-Norm)",
    dynamic_inverted_softmax,
    needs=(QUERY_BANK,),
    serves=False,
)
