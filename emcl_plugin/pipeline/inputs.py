"""Check the kinds and shapes of the arrays that come in."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, check_matrix, describe
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.scores import Scorer

FeaturesPair: TypeAlias = "tuple[Array, Array]"


def check_inputs(sim: Array | Scorer | None, feats: FeaturesPair | None) -> list[Array]:
    """Check kinds and shapes, and return the arrays, features first."""
    if sim is None and feats is None:
        raise InputValueError(
            "there is nothing to re-score", "neither sim nor feats", "pass at least one of the two"
        )
    arrays: list[Array] = []
    if feats is not None:
        if not isinstance(feats, tuple | list) or len(feats) != 2:
            raise InputTypeError(
                "feats must be a pair (text, video)",
                describe(feats),
                "pass feats=(text, video), as in rerank(None, (text, video))",
            )
        text, video = check_matrix(feats[0], "text"), check_matrix(feats[1], "video")
        if text.shape[1] != video.shape[1]:
            raise InputValueError(
                "text and video features have different dimensions",
                f"text {tuple(text.shape)}, video {tuple(video.shape)}",
                "pass the embeddings that the retriever compares, one row per item",
            )
        arrays += [text, video]
    if isinstance(sim, tuple | list) and len(sim) == 2 and feats is None:
        raise InputTypeError(
            "sim is not an array", describe(sim), "embeddings come second: None, (text, video)"
        )
    if sim is not None:
        scorer = not isinstance(sim, np.ndarray | torch.Tensor) and hasattr(sim, "open")
        if not scorer:
            check_matrix(sim, "sim")
        if feats is not None and isinstance(sim, Experts):
            raise InputValueError(
                "experts bring their own features",
                f"{len(sim.text)} experts, and feats",
                "leave feats out: EMCL finds one map per expert",
            )
        if arrays:
            _check_agreement(sim, *arrays)
        arrays += [sim] if isinstance(sim, np.ndarray | torch.Tensor) else sim.arrays
    return arrays


def _check_agreement(sim: Array | Scorer, text: Array, video: Array) -> None:
    found, expected = tuple(sim.shape), (text.shape[0], video.shape[0])
    if found == expected:
        return
    swapped = found == expected[::-1]
    raise InputValueError(
        "the similarity is video x text" if swapped else "shapes do not agree",
        f"sim {found}, text {tuple(text.shape)}, video {tuple(video.shape)}",
        "pass sim.T, or swap text and video"
        if swapped
        else "sim must have one row per text and one column per video",
    )
