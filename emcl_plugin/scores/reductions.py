"""Streaming reductions over similarity sources: moments, log-sum-exp, top k, slope."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from emcl_plugin._internal.arrays import check_finite
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.candidates import Candidates


@dataclass(frozen=True)
class Moments:
    """Mean, population standard deviation, minimum and maximum of the scores.

    For candidates: of all pairs, with an unknown range.
    """

    mean: float
    std: float
    low: float
    high: float


class MomentsAccumulator:
    """Mean and variance, merged block by block (Chan, Golub and LeVeque 1979)."""

    def __init__(self, group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.group = group
        self.count = 0.0
        self.mean = 0.0
        self.squares = 0.0
        self.low = math.inf
        self.high = -math.inf

    def add(self, block: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add a block of scores; ``weights`` (rows,) are the counts of its rows."""
        low, high = (float(x) for x in torch.aminmax(block))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not 1e-12 < max(-low, high) < 1e12:  # squares would leave float32
            block = block.double()
        if weights is None:
            weights = block.new_ones(len(block))
        counted = float(weights.sum())
        share = weights.double() / counted
        level = float(block[0, 0])  # equal scores must have a variance of exactly 0
        centred = block - level
        shift = float(share @ centred.mean(1).double())
        variance = float(share @ (centred - shift).square_().mean(1).double())
        n = counted * block.shape[1]
        self._merge(n, level + shift, variance * n)

    def _merge(self, n: float, mean: float, squares: float) -> None:
        delta = mean - self.mean
        total = self.count + n
        self.squares += squares + delta * delta * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    def result(self) -> Moments:
        """Return the moments of all blocks so far, over all processes."""
        if self.group.size > 1:
            own = self.count, self.mean, self.squares, self.low, self.high
            self.count = self.mean = self.squares = 0.0
            for n, mean, squares, low, high in self.group.gather(own):
                self._merge(n, mean, squares)
                self.low, self.high = min(self.low, low), max(self.high, high)
        if not math.isfinite(self.squares):
            raise InputValueError(
                "the scores are too large for their spread to be told",
                f"scores from {self.low:.4g} to {self.high:.4g}",
                "divide them all by one number",
            )
        return Moments(self.mean, math.sqrt(self.squares / self.count), self.low, self.high)


def moments(source: Similarity, weights: torch.Tensor | None = None) -> Moments:
    """Return mean, standard deviation and range; text i counts ``weights[i]`` times.

    >>> from emcl_plugin.scores import Dense
    >>> moments(Dense(torch.tensor([[1.0, 3.0], [5.0, 7.0]]))).mean
    4.0
    """
    if isinstance(source, Candidates):
        mean, std = source.all_pairs.moments(weights)
        return Moments(mean, std, -math.inf, math.inf)
    accumulator = MomentsAccumulator(source.group)
    for start, stop, block in source.blocks():
        accumulator.add(block, None if weights is None else weights[start:stop])
    return accumulator.result()


def logsumexp(source: Similarity, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``log sum exp(S / temperature)`` of every row and of every column."""
    rows = torch.empty(source.shape[0], dtype=source.dtype, device=source.device)
    columns = torch.full((source.shape[1],), -math.inf, dtype=source.dtype, device=source.device)
    for start, stop, block in source.blocks():
        scaled = block / temperature
        rows[start:stop] = torch.logsumexp(scaled, 1)
        columns = torch.logaddexp(columns, torch.logsumexp(scaled, 0))
    return source.group.rows(rows[slice(*source.own)], len(rows)), source.group.logsumexp(columns)


def topk(source: Similarity, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and indices of the top ``k`` videos per text, each (n_text, k)."""
    k = min(k, source.shape[1])
    scores = torch.empty(source.shape[0], k, dtype=source.dtype, device=source.device)
    indices = torch.empty(source.shape[0], k, dtype=torch.long, device=source.device)
    for start, stop, block in source.blocks():
        scores[start:stop], indices[start:stop] = torch.topk(block, k, dim=1)
    own, count = slice(*source.own), len(scores)
    return source.group.rows(scores[own], count), source.group.rows(indices[own], count)


def slope(y: Similarity, x: Similarity) -> float:
    """Return the least-squares slope of ``y`` on ``x``; 0 if ``x`` is constant."""
    n = y_mean = x_mean = covariance = variance = 0.0

    def merge(count: float, own_y: float, own_x: float, within: float, squares: float) -> None:
        nonlocal n, y_mean, x_mean, covariance, variance
        dy, dx = own_y - y_mean, own_x - x_mean
        between = n * count / (n + count)
        covariance += within + dy * dx * between
        variance += squares + dx * dx * between
        n += count
        y_mean += dy * count / n
        x_mean += dx * count / n

    for start, stop, block in y.blocks():
        check_finite(block, "sim", start)
        other = x.rows(start, stop)
        dy, dx = float(block.mean()), float(other.mean())
        within = float(((block - dy) * (other - dx)).sum())
        squares = float((other - dx).square().sum())
        merge(block.numel(), dy, dx, within, squares)
    if y.group.size > 1:
        own = n, y_mean, x_mean, covariance, variance
        n = y_mean = x_mean = covariance = variance = 0.0
        for of_one in y.group.gather(own):
            merge(*of_one)
    constant = variance <= n * (1e-6 * x_mean) ** 2  # within rounding
    return 0.0 if constant else covariance / variance
