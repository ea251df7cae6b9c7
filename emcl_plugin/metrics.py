"""Retrieval metrics over a similarity source: R@K, MdR and MnR, streaming, both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from emcl_plugin.similarity import Similarity

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Metrics:
    """Metrics of one direction.

    Attributes
    ----------
    recall : dict of int to float
        R@K in percent: share of queries whose (best) right item has rank K or better.
    median_rank, mean_rank : float
        MdR and MnR; ranks count from 1.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float

    def to_dict(self) -> dict[str, float]:
        """By the field's names: ``R@1``, ..., ``MdR``, ``MnR``."""
        recall = {f"R@{k}": value for k, value in self.recall.items()}
        return {**recall, "MdR": self.median_rank, "MnR": self.mean_rank}


def ranks(
    source: Similarity, text_to_video: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank of the right video for every text, and of the best right text for every video.

    Parameters
    ----------
    source : Similarity, (n_text, n_video)
    text_to_video : (n_text,) int, optional
        The video that each text describes. Default: text i describes video i.

    Returns
    -------
    (n_text,), (n_video,) float64
        From 1. Wrong items with the right one's score count half each (average rank of ties).
        A video that no text describes gets NaN.
    """
    n_text, n_video = source.shape
    truth = torch.arange(n_text) if text_to_video is None else text_to_video
    truth = truth.to(source.device)
    own = torch.empty(n_text, dtype=source.dtype, device=source.device)
    text_ranks = torch.empty(n_text, dtype=torch.float64, device=source.device)
    for start, stop, block in source.blocks():
        score = block.gather(1, truth[start:stop, None])
        own[start:stop] = score[:, 0]
        ahead, level = (block > score).sum(1), (block == score).sum(1)
        text_ranks[start:stop] = 1 + ahead + (level - 1) / 2
    best = torch.full((n_video,), -math.inf, dtype=source.dtype, device=source.device)
    best = best.scatter_reduce(0, truth, own, "amax")
    ahead = torch.zeros(n_video, dtype=torch.long, device=source.device)
    level = torch.zeros_like(ahead)
    for _, _, block in source.blocks():
        ahead += (block > best).sum(0)
        level += (block == best).sum(0)
    right = torch.zeros_like(ahead).scatter_add(0, truth, (own == best[truth]).long())
    video_ranks = 1 + ahead + (level - right) / 2
    described = torch.isfinite(best)
    return text_ranks, torch.where(described, video_ranks.double(), math.nan)


def summarise(found: torch.Tensor) -> Metrics:
    """R@1, R@5, R@10, MdR and MnR of ranks; NaN ranks (no right item) are left out.

    >>> summarise(torch.tensor([1.0, 2.0, 9.0])).to_dict()["MdR"]
    2.0
    """
    found = found[~found.isnan()]
    recall = {k: 100 * float((found <= k).double().mean()) for k in CUTOFFS}
    return Metrics(recall, float(found.quantile(0.5)), float(found.mean()))
