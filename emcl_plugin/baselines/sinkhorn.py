"""SN and DBSN: Sinkhorn normalization, by the test queries and by two banks."""

from __future__ import annotations

import warnings

import torch

from emcl_plugin._internal import renamed
from emcl_plugin.baselines.problem import (
    GALLERY_BANK,
    QUERY_BANK,
    Direction,
    Method,
    add_to_columns,
    check_positive,
)
from emcl_plugin.errors import EmclWarning
from emcl_plugin.ncl import NCL, fit_biases
from emcl_plugin.scores import Similarity


@renamed.keyword("rounds", "iterations")
def sinkhorn_normalization(
    direction: Direction, *, temperature: float = 0.01, iterations: int = 10
) -> Similarity:
    """``S_ij + tau g_j``, with g the column potentials of Sinkhorn on S, uniform marginals.

    As :class:`emcl_plugin.NCL` with a fixed temperature and number of iterations. The row
    potentials do not change the ranking of the gallery and are not applied.

    Needs all test queries at once. Serves from an index (an extra dimension). Published settings:
    tau 0.01 for cosines, 5 to 10 iterations (10 here), uniform marginals.

    Its traps: at tau 0.01, ``exp(S / tau)`` overflows float32 for cosines above 0.89. So few
    iterations do not converge; as this is the published setting, there is no warning. Iterations
    begin with the rows, those of the release with the columns.

    Parameters
    ----------
    temperature : float, default 0.01
        tau, in the units of the scores.
    iterations : int, default 10

    References
    ----------
    Pan, Wang, Wu, Zhang, Bu: Hubness Reduction with Dual Bank Sinkhorn Normalization for
    Cross-Modal Retrieval, ACM Multimedia 2025, arXiv 2508.02538.
    """
    bias = _column_bias(direction.scores, temperature, iterations, direction.memory)
    return add_to_columns(direction.scores, bias)


@renamed.keyword("rounds", "iterations")
def dual_bank_sinkhorn(
    direction: Direction, *, temperature: float = 0.01, iterations: int = 10
) -> Similarity:
    """``S_ij + tau g_j``, g from Sinkhorn on bank queries x [gallery, gallery bank].

    The gallery bank takes its share of the bank queries. Only the potentials of the gallery are
    applied.

    Needs both banks. Serves from an index (an extra dimension). Published settings: tau 0.01 for
    cosines, 10 iterations, uniform marginals.

    Its trap: the gallery bank should hold the relevant items of the query bank, which would
    otherwise be forced onto the gallery.

    Parameters
    ----------
    temperature : float, default 0.01
        tau, in the units of the scores.
    iterations : int, default 10

    References
    ----------
    Pan, Wang, Wu, Zhang, Bu: Hubness Reduction with Dual Bank Sinkhorn Normalization for
    Cross-Modal Retrieval, ACM Multimedia 2025, arXiv 2508.02538.
    """
    both = Joined(direction.query_probe(), direction.bank_probe(), axis=1)
    bias = _column_bias(both, temperature, iterations, direction.memory)
    return add_to_columns(direction.scores, bias[: direction.scores.shape[1]])


def _column_bias(
    source: Similarity, temperature: float, iterations: int, memory: int | None
) -> torch.Tensor:
    check_positive(temperature=temperature)
    config = NCL(temperature=temperature, iterations=iterations, tolerance=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)  # published settings
        return fit_biases(source, config, memory=memory).video


class Joined(Similarity):
    """Two sources concatenated along ``axis``."""

    def __init__(self, first: Similarity, second: Similarity, axis: int) -> None:
        self.first, self.second, self.axis = first, second, axis
        (n, m), (p, q) = first.shape, second.shape
        self.shape = (n + p, m) if axis == 0 else (n, m + q)
        self.dtype, self.device = first.dtype, first.device
        self.block_rows = max(1, first.block_rows * m // self.shape[1])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        if self.axis == 1:
            return torch.cat([self.first.rows(start, stop), self.second.rows(start, stop)], dim=1)
        n = self.first.shape[0]
        parts = [self.first.rows(start, min(stop, n))] if start < n else []
        parts += [self.second.rows(max(start, n) - n, stop - n)] if stop > n else []
        return torch.cat(parts)

    @property
    def T(self) -> Joined:
        return Joined(self.first.T, self.second.T, 1 - self.axis)


SN = Method("sn", "Sinkhorn normalization", sinkhorn_normalization, bank=False)
DBSN = Method(
    "dbsn", "dual-bank Sinkhorn normalization", dual_bank_sinkhorn, needs=(QUERY_BANK, GALLERY_BANK)
)
