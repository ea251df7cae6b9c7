"""Near-duplicate queries count once: weights of the texts; nothing is deleted.

A query that comes a hundred times, or with a typo here and a capital there, would make its video
look a hundred times as popular and bias every average over the queries. Text i has the weight

    w_i = 1 / sum_k exp(-u_ik / u_0),    u_ik = |x_i - x_k|^2 / mean |x - x'|^2             (w)

over the texts k with the same best video (near-duplicates share it). x is the text's embedding, or
its row of scores without embeddings. u is free of scale: 0 for duplicates, 1 for two random
texts. In the mean, the texts of one best video count as one, so that a query that comes ten
thousand times does not set the scale. n duplicates have a weight of 1 / n each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from emcl_plugin.scores import Features, Similarity, ranges_in_cache

NEAR = 0.01
"""u_0. Two captions of one video are 0.17 to 0.76 apart (e5 on Flickr8k, 5 to 95 % of pairs)."""


def weights(
    vectors: Features | Similarity, best_video: torch.Tensor, *, memory: int
) -> torch.Tensor | None:
    """Return how many texts each text counts as, (w); None without near-duplicates.

    Parameters
    ----------
    vectors : Features or Similarity, (n_text, d)
        Embeddings of the texts or, without any, their rows of scores.
    best_video : (n_text,) int
        The best match of each text.
    memory : int
        Memory budget in bytes.

    Examples
    --------
    >>> texts = Features(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))  # a copy in cosine
    >>> weights(texts, torch.tensor([0, 0, 1]), memory=1 << 20).tolist()
    [0.5, 0.5, 1.0]
    """
    sizes = torch.bincount(best_video)
    mean, spread = _spread(vectors, 1.0 / sizes[best_video].double())
    counts = torch.ones(vectors.shape[0], dtype=vectors.dtype, device=vectors.device)
    if spread <= 0:
        return counts / len(counts) if len(counts) > 1 else None

    def scaled(texts: torch.Tensor) -> torch.Tensor:
        return _scaled(vectors, texts, mean, spread**0.5)

    limit = max(2, memory // 16 // (vectors.shape[1] * vectors.dtype.itemsize))
    groups = torch.split(torch.argsort(best_video, stable=True), sizes[sizes > 0].tolist())
    for places, members in _batches(groups, limit):
        x = scaled(members)
        for place in places:
            counts[members[place]] = _kernel(x[place], x[place]).sum(1)
    for members in (group for group in groups if len(group) > limit):
        for rows in torch.split(members, limit // 2):
            x = scaled(rows)
            counts[rows] = 0
            for others in torch.split(members, limit // 2):
                counts[rows] += _kernel(x, scaled(others)).sum(1)
    return None if bool((counts <= 1).all()) else counts.clamp(min=1).reciprocal()


def first_equal(vectors: Features | Similarity, best_video: torch.Tensor) -> torch.Tensor:
    """Return the first near-duplicate of each text, (n_text,); its own index for most."""
    sizes = torch.bincount(best_video)
    mean, spread = _spread(vectors, 1.0 / sizes[best_video].double())
    first = torch.arange(vectors.shape[0], device=vectors.device)
    if spread <= 0:
        return torch.zeros_like(first)
    for members in torch.split(torch.argsort(best_video, stable=True), sizes[sizes > 0].tolist()):
        x = _scaled(vectors, members, mean, spread**0.5)
        for rows, part in zip(torch.split(members, 1024), torch.split(x, 1024), strict=True):
            near = _kernel(part, x) > 0.5
            first[rows] = torch.where(near, members, vectors.shape[0]).amin(1)
    return first


def _kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return exp(-u / u_0) of every x with every y, scaled to a mean squared distance of 1."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    u = torch.addmm(squares, x, y.T, alpha=-2)
    u -= 8 * torch.finfo(x.dtype).eps * squares  # rounding between duplicates
    return torch.where(u < 30 * NEAR, torch.exp(u.clamp(min=0) / -NEAR), 0)  # beyond: nothing


def _scaled(
    vectors: Features | Similarity, texts: torch.Tensor, mean: torch.Tensor, unit: float
) -> torch.Tensor:
    """Return (x - mean) / unit of these texts, computed in float64."""
    x = vectors.take(texts)
    out = torch.empty_like(x)
    for first, last in ranges_in_cache(0, len(x), x.shape[1], mean.dtype, x.device):
        out[first:last] = (x[first:last].double() - mean) / unit
    return out


def _spread(vectors: Features | Similarity, counted: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the weighted mean vector and mean squared distance of two vectors."""
    share = counted / counted.sum()
    mean = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for start, _, block in vectors.blocks():
        for first, last in ranges_in_cache(0, len(block), len(mean), mean.dtype, mean.device):
            mean += share[start + first : start + last] @ block[first:last].double()
    mean = vectors.group.sum(mean)
    squares = 0.0
    for start, _, block in vectors.blocks():
        for first, last in ranges_in_cache(0, len(block), len(mean), mean.dtype, mean.device):
            centred = block[first:last].double() - mean
            squares += float(share[start + first : start + last] @ centred.square_().sum(1))
    return mean, 2 * sum(own for (own,) in vectors.group.gather([squares]))


def _batches(
    groups: Sequence[torch.Tensor], limit: int
) -> Iterator[tuple[list[slice], torch.Tensor]]:
    """Yield batches of at most ``limit`` texts: the slice of each group, and the texts."""
    places: list[slice] = []
    parts: list[torch.Tensor] = []
    held = 0
    for group in groups:
        if not 2 <= len(group) <= limit:
            continue
        if held + len(group) > limit:
            yield places, torch.cat(parts)
            places, parts, held = [], [], 0
        places.append(slice(held, held + len(group)))
        parts.append(group)
        held += len(group)
    if parts:
        yield places, torch.cat(parts)
