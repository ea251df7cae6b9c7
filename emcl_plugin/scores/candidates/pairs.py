"""Index of candidate pairs, by text and by video."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Pairs:
    """Distinct pairs of a text and a video, sorted by text, then by video.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    text, video : (n_pairs,) int64
    """

    shape: tuple[int, int]
    text: torch.Tensor
    video: torch.Tensor

    @cached_property
    def starts(self) -> torch.Tensor:
        """Offsets of the pairs of every text, (n_text + 1,)."""
        return _starts(self.text, self.shape[0])

    @cached_property
    def by_video(self) -> torch.Tensor:
        """Permutation that sorts the pairs by video, then by text, (n_pairs,)."""
        return torch.argsort(self.video, stable=True)

    @cached_property
    def T(self) -> Pairs:
        """The same pairs with videos first."""
        order = self.by_video
        return Pairs(self.shape[::-1], self.video[order], self.text[order])

    def find(self, text: torch.Tensor, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the positions of these pairs, and whether they are included."""
        keys = self.text * self.shape[1] + self.video
        wanted = text * self.shape[1] + video
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return place, keys[place] == wanted

    def matrices(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values as a sparse matrix, (n_text, n_video), and its transpose."""
        turned = self.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls CSR a beta feature
            made = [
                torch.sparse_csr_tensor(pairs.starts, pairs.video, x, pairs.shape)
                for pairs, x in ((self, values), (turned, values[self.by_video]))
            ]
        return made[0], made[1]


def _starts(sorted_index: torch.Tensor, count: int) -> torch.Tensor:
    sizes = torch.bincount(sorted_index, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
