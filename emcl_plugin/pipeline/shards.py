"""Texts that several processes of somebody's process group bring, each its own."""

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
    """The processes of a group, and with the features of all their texts.

    The features of the texts, as those of the videos, are then held by every process; scores
    never leave theirs.

    Parameters
    ----------
    process_group : torch.distributed.ProcessGroup
    sim : (own texts, n_video), optional
    feats : ((own texts, dimension), (n_video, dimension)), optional

    Raises
    ------
    InputValueError, InputTypeError, WorkerError
        In all processes where something is wrong in one of them.
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
            "the processes bring arrays of different widths or dtypes",
            ", ".join(f"{n:.0f} x {d:.0f}, {v:.0f} videos" for n, d, v, _ in every),
            "give every process the same videos, and texts of one kind",
        )
    counts = [int(n) for n, *_ in every]
    group = ProcessGroup(process_group, counts)
    if feats is None:
        return group, None
    if isinstance(own, torch.Tensor):
        return group, (group.rows(own.detach(), sum(counts)), feats[1])
    texts = torch.from_numpy(np.ascontiguousarray(own))
    return group, (group.rows(texts, sum(counts)).numpy(), feats[1])
