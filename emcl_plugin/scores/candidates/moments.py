"""Mean and spread of all scores from second moments, and single rows of scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from emcl_plugin.scores import Features, beside

SAMPLE = 512
"""Maximum number of texts and of videos that are scored in full."""


@dataclass(frozen=True)
class AllPairs:
    """Scores of all pairs, of which only requested rows are computed.

    A score is x_i . y_j for x = row_scale [t, left] and y = column_scale [v, right].
    """

    text: Features
    video: Features
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None
    row_scale: torch.Tensor | None = None
    column_scale: torch.Tensor | None = None
    sample: int = SAMPLE

    @property
    def T(self) -> AllPairs:
        """The same pairs with videos first."""
        factors = self.right, self.left, self.column_scale, self.row_scale
        return AllPairs(self.video, self.text, *factors, self.sample)

    def rows(self, texts: torch.Tensor) -> torch.Tensor:
        """Return all scores of these texts, (n, n_video)."""
        changes = (x if x is None else x[texts] for x in (self.left, self.row_scale))
        x = beside(self.text.take(texts), *changes)
        blocks = _vectors(self.video, self.right, self.column_scale)
        return torch.cat([x @ y.T for _, _, y in blocks], dim=1)

    def moments(self, weights: torch.Tensor | None) -> tuple[float, float]:
        """Return mean and standard deviation of all scores; text i counts ``weights[i]`` times.

        With m and C the mean and the covariance of y, the scores of a text have the mean x . m
        and the variance x^T C x. This avoids the cancellation of large numbers.
        """
        size = self.video.shape[1] + (0 if self.right is None else self.right.shape[1])
        centre = torch.zeros(size, dtype=torch.float64, device=self.video.device)
        covariance = centre.new_zeros(size, size)
        for _, _, y in _vectors(self.video, self.right, self.column_scale):
            centre += y.sum(0, dtype=torch.float64)
        centre /= self.video.shape[0]
        for _, _, y in _vectors(self.video, self.right, self.column_scale):
            y = (y.double() - centre).to(y)
            covariance += y.T @ y
        covariance /= self.video.shape[0]
        means, within, counts = [], 0.0, []
        for start, stop, x in _vectors(self.text, self.left, self.row_scale):
            w = x.new_ones(len(x)) if weights is None else weights[start:stop].to(x)
            counts.append(w.double())
            means.append(x.double() @ centre)
            within += float(counts[-1] @ ((x @ covariance.to(x)) * x).sum(1).double())
        of_text, w = torch.cat(means), torch.cat(counts)
        total = float(w.sum())
        mean = float(w @ of_text) / total
        between = float(w @ (of_text - mean).square())
        std = math.sqrt((between + max(0.0, within)) / total)
        return mean, std if std > torch.finfo(self.text.dtype).eps * abs(mean) else 0.0


def _vectors(
    side: Features, more: torch.Tensor | None, scale: torch.Tensor | None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    for start, stop, block in side.blocks():
        changes = (x if x is None else x[start:stop] for x in (more, scale))
        yield start, stop, beside(block, *changes)
