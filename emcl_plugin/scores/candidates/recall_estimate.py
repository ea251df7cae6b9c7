"""Estimate of what candidates miss, from a sample of texts that are scored in full."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emcl_plugin.scores.candidates.scores import Candidates


@dataclass(frozen=True)
class RecallEstimate:
    """Estimate of what candidates miss, from a sample of texts that are scored in full.

    Attributes
    ----------
    pairs : int
        Number of candidates.
    share : float
        Their share of all pairs.
    texts : int
        Size of the sample.
    recall : float
        Share of the top 10 videos, after the correction, that are candidates; larger is better.
    left_out : float
        Share of the normalized mass on other videos, smaller is better; 0 without NCL.
    """

    pairs: int
    share: float
    texts: int
    recall: float
    left_out: float

    def to_dict(self) -> dict[str, float]:
        """Return the JSON form."""
        return dict(vars(self))


def estimate_recall(
    source: Candidates, video_bias: torch.Tensor | None, temperature: float, *, texts: int = 256
) -> RecallEstimate:
    """Score a sample of texts in full and measure what the candidates miss.

    Parameters
    ----------
    source : Candidates
        Before the biases.
    video_bias : (n_video,) or None
    temperature : float
        Of NCL.
    texts : int
        Maximum size of the sample.
    """
    count = source.shape[0]
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(count, generator=generator)[:texts].sort().values.to(source.device)
    scores = source.all_pairs.rows(chosen)
    if video_bias is not None:
        scores = scores + video_bias
    seen = torch.zeros_like(scores, dtype=torch.bool)
    starts = source.pairs.starts
    for row, text in enumerate(chosen.tolist()):
        seen[row, source.pairs.video[starts[text] : starts[text + 1]]] = True
    best = scores.topk(min(10, scores.shape[1]), dim=1).indices
    left_out = 0.0
    if video_bias is not None:
        shares = torch.softmax(scores / temperature, dim=1)
        left_out = 1 - float((shares * seen).sum(1).mean())
    return RecallEstimate(
        pairs=len(source.values),
        share=len(source.values) / (source.shape[0] * source.shape[1]),
        texts=len(chosen),
        recall=float(seen.gather(1, best).double().mean()),
        left_out=max(0.0, left_out),
    )
