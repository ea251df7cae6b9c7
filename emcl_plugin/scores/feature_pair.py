"""Inner products of two sets of embeddings, computed block by block."""

from __future__ import annotations

import torch

from emcl_plugin.distributed.process_group import SINGLE_PROCESS
from emcl_plugin.scores.base import Similarity
from emcl_plugin.scores.block_sizes import rows_per_block
from emcl_plugin.scores.features import Features


class FeaturePair(Similarity):
    """Inner products of two sets of features; cosines with ``metric="cosine"``."""

    def __init__(self, text: Features, video: Features, *, memory: int | None = None) -> None:
        self.group = text.group
        self.text = text
        self.video = video
        self.shape = (text.shape[0], video.shape[0])
        self.dtype = text.dtype
        self.device = text.device
        self.memory = memory
        self.block_rows = rows_per_block(self.shape[1], self.dtype, memory)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        text = self.text.rows(start, stop)
        if self.video.resident:
            return text @ self.video.rows(0, self.shape[1]).T
        return torch.cat([text @ video.T for _, _, video in self.video.blocks()], dim=1)

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        text = self.text.take(indices)
        return torch.cat([text @ video.T for _, _, video in self.video.blocks()], dim=1)

    def dense(self) -> torch.Tensor:
        if not (self.text.resident and self.video.resident):
            return super().dense()
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        sides = self.text.rows(0, self.shape[0]), self.video.rows(0, self.shape[1])
        return torch.mm(sides[0], sides[1].T, out=out)

    def rough(self) -> Similarity:
        return RoughPair(self)

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        text, video = self.text.kept, self.video.kept
        return None if text is None or video is None else (text, video)

    @property
    def T(self) -> FeaturePair:
        video, text = self.video.shared(self.group.even()), self.text.shared(SINGLE_PROCESS)
        return FeaturePair(video, text, memory=self.memory)


class RoughPair(Similarity):
    """Inner products of features rounded to bfloat16."""

    def __init__(self, pair: FeaturePair) -> None:
        self.text = pair.text
        self.video = torch.cat([block.bfloat16() for _, _, block in pair.video.blocks()])
        self.shape, self.dtype, self.device = pair.shape, pair.dtype, pair.device
        self.block_rows, self.group = pair.block_rows, pair.group

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return (self.text.rows(start, stop).bfloat16() @ self.video.T).to(self.dtype)

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("rounded scores are read by rows only")
