"""Sampled complement: a sample stands for all pairs that are not candidates.

Sinkhorn's sums run over the candidates and over a random sample of texts and videos that are
scored in full. With C_i the candidates of text i and J the sampled videos,

    sum_j exp(S_ij / tau + g_j) ~ sum_{C_i} ... + (n_v - |C_i|) / |J - C_i|  sum_{J - C_i} ...   (s)

The first sum holds the largest terms, so the second has a small variance. It matters at high
temperatures; at the default one, nearly all mass is on candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from emcl_plugin.scores.candidates.moments import AllPairs
from emcl_plugin.scores.candidates.pairs import Pairs


@dataclass(frozen=True)
class SampledComplement:
    """Scores of all texts with a sample of the videos, without candidates.

    Attributes
    ----------
    chosen : (m,) int
        The sampled videos.
    scores : (n_text, m)
        -infinity for candidates.
    log_share : (n_text,)
        Logarithm of the number of videos that each sampled one stands for; -infinity if all are
        candidates.
    """

    chosen: torch.Tensor
    scores: torch.Tensor
    log_share: torch.Tensor

    @classmethod
    def sampled(cls, pairs: Pairs, turned: AllPairs) -> SampledComplement:
        """Score a sample of videos in full; ``turned`` has videos first."""
        count = pairs.shape[1]
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(count, generator=generator)[: turned.sample].sort().values
        chosen = chosen.to(pairs.text.device)
        scores = turned.rows(chosen).T.contiguous()
        place = torch.full((count,), -1, device=chosen.device)
        place[chosen] = torch.arange(len(chosen), device=chosen.device)
        column = place[pairs.video]
        inside = column >= 0
        scores[pairs.text[inside], column[inside]] = -math.inf
        left = torch.isfinite(scores).sum(1)
        share = (count - pairs.starts.diff()) / left.clamp(min=1)
        return cls(chosen, scores, torch.where(left > 0, share, 0).to(scores).log())

    def log_sums(self, bias: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return log sum exp(S / temperature + bias) over all other videos, (n_text,)."""
        scaled = self.scores / temperature
        return torch.logsumexp(scaled + bias[self.chosen], 1) + self.log_share
