"""Near-equal queries, counted once: weights for the texts, not deletion.

A query that is asked a hundred times, or with a typo here and a capital there, would otherwise
make its video look a hundred times as popular and tilt every average over the queries. Text i
counts as

    w_i = 1 / sum_k exp(-u_ik / u_0),    u_ik = |x_i - x_k|^2 / mean |x - x'|^2             (w)

over the texts k with the same best video (near-equal texts have the same one), with x the
text's embedding, or its row of scores where there are no embeddings. u is free of scale: 0 for
copies, 1 for two texts drawn at random. n copies get a weight of 1 / n each and so count as one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from emcl_plugin.similarity import Dense, Features

NEAR = 0.01
"""u_0. Captions of one video are 0.1 to 0.5 apart, a changed capital or typo less than 0.02."""

_FAR = 30 * NEAR  # beyond this exp(-u / u_0) is nothing


def weights(
    vectors: Features | Dense, best_video: torch.Tensor, *, memory: int
) -> torch.Tensor | None:
    """As how many texts each text counts, (w); None where no two are near-equal.

    Parameters
    ----------
    vectors : Features or Dense, (n_text, d)
        Embeddings of the texts or, without any, their rows of scores.
    best_video : (n_text,) int
        The best match of each text.
    memory : int
        Bytes to keep within.

    Examples
    --------
    >>> texts = Features(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))  # a copy in cosine
    >>> weights(texts, torch.tensor([0, 0, 1]), memory=1 << 20).tolist()
    [0.5, 0.5, 1.0]
    """
    n = vectors.shape[0]
    mean, spread = _spread(vectors)
    counts = torch.ones(n, dtype=vectors.dtype, device=vectors.device)
    if spread <= 0:
        return counts / n if n > 1 else None
    limit = max(2, memory // 16 // (vectors.shape[1] * vectors.dtype.itemsize))
    order = torch.argsort(best_video, stable=True)
    sizes = torch.bincount(best_video)
    for group_sizes, members in _batches(order, sizes[sizes > 0].tolist(), limit):
        x = vectors.take(members) - mean
        for place, size in group_sizes:
            group = x[place : place + size]
            counts[members[place : place + size]] = _kernel(group, group, spread).sum(1)
    for members in torch.split(order, sizes[sizes > 0].tolist()):
        if len(members) > limit:
            for rows in torch.split(members, limit // 2):
                x = vectors.take(rows) - mean
                total = torch.zeros(len(rows)).to(counts)
                for others in torch.split(members, limit // 2):
                    total += _kernel(x, vectors.take(others) - mean, spread).sum(1)
                counts[rows] = total
    return None if bool((counts <= 1).all()) else counts.clamp(min=1).reciprocal()


def _kernel(x: torch.Tensor, y: torch.Tensor, spread: float) -> torch.Tensor:
    """exp(-u / u_0) of every x with every y."""
    squares = (x.square().sum(1)[:, None] + y.square().sum(1)) / spread
    u = torch.addmm(squares, x, y.T, alpha=-2 / spread)
    # copies differ by rounding, which u_0 would magnify
    u -= 8 * torch.finfo(x.dtype).eps * squares
    return torch.where(u < _FAR, torch.exp(u.clamp(min=0) / -NEAR), 0)


def _spread(vectors: Features | Dense) -> tuple[torch.Tensor, float]:
    """Mean vector, and mean squared distance of two vectors."""
    n = vectors.shape[0]
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for start in range(0, n, vectors.block_rows):
        total += vectors.rows(start, min(start + vectors.block_rows, n)).sum(0, dtype=total.dtype)
    mean = (total / n).to(vectors.dtype)
    squares = 0.0
    for start in range(0, n, vectors.block_rows):
        block = vectors.rows(start, min(start + vectors.block_rows, n)) - mean
        squares += float(block.square().sum(dtype=torch.float64))
    return mean, 2 * squares / n


def _batches(
    order: torch.Tensor, sizes: list[int], limit: int
) -> Iterator[tuple[list[tuple[int, int]], torch.Tensor]]:
    """Groups of two to ``limit`` members, as many as fit into ``limit`` rows at a time.

    Yields where each group lies in the batch and how large it is, and the batch's members.
    """
    groups: list[tuple[int, int]] = []
    parts: list[torch.Tensor] = []
    held = 0
    for members in torch.split(order, sizes):
        size = len(members)
        if not 2 <= size <= limit:
            continue
        if held + size > limit:
            yield groups, torch.cat(parts)
            groups, parts, held = [], [], 0
        groups.append((held, size))
        parts.append(members)
        held += size
    if parts:
        yield groups, torch.cat(parts)
