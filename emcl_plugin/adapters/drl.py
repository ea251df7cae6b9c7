"""DRL (DCR): words and frames with masks, compared token by token.

According to the public code of foolwood/DRL (`tvr/models/modeling.py`): at evaluation there is no
logit scale; the interaction is "wti" (:mod:`emcl_plugin.scores.tokens`), "ti" (the same with equal
weights), "dp" (the word at the end of the text with the mean of the frames) or "xti" (a cross
transformer: the matrix only).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.adapters.clip4clip import mean_of_frames
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores.tokens import Tokens

INTERACTIONS = ("wti", "ti", "dp", "xti")


class DRL(Adapter):
    """Output of DRL: token features, a matrix, or both.

    Parameters
    ----------
    text, video : (n_text, words, D) and (n_video, frames, D) array, optional
        ``batch_feat_t`` and ``batch_feat_v``, raw; the latter after the model's own aggregation.
    text_mask, video_mask : (n_text, words) and (n_video, frames) array, optional
        ``batch_mask_t`` and ``batch_mask_v``. Default: all ones.
    text_weights, video_weights : arrays like the masks, optional
        ``model.text_weight_fc(text).squeeze(2)`` and the same of ``video_weight_fc``, before the
        softmax. Required for "wti".
    sim : (n_text, n_video), (n_video, most captions, n_video) array or list of row blocks, optional
        The model's own matrix, used unchanged; the tokens are then used by EMCL only. Required
        for "xti".
    interaction : {"wti", "ti", "dp", "xti"}, optional
        Default: "wti" with weights, else "ti".
    cut_off_points, orientation
        As in :class:`CLIP4Clip`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> run = DRL(text=rng.normal(size=(3, 5, 8)), video=rng.normal(size=(3, 4, 8)))
    >>> run.similarity.shape, run.features[0].shape, run.notes
    ((3, 3), (3, 8), ['the interaction "ti" is assumed: no token weights were given'])
    """

    NAME = "drl"
    FIELDS: ClassVar[Fields] = {
        "text": ("batch_feat_t", "t_feat", "text_feat"),
        "video": ("batch_feat_v", "v_feat", "video_feat"),
        "text_mask": ("batch_mask_t", "t_mask"),
        "video_mask": ("batch_mask_v", "v_mask"),
        "text_weights": ("text_weight",),
        "video_weights": ("video_weight",),
        "sim": ("sim_matrix", "sims"),
    }

    def __init__(
        self,
        *,
        text: Any = None,
        video: Any = None,
        text_mask: Any = None,
        video_mask: Any = None,
        text_weights: Any = None,
        video_weights: Any = None,
        sim: Any = None,
        interaction: str | None = None,
        cut_off_points: Any = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        if (text_weights is None) != (video_weights is None):
            received = "text_weights" if video_weights is None else "video_weights"
            remedy = "pass both, or neither for equal weights"
            raise InputValueError("token weights are given for one side only", received, remedy)
        if interaction is None:
            interaction = "ti" if text_weights is None else "wti"
            if text_weights is None and sim is None:
                self.notes.append('the interaction "ti" is assumed: no token weights were given')
        if interaction not in INTERACTIONS:
            raise InputValueError("unknown interaction", repr(interaction), ", ".join(INTERACTIONS))
        if text is not None and video is not None:
            words, frames = stacked(text, "text"), stacked(video, "video")
            masks = mask_of(text_mask, words, "text"), mask_of(video_mask, frames, "video")
            if interaction == "dp":
                self.features = last_word(words, masks[0]), mean_of_frames(frames, masks[1])
            else:
                weights = (
                    given if given is None else stacked(given, "token weights")
                    for given in (text_weights, video_weights)
                )
                tokens = Tokens(words, frames, *masks, *weights)
                self.features = tokens.pooled()
                if interaction != "xti":
                    self.similarity = tokens
        self._settle(sim, cut_off_points=cut_off_points, orientation=orientation)


def mask_of(mask: Any, tokens: Array, side: str) -> Array:
    """Return the mask, (n, tokens); all ones by default."""
    if mask is None:
        whole = np.ones(tuple(tokens.shape[:2]), np.int64)
        if isinstance(tokens, torch.Tensor):
            return torch.from_numpy(whole).to(tokens.device)
        return whole
    given = stacked(mask, f"{side}_mask")
    return given.reshape(len(given), -1)  # the data loader yields (n, 1, tokens)


def last_word(text: Array, mask: Array) -> Array:
    """Return the last unmasked token, (n, D): CLIP's text vector.

    >>> last_word(np.arange(6.0).reshape(1, 3, 2), np.array([[1, 1, 0]])).tolist()
    [[2.0, 3.0]]
    """
    last = (mask != 0).sum(1) - 1
    return text[range(len(text)), last]
