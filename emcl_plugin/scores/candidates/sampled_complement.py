"""The pairs that are no candidates, in Sinkhorn's sums: a sample stands for them.

The sums run over the candidates and, for all other pairs, over a random sample of texts and of
videos that are scored in full: with C_i the candidates of text i and J the sampled videos,

    sum_j exp(S_ij / tau + g_j) ~ sum_{C_i} ... + (n_v - |C_i|) / |J - C_i|  sum_{J - C_i} ...   (s)

The largest terms are in the first sum, so that the second one varies little. It matters for gentle
temperatures; at the default one nearly all mass lies on candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from emcl_plugin.scores.candidates.moments import AllPairs
from emcl_plugin.scores.candidates.pairs import Pairs


@dataclass(frozen=True)
class SampledComplement:
    """Scores of all texts with a sample of the videos, the candidates among them left out.

    Attributes
    ----------
    chosen : (m,) int
        The sampled videos.
    scores : (n_text, m)
        -infinity where a pair is a candidate.
    log_share : (n_text,)
        Logarithm of how many videos each of them stands for; -infinity where all are candidates.
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
        """log of the sum over all other videos of exp(S / temperature + bias), (n_text,)."""
        scaled = self.scores / temperature
        return torch.logsumexp(scaled + bias[self.chosen], 1) + self.log_share
