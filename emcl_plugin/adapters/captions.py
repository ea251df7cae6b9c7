"""Several captions per video: cut-off points, padded matrices, masked captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.errors import InputValueError


def from_cut_off_points(
    points: Any, n_text: int | None = None, most: int | None = None
) -> np.ndarray[Any, Any]:
    """The video of every text, from the cumulative ends of the videos' captions.

    Parameters
    ----------
    points : sequence of int
        ``dataset.cut_off_points`` of CLIP4Clip's multi-sentence data sets: the captions of video
        j end before row ``points[j]``.
    n_text : int, optional
        To check against.
    most : int, optional
        Texts that there can be at most: the longer side of a matrix that may be turned.

    Examples
    --------
    >>> from_cut_off_points([2, 3, 6]).tolist()
    [0, 0, 1, 2, 2, 2]
    """
    ends = np.asarray(points).astype(np.int64).ravel()
    counts = np.diff(ends, prepend=0)
    wrong = not len(ends) or (counts < 1).any() or (n_text is not None and ends[-1] != n_text)
    if wrong or (most is not None and ends[-1] > most):
        raise InputValueError(
            "these are no cut-off points of the captions",
            f"{ends[:5].tolist()} to {ends[-1:].tolist()}, {n_text} texts",
            "pass dataset.cut_off_points: rising, one per video, the last is the number of texts",
        )
    return np.repeat(np.arange(len(ends)), counts)


def unpadded(sim: Array) -> tuple[Array, np.ndarray[Any, Any]]:
    """The flat matrix, (n_text, n_video), and every text's video, of a padded one.

    Parameters
    ----------
    sim : (n_video, most captions, n_video)
        As CLIP4Clip and its kin reshape it to measure: rows beyond a video's captions are -inf.

    Examples
    --------
    >>> padded = np.full((2, 2, 2), -np.inf)
    >>> padded[0, 0], padded[1] = [0.9, 0.1], [[0.2, 0.8], [0.3, 0.7]]
    >>> flat, video = unpadded(padded)
    >>> flat.shape, video.tolist()
    ((3, 2), [0, 1, 1])
    """
    if sim.ndim != 3 or sim.shape[0] != sim.shape[2]:
        raise InputValueError(
            "this is no padded matrix", describe(sim), "(videos, most captions, videos)"
        )
    infinite = (sim == -np.inf).all(-1)
    padded = infinite.cpu().numpy() if isinstance(infinite, torch.Tensor) else infinite
    counts = (~padded).sum(1)
    first = np.arange(padded.shape[1]) < counts[:, None]
    if (padded == first).any() or not counts.all():
        bad = int(((padded == first).any(1) | (counts == 0)).argmax())
        raise InputValueError(
            "the padding of the matrix is not behind the captions",
            f"video {bad}, {int(counts[bad])} captions",
            "rows of -inf follow each video's captions, of which there is one at least",
        )
    kept = torch.from_numpy(first).to(sim.device) if isinstance(sim, torch.Tensor) else first
    return sim[kept], np.repeat(np.arange(len(counts)), counts)


def unmasked(mask: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The rows that are captions, and the video of each, of a mask of grouped captions.

    Parameters
    ----------
    mask : (n_video, captions)
        0 where a video has no such caption, as MMT's ``query_masks``: in MSR-VTT two videos
        have 19 of 20.

    Examples
    --------
    >>> rows, video = unmasked([[1, 1], [1, 0]])
    >>> rows.tolist(), video.tolist()
    ([0, 1, 2], [0, 0, 1])
    """
    there = np.asarray(mask) != 0
    if there.ndim != 2 or not there.any():
        raise InputValueError(
            "this is no mask of captions", f"shape {there.shape}", "(videos, captions), 1 or 0"
        )
    rows = np.flatnonzero(there)
    return rows, rows // there.shape[1]
