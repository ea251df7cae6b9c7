"""Inputs of several processes that each bring their own texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.distributed.process_group import ProcessGroup
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.pipeline.inputs import FeaturesPair, check_inputs
from emcl_plugin.scores import Scorer


def shared(
    process_group: Any, sim: Array | Scorer | None, feats: FeaturesPair | None
) -> tuple[ProcessGroup, FeaturesPair | None]:
    """Return the process group, and the features with those of all processes' texts.

    Every process then holds all features; scores stay where they are.

    Parameters
    ----------
    process_group : torch.distributed.ProcessGroup
    sim : (own texts, n_video), optional
    feats : ((own texts, dimension), (n_video, dimension)), optional

    Raises
    ------
    InputValueError, InputTypeError, WorkerError
        In every process, if the inputs of one of them are wrong.
    """
    group = ProcessGroup(process_group)

    def check() -> tuple[Array, int]:
        check_inputs(sim, feats)
        if not isinstance(sim, np.ndarray | torch.Tensor | None):
            raise InputTypeError(
                "several processes share a matrix or features",
                describe(sim),
                "leave process_group out, or pass each process its rows of the matrix",
            )
        if feats is not None:
            return feats[0], len(feats[1])
        assert sim is not None
        return sim, int(sim.shape[1])

    own, videos = group.together(check)
    every = group.gather([len(own), own.shape[1], videos, own.dtype.itemsize])
    if len({tuple(same) for _, *same in every}) > 1:
        raise InputValueError(
            "the arrays of the processes differ in width or dtype",
            ", ".join(f"{n:.0f} x {d:.0f}, {v:.0f} videos" for n, d, v, _ in every),
            "pass the same videos in every process, and texts of one dimension and dtype",
        )
    counts = [int(n) for n, *_ in every]
    group = ProcessGroup(process_group, counts)
    if feats is None:
        return group, None
    if isinstance(own, torch.Tensor):
        return group, (group.rows(own.detach(), sum(counts)), feats[1])
    texts = torch.from_numpy(np.ascontiguousarray(own))
    return group, (group.rows(texts, sum(counts)).numpy(), feats[1])
