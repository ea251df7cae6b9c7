"""Several captions per video: cut-off points, padded matrices and caption masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.errors import InputValueError


def from_cut_off_points(
    points: Any, n_text: int | None = None, most: int | None = None
) -> np.ndarray[Any, Any]:
    """Return the video of every text from ``dataset.cut_off_points``, CLIP4Clip's ends of captions.

    ``n_text`` is the expected number of texts, ``most`` the largest possible one: the longer side
    of a matrix that may be transposed.

    >>> from_cut_off_points([2, 3, 6]).tolist()
    [0, 0, 1, 2, 2, 2]
    """
    ends = np.asarray(points).astype(np.int64).ravel()
    counts = np.diff(ends, prepend=0)
    wrong = not len(ends) or (counts < 1).any() or (n_text is not None and ends[-1] != n_text)
    if wrong or (most is not None and ends[-1] > most):
        received = f"{ends[:5].tolist()} to {ends[-1:].tolist()}, {n_text} texts"
        remedy = "pass dataset.cut_off_points: one end per video, increasing to the number of texts"
        raise InputValueError("invalid cut-off points of the captions", received, remedy)
    return np.repeat(np.arange(len(ends)), counts)


def unpadded(sim: Array) -> tuple[Array, np.ndarray[Any, Any]]:
    """Return the flat matrix, (n_text, n_video), of a padded one, and the video of every text.

    ``sim`` is (n_video, most captions, n_video): rows after the captions of a video are -inf.

    >>> padded = np.full((2, 2, 2), -np.inf)
    >>> padded[0, 0], padded[1] = [0.9, 0.1], [[0.2, 0.8], [0.3, 0.7]]
    >>> flat, video = unpadded(padded)
    >>> flat.shape, video.tolist()
    ((3, 2), [0, 1, 1])
    """
    if sim.ndim != 3 or sim.shape[0] != sim.shape[2]:
        raise InputValueError(
            "sim is not a padded matrix", describe(sim), "(videos, most captions, videos)"
        )
    infinite = (sim == -np.inf).all(-1)
    padded = infinite.cpu().numpy() if isinstance(infinite, torch.Tensor) else infinite
    counts = (~padded).sum(1)
    first = np.arange(padded.shape[1]) < counts[:, None]
    if (padded == first).any() or not counts.all():
        bad = int(((padded == first).any(1) | (counts == 0)).argmax())
        problem = "the padding of the matrix does not follow the captions"
        remedy = "each video needs at least one caption, followed by rows of -inf"
        raise InputValueError(problem, f"video {bad}, {int(counts[bad])} captions", remedy)
    kept = torch.from_numpy(first).to(sim.device) if isinstance(sim, torch.Tensor) else first
    return sim[kept], np.repeat(np.arange(len(counts)), counts)


def unmasked(mask: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the rows of existing captions and their videos, given a mask, (n_video, captions).

    >>> rows, video = unmasked([[1, 1], [1, 0]])
    >>> rows.tolist(), video.tolist()
    ([0, 1, 2], [0, 0, 1])
    """
    there = np.asarray(mask) != 0
    if there.ndim != 2 or not there.any():
        raise InputValueError(
            "not a mask of captions", f"shape {there.shape}", "(videos, captions), 1 or 0"
        )
    rows = np.flatnonzero(there)
    return rows, rows // there.shape[1]
