"""InvGC: inverse graph convolution on the features, with local adjacency."""

from __future__ import annotations

import torch

from emcl_plugin.baselines.problem import FEATURES, Direction, Method, check_positive
from emcl_plugin.baselines.vectors import Changed, to_unit
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import FeaturePair, Features, Similarity


def invgc(
    direction: Direction,
    *,
    gallery_rate: float = 0.1,
    query_rate: float = 0.25,
    share: float = 0.01,
) -> Similarity:
    """Push every gallery vector away from its nearest items and queries.

    With N(x) the ``share`` of a set nearest to x (at least one vector) and u normalization to unit
    length, as released ("LocalAdj"):

        x_g = u(x - gallery_rate mean_{y in N(x)} <x, y> y)    N among the gallery bank
        x_q = u(x - query_rate   mean_{y in N(x)} <x, y> y)    N among the query bank
        x'  = u((x_g + x_q) / 2)

    for the gallery; queries do not change. Without a gallery bank, neighbours are the other
    gallery items; without a query bank, the test queries. With ``metric="dot"`` lengths are not
    normalized.

    Needs features. Serves from an index (changed gallery vectors). Published settings: 1 % of the
    bank as neighbours. The paper tunes both rates per model and data set; the defaults are ours.

    Its trap: if the gallery is its own bank, every vector is its own nearest neighbour. Here an
    item is not its own neighbour.

    Parameters
    ----------
    gallery_rate, query_rate : float, default 0.1 and 0.25
        Step sizes; 0 skips the step.
    share : float, default 0.01
        Neighbours, as a share of the bank, in (0, 1].

    References
    ----------
    Jian, Wang: InvGC: Robust Cross-Modal Retrieval by Inverse Graph Convolution, Findings of EMNLP
    2023, arXiv 2310.13276.
    """
    check_positive(share=share)
    if share > 1:
        raise InputValueError("share must be at most 1", f"share={share}", "leave it out for 0.01")
    queries, gallery = direction.sides
    asked, items = direction.references
    own = direction.gallery_bank is None
    memory = direction.memory

    def change(block: torch.Tensor, start: int) -> torch.Tensor:
        out = torch.empty_like(block)
        step = min(FeaturePair(gallery, side, memory=memory).block_rows for side in (items, asked))
        for first in range(0, len(block), step):
            x = block[first : first + step]
            near = local_mean(x, items, share, skip=start + first if own else None)
            x_items = to_unit(x - gallery_rate * near, gallery)
            x_asked = to_unit(x - query_rate * local_mean(x, asked, share), gallery)
            out[first : first + step] = to_unit((x_items + x_asked) / 2, gallery)
        return out

    return FeaturePair(queries, Changed(gallery, change), memory=memory)


def local_mean(
    x: torch.Tensor, bank: Features, share: float, skip: int | None = None
) -> torch.Tensor:
    """Return the mean of ``<x, y> y`` over the ``share`` of the bank nearest to each row.

    ``skip`` is the position of the first row of ``x``, if the rows are part of the bank.
    """
    count = bank.shape[0] - (skip is not None)
    if count == 0:
        return torch.zeros_like(x)
    scores = torch.cat([x @ tile.T for _, _, tile in bank.blocks()], dim=1)
    if skip is not None:
        rows = torch.arange(len(x), device=x.device)
        scores[rows, rows + skip] = -torch.inf
    k = max(1, int(share * count))
    best = torch.topk(scores, k, dim=1)
    weights = torch.zeros_like(scores).scatter_(1, best.indices, best.values)
    total = torch.zeros_like(x)
    for start, stop, tile in bank.blocks():
        total += weights[:, start:stop] @ tile
    return total / k


METHOD = Method("invgc", "inverse graph convolution with local adjacency", invgc, needs=(FEATURES,))
