"""CLIP4Clip, CLIP2Video, X-CLIP and EMCL-Net: frame features with masks, or the matrix.

According to the public code of ArrowLuo/CLIP4Clip (`modules/modeling.py`, `_loose_similarity`),
cached features are raw; a video is the normalized masked mean of its unit frames ("meanP"); scores
are cosines times exp(logit_scale). The temporal headers ("seqTransf", "seqLSTM") change frames
within the similarity, and "tightTransf" has no vectors. For these the matrix is needed, and the
pooled frames are used by EMCL only.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, Kind, compute_dtype, describe, read_rows
from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.errors import InputValueError

_ITEMS = 1024  # videos per block


class CLIP4Clip(Adapter):
    """Output of CLIP4Clip: cached features, a matrix, or both.

    Parameters
    ----------
    text : (n_text, 1, D) or (n_text, D) array, or a list of batches, optional
        ``batch_sequence_output_list``. For CLIP2Video, the first (global) entries of its tuples.
    video : (n_video, frames, D) or (n_video, D) array, or a list of batches, optional
        ``batch_visual_output_list``, raw.
    video_mask : (n_video, frames) array or a list of batches, optional
        Nonzero for existing frames. Default: all.
    sim : (n_text, n_video), (n_video, most captions, n_video) array or list of row blocks, optional
        Scores, with or without the logit scale. The three-dimensional form is padded with -inf.
        Required if the model's header is not "meanP".
    cut_off_points : sequence of int, optional
        ``dataset.cut_off_points``. Default: one text per video.
    logit_scale : float, optional
        Factor to divide the scores by. Default: detected if the scores are a multiple of the
        cosine of the features; otherwise not needed, because no default depends on the scale.
    orientation : {"auto", "text-video", "video-text"}, default "auto"
        Of ``sim``.

    Examples
    --------
    >>> text, frames = np.eye(3, 4)[:, None], np.ones((2, 5, 4))
    >>> run = CLIP4Clip(text=text, video=frames, cut_off_points=[1, 3])
    >>> run.features[1].shape, run.ground_truth.item.tolist()
    ((2, 4), [0, 1, 1])
    """

    NAME = "clip4clip"
    FIELDS: ClassVar[Fields] = {
        "text": ("batch_sequence_output_list", "sequence_output"),
        "video": ("batch_visual_output_list", "visual_output"),
        "video_mask": ("batch_video_mask_list",),
        "sim": ("sim_matrix", "sims"),
    }

    def __init__(
        self,
        *,
        text: Any = None,
        video: Any = None,
        video_mask: Any = None,
        sim: Any = None,
        cut_off_points: Any = None,
        logit_scale: Any = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        if text is not None and video is not None:
            self.features = one_vector(text), mean_of_frames(video, video_mask)
        points, scale = cut_off_points, logit_scale
        self._settle(sim, cut_off_points=points, logit_scale=scale, orientation=orientation)


class CLIP2Video(CLIP4Clip):
    """Output of CLIP2Video; see :class:`CLIP4Clip`.

    ``sim`` is required if the TAB or TDB block is on, as in all of its checkpoints. ``text`` may
    contain the tuples (global, hidden) of its batches.
    """

    NAME = "clip2video"

    def __init__(self, *, text: Any = None, **settings: Any) -> None:
        if isinstance(text, tuple) and len(text) == 2:
            text = text[0]
        elif isinstance(text, list):
            text = [batch[0] if isinstance(batch, tuple) else batch for batch in text]
        super().__init__(text=text, **settings)


class XCLIP(CLIP4Clip):
    """Output of X-CLIP, which averages four logits; features are used by EMCL only."""

    NAME = "x-clip"

    def __init__(self, *, sim: Any, **settings: Any) -> None:
        super().__init__(sim=sim, **settings)


class EMCLNet(Adapter):
    """Output of EMCL-Net, whose video vectors depend on the text, so only the matrix is used.

    Parameters
    ----------
    sim : (n_text, n_video), (n_video, most captions, n_video) array or list of row blocks
        Returned by ``_run_on_single_gpu`` in ``main_retrieval.py``.
    cut_off_points, logit_scale, orientation
        As in :class:`CLIP4Clip`.
    """

    NAME = "emcl-net"
    FIELDS: ClassVar[Fields] = {"sim": ("sim_matrix", "sims", "")}

    def __init__(
        self,
        *,
        sim: Any,
        cut_off_points: Any = None,
        logit_scale: Any = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        points, scale = cut_off_points, logit_scale
        self._settle(sim, cut_off_points=points, logit_scale=scale, orientation=orientation)


def one_vector(text: Any) -> Array:
    """Return text vectors, (n, D), given (n, 1, D) or (n, D)."""
    x = stacked(text, "text")
    if x.ndim == 3 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim != 2:
        shapes = "(n_text, 1, D) or (n_text, D)"
        raise InputValueError("text must be one vector per text", describe(x), shapes)
    return x


def mean_of_frames(video: Any, mask: Any = None) -> Array:
    """Return the normalized masked mean of unit frames, (n, D); (n, D) is returned unchanged.

    >>> mean_of_frames(np.array([[[2.0, 0], [0, 3], [9, 9]]]), np.array([[1, 1, 0]])).round(3)
    array([[0.707, 0.707]])
    """
    x = stacked(video, "video")
    if x.ndim == 2:
        return x
    if x.ndim != 3:
        shapes = "(n_video, frames, D) or (n_video, D)"
        raise InputValueError("video must hold frames", describe(x), shapes)
    there = np.ones(x.shape[:2]) if mask is None else stacked(mask, "video_mask")
    if there.ndim > 2:  # the data loader yields (n, 1, frames)
        there = there.reshape(len(there), -1)
    if tuple(there.shape) != tuple(x.shape[:2]):
        problem = "video_mask does not match the frames"
        remedy = "pass one number per frame, (n_video, frames)"
        raise InputValueError(problem, f"{describe(there)} for {describe(x)}", remedy)
    kind, dtype = Kind.of(x), compute_dtype(x)
    kept = read_rows(there, 0, len(there), dtype, kind.device) != 0
    pooled = torch.empty(x.shape[0], x.shape[2], dtype=dtype, device=kind.device)
    for start in range(0, len(x), _ITEMS):
        stop = min(start + _ITEMS, len(x))
        frames = read_rows(x, start, stop, dtype, kind.device)
        frames = torch.where(kept[start:stop, :, None], frames, 0)
        pooled[start:stop] = torch.nn.functional.normalize(frames, dim=2).sum(1)
    out = kind.narrow(torch.nn.functional.normalize(pooled, dim=1))
    return out.numpy() if kind.numpy else out
