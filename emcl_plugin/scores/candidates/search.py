"""Search for candidate pairs, with FAISS or without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.sizes import DEFAULT_MEMORY
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Features, check_lengths
from emcl_plugin.scores.candidates import SAMPLE, AllPairs, Candidates, Pairs


def search(
    text: Features,
    video: Features,
    k: int,
    *,
    index: str = "Flat",
    memory: int | None = None,
    progress: Progress | None = None,
) -> Candidates:
    """Find the top ``k`` videos of every text and the top ``k`` texts of every video.

    Parameters
    ----------
    text, video : Features
    k : int
        At most the number of items.
    index : str, default "Flat"
        FAISS factory string, with optional settings: "IVF4096,Flat;nprobe=32". "Flat" is exact;
        others, such as "HNSW32", are faster and may miss pairs.
    memory : int, optional
        Memory budget in bytes; the samples of (s) take at most 1/16. Default: 4 GiB.
    progress : callable, optional
        Called with (stage, done, total).

    Examples
    --------
    >>> sides = [Features(torch.eye(3) + 0.1), Features(torch.eye(3))]
    >>> search(*sides, k=1).pairs.video.tolist()
    [0, 1, 2]
    """
    shape = text.shape[0], video.shape[0]
    best = []
    for queries, items, stage in ((text, video, "text -> video"), (video, text, "video -> text")):
        best.append(_nearest(queries, items, min(k, items.shape[0]), index, stage, progress))
    keys, values = [], []
    for (found, scores), forward in zip(best, (True, False), strict=True):
        own = torch.arange(len(found), device=found.device)[:, None].expand_as(found)
        there = found >= 0  # an approximate index may find fewer
        i, j = (own, found) if forward else (found, own)
        keys.append((i * shape[1] + j)[there])
        values.append(scores[there])
    key, order = torch.cat(keys).sort()
    value = torch.cat(values)[order]
    del best, keys, values, order
    first = torch.cat([key.new_ones(1, dtype=torch.bool), key[1:] != key[:-1]])
    key, value = key[first], value[first]
    pairs = Pairs(shape, key // shape[1], key % shape[1])
    for side, sizes in (("text", pairs.starts.diff()), ("video", pairs.T.starts.diff())):
        if not bool(sizes.all()):
            raise InputValueError(
                f"the index found nothing for some {side}s",
                f"{int((sizes == 0).sum())} of {len(sizes)}, index {index}",
                'search more widely, or with the exact index, "Flat"',
            )
    budget = DEFAULT_MEMORY if memory is None else memory
    sample = budget // (64 * max(shape) * text.dtype.itemsize)
    of_all = AllPairs(text, video, sample=max(64, min(SAMPLE, sample)))
    made = Candidates(pairs, value, of_all)
    if text.dtype == torch.float64:  # FAISS computes in float32
        exact = made.products(text.rows(0, shape[0]), video.rows(0, shape[1]))[0]
        made = Candidates(pairs, exact, of_all)
    return made


def _nearest(
    queries: Features,
    items: Features,
    k: int,
    index: str,
    stage: str,
    progress: Progress | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices and inner products of the top k items of every query, (n, k)."""
    found = torch.empty(queries.shape[0], k, dtype=torch.long, device=queries.device)
    scores = torch.empty(queries.shape[0], k, dtype=queries.dtype, device=queries.device)
    look = _faiss(items, index)
    if look is None and index != "Flat":
        raise InputValueError(
            "this index needs FAISS", index, "pip install faiss-cpu, or leave the index out"
        )
    for start, stop, block in queries.blocks():
        if look is not None:
            check_lengths(block, queries.name, start, torch.float32)  # FAISS computes in it
            with _told(index):
                near, ids = look.search(np.ascontiguousarray(block.float().cpu().numpy()), k)
            scores[start:stop] = torch.from_numpy(near)
            found[start:stop] = torch.from_numpy(ids)
        else:
            products = torch.cat([block @ tile.T for _, _, tile in items.blocks()], dim=1)
            scores[start:stop], found[start:stop] = products.topk(k, dim=1)
        if progress is not None:
            progress(f"search {stage}", stop, queries.shape[0])
    return found, scores


def _faiss(items: Features, index: str) -> Any:
    """Return a FAISS index of the items, or None if FAISS is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    factory, _, settings = index.partition(";")
    try:
        made = faiss.index_factory(items.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if settings:
            tuner: Any = faiss.ParameterSpace()  # its annotation lacks the string form
            tuner.set_index_parameters(made, settings)
    except RuntimeError as error:
        raise InputValueError(
            "FAISS knows no such index",
            f"{index}: {str(error).splitlines()[-1][:100]}",
            "use for example Flat, which is exact, or IVF4096,Flat;nprobe=32",
        ) from None
    if items.device.type == "cuda" and hasattr(faiss, "StandardGpuResources"):
        made = faiss.index_cpu_to_all_gpus(made)
    if not made.is_trained:
        many = torch.randperm(items.shape[0], generator=torch.Generator().manual_seed(0))
        sample = items.take(many[: 1 << 18].sort().values.to(items.device))
        with _told(index):
            made.train(np.ascontiguousarray(sample.float().cpu().numpy()))
    for _, _, block in items.blocks():
        made.add(np.ascontiguousarray(block.float().cpu().numpy()))
    return made


@contextmanager
def _told(index: str) -> Iterator[None]:
    """Convert errors of FAISS; their last sentence names the problem."""
    try:
        yield
    except RuntimeError as error:
        raise InputValueError(
            "FAISS cannot search like this",
            f"{index}: {str(error).rpartition('Error: ')[2][:200]}",
            "take fewer clusters, look at more of them, or leave the index out",
        ) from None
