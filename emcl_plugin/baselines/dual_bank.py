"""DualIS and DualDIS: inverted softmax by a query bank and by a gallery bank (DBNorm)."""

from __future__ import annotations

import torch

from emcl_plugin.baselines.dynamic_inverted_softmax import activated
from emcl_plugin.baselines.problem import (
    GALLERY_BANK,
    QUERY_BANK,
    Direction,
    Method,
    add_to_columns,
    check_positive,
)
from emcl_plugin.scores import LowRank, Similarity
from emcl_plugin.scores.reductions import logsumexp


def dual_is(
    direction: Direction, *, query_temperature: float = 0.0199, gallery_temperature: float = 0.03
) -> Similarity:
    """The product of two inverted softmaxes, one over a query bank, one over a gallery bank.

    With Q the bank queries x gallery scores, G the gallery bank x gallery inner products and
    ``1 / tau = 1 / tau_q + 1 / tau_g``, the logarithm of the product, times tau:

        S_ij - tau (log sum_i exp(Q_ij / tau_q) + log sum_i exp(G_ij / tau_g))

    Needs both banks. Serves from an index (an extra dimension). Published settings, for cosines
    times 100: temperature 1.99 for the query bank. For the gallery bank, the released default is
    an inverse temperature of 3 (0.0033 for cosines). Similarities within the gallery then
    outweigh the scores, so 3 is used as the temperature (0.03).

    Its trap: the released function normalizes the gallery-bank matrix instead of the test scores,
    which it never reads.

    Parameters
    ----------
    query_temperature, gallery_temperature : float
        tau_q and tau_g, in the units of the scores.

    References
    ----------
    Wang, Jian, Xue: Balance Act: Mitigating Hubness in Cross-Modal Retrieval with Query and
    Gallery Banks, EMNLP 2023, arXiv 2310.11612.
    """
    check_positive(query_temperature=query_temperature, gallery_temperature=gallery_temperature)
    queries, items = _normalisers(direction, query_temperature, gallery_temperature)
    tau = 1 / (1 / query_temperature + 1 / gallery_temperature)
    return add_to_columns(direction.scores, -tau * (queries + items))


def dual_dis(
    direction: Direction,
    *,
    query_temperature: float = 0.0199,
    gallery_temperature: float = 0.03,
    k: int = 1,
) -> Similarity:
    """Apply each factor of DualIS only to queries that activate its bank.

    A query is activated for a bank if its best gallery item is among the k best of some row of that
    bank. In the notation of :func:`dual_is`, row i of the result is

        S_ij - tau   (log sum exp(Q_ij / tau_q) + log sum exp(G_ij / tau_g))   for both,
        S_ij - tau_q  log sum exp(Q_ij / tau_q)                                for the query bank,
        S_ij - tau_g  log sum exp(G_ij / tau_g)                                for the gallery bank,
        S_ij                                                                   for none.

    Needs both banks. Does not serve from an index. Published settings: as :func:`dual_is`, k = 1.

    Its trap: the release multiplies a normalized factor by a raw score, which mixes their scales.
    Here every row is in units of S. **Rank rows only**: rows are corrected differently.

    Parameters
    ----------
    query_temperature, gallery_temperature
        As in :func:`dual_is`.
    k : int, default 1
        Items per row of a bank in its activation set.

    References
    ----------
    Wang, Jian, Xue: Balance Act: Mitigating Hubness in Cross-Modal Retrieval with Query and
    Gallery Banks, EMNLP 2023, arXiv 2310.11612.
    """
    check_positive(
        query_temperature=query_temperature, gallery_temperature=gallery_temperature, k=k
    )
    scores = direction.scores
    biases = _normalisers(direction, query_temperature, gallery_temperature)
    by_query = activated(scores, direction.query_probe(), k)
    by_item = activated(scores, direction.gallery_probe(), k)
    weights = scores.rows(0, 1).new_zeros(scores.shape[0], 2)
    weights[by_query, 0] = query_temperature
    weights[by_item, 1] = gallery_temperature
    weights[by_query & by_item] = 1 / (1 / query_temperature + 1 / gallery_temperature)
    return LowRank(scores, -weights, torch.stack(biases, dim=1))


def _normalisers(
    direction: Direction, query_temperature: float, gallery_temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    queries = logsumexp(direction.query_probe(), query_temperature)[1]
    return queries, logsumexp(direction.gallery_probe(), gallery_temperature)[1]


DUAL_IS = Method(
    "dual-is", "dual inverted softmax (DBNorm)", dual_is, needs=(QUERY_BANK, GALLERY_BANK)
)
DUAL_DIS = Method(
    "dual-dis",
    "dual dynamic inverted softmax (DBNorm)",
    dual_dis,
    needs=(QUERY_BANK, GALLERY_BANK),
    serves=False,
)
