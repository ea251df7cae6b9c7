"""IS: inverted softmax."""

from __future__ import annotations

from emcl_plugin.baselines.problem import (
    Direction,
    Method,
    add_to_columns,
    check_positive,
    column_softmax,
)
from emcl_plugin.scores import Similarity


def inverted_softmax(direction: Direction, *, temperature: float = 0.05) -> Similarity:
    """``S_ij - tau log sum_i exp(B_ij / tau)``: a softmax over the queries, in units of S.

    This is tau times the logarithm of ``exp(S_ij / tau) / sum_i exp(B_ij / tau)``, the probability
    of query i given item j. B are the scores of the bank, or S itself.

    Needs the test queries or a query bank. Serves from an index (an extra dimension). Published
    setting: tau 0.05 (an inverse temperature of 20) for cosines.

    Its trap: ``exp(S / tau)`` overflows float32 for small tau. This stays in the log domain.

    Parameters
    ----------
    temperature : float, default 0.05
        tau, in the units of the scores.

    References
    ----------
    Smith, Turban, Hamblin, Hammerla: Offline bilingual word vectors, orthogonal transformations
    and the inverted softmax, ICLR 2017, arXiv 1702.03859.
    """
    check_positive(temperature=temperature)
    return add_to_columns(direction.scores, -column_softmax(direction.probe(), temperature))


METHOD = Method("is", "inverted softmax", inverted_softmax)
