"""Hubness of a gallery and the modality gap.

Rows of a similarity source are queries, columns are items; one direction at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin.scores import Features, Similarity
from emcl_plugin.scores.reductions import moments


@dataclass(frozen=True)
class Hubness:
    """Distribution of the top-k results of all queries over the items.

    Attributes
    ----------
    k : int
        Results per query that are counted.
    occurrence : (n_items,) int
        k-occurrence N_k: number of queries that have the item in their top k.
    skewness : float
        Third standardised moment of N_k: do a few items appear far more often than the rest?
        0 is symmetric; above 1.5 is usually called hubness (Radovanovic et al., JMLR 2010).
    robin_hood : float
        Robin Hood (Hoover) index of N_k, in [0, 1): what share of all results would have to
        move to other items for all items to appear equally often?
    hub_share : float
        Share of all results that are hubs: items that appear at least twice as often as the mean.
    anti_hub_share : float
        Share of items that appear for no query.
    normalization_error : float
        Mean over items of ``|sum over queries of P(item | query) / expected - 1|``, with P the
        softmax of the scores at 0.15 standard deviations and a uniform expectation. Our
        definition of the NCL paper's question: how far are the retrieval probabilities from
        being normalised?
    """

    k: int
    occurrence: torch.Tensor
    skewness: float
    robin_hood: float
    hub_share: float
    anti_hub_share: float
    normalization_error: float

    def largest(self, count: int = 5) -> list[tuple[int, int]]:
        """Return the largest hubs as (item, occurrences), most frequent first."""
        count = min(count, len(self.occurrence))
        found = torch.sort(self.occurrence, descending=True, stable=True)
        pairs = zip(found.indices[:count].tolist(), found.values[:count].tolist(), strict=True)
        return [(item, occurrences) for item, occurrences in pairs if occurrences > 0]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the occurrences of every item."""
        largest = [{"item": item, "occurrences": count} for item, count in self.largest()]
        out = {name: value for name, value in vars(self).items() if name != "occurrence"}
        return {**out, "largest": largest}


def hubness(source: Similarity, k: int = 10) -> Hubness:
    """Return the hubness of the items (columns) for the queries (rows), in two passes.

    >>> from emcl_plugin.scores import Dense
    >>> everyone_likes_0 = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    >>> hubness(Dense(everyone_likes_0), k=1).anti_hub_share
    0.5
    """
    n_query, n_item = source.shape
    k = min(k, n_item)
    temperature = 0.15 * moments(source).std or 1.0
    counts = torch.zeros(n_item, dtype=torch.long, device=source.device)
    mass = torch.zeros(n_item, dtype=torch.float64, device=source.device)
    for _, _, block in source.blocks():
        top = torch.topk(block, k, dim=1, sorted=False).indices
        counts += torch.bincount(top.flatten(), minlength=n_item)
        mass += torch.softmax(block / temperature, dim=1).sum(0, dtype=torch.float64)
    counts, mass = source.group.sum(counts), source.group.sum(mass)
    occurrence = counts.double()
    mean = n_query * k / n_item
    centred = occurrence - mean
    spread = math.sqrt(float(centred.square().mean()))
    hubs = occurrence >= 2 * mean
    return Hubness(
        k=k,
        occurrence=counts.cpu(),
        skewness=float(centred.pow(3).mean()) / spread**3 if spread > 0 else 0.0,
        robin_hood=float(centred.abs().sum()) / (2 * n_query * k),
        hub_share=float(occurrence[hubs].sum()) / (n_query * k),
        anti_hub_share=float((counts == 0).double().mean()),
        normalization_error=float((mass * n_item / n_query - 1).abs().mean()),
    )


@dataclass(frozen=True)
class ModalityGap:
    """Distances in feature space, at unit length for cosine.

    Of the mean text from the mean video, and of a text from its video on average (NaN if no pairs
    are known).
    """

    means: float
    pairs: float


def modality_gap(
    text: Features, video: Features, truth_pairs: tuple[Any, Any] | None = None
) -> ModalityGap:
    """Return the distance of the means and of matching pairs (text indices, video indices)."""
    means = []
    for side in (text, video):
        total = torch.zeros(side.shape[1], dtype=torch.float64, device=side.device)
        for _, _, block in side.blocks():
            total += block.double().sum(0)
        means.append(side.group.sum(total) / side.shape[0])
    distance = float(torch.linalg.vector_norm(means[0] - means[1]))
    if truth_pairs is None:
        return ModalityGap(distance, math.nan)
    rows, columns = (torch.as_tensor(x, device=text.device) for x in truth_pairs)
    lengths = 0.0
    for start, stop, block in text.blocks():
        here = (rows >= start) & (rows < stop)
        difference = block[rows[here] - start] - video.take(columns[here])
        lengths += float(torch.linalg.vector_norm(difference, dim=1).sum(dtype=torch.float64))
    lengths = sum(of_one for (of_one,) in text.group.gather([lengths]))
    return ModalityGap(distance, lengths / len(rows))
