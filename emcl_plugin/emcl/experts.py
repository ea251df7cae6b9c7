"""A mixture of experts as MMT scores it: embeddings per expert, weights per pair of items.

Source: Gabeur et al., "Multi-modal Transformer for Video Retrieval", ECCV 2020, arXiv 2007.10639,
and its released code where the two differ. With experts e, text embeddings t_ie of weights a_ie
and video embeddings v_je of weights b_je (0 where a video lacks the expert),

    S_ij = sum_e a_ie b_je <t_ie, v_je> / sum_e a_ie b_je                                   (m)

The denominator is the release's: an expert that a video lacks leaves its weight to the others.
Both sums are matrix products, so a block of rows costs one block and no texts x videos x experts
array is ever made.

EMCL finds one map I + beta_e W_e per expert, from the items that have it, as the release does.
It multiplies <t_ie, v_je> by nothing but numbers of text i and of video j (the new lengths) and
adds a sum over the directions k of expert e, so what it makes is (m) with other weights in the
numerator, plus a product of rank sum_e r_e; see :class:`emcl_plugin.emcl.Reconstruction`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array, check_finite, check_matrix, describe, read_rows
from emcl_plugin.emcl import EMCL, Subspaces, fit_subspaces, renormalizing, second_moments
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Features, Similarity, rows_per_block

NO_EXPERT = 1e-5
"""Denominator of the release for a pair without a common expert, which scores 0."""


@dataclass(frozen=True)
class Experts:
    """Embeddings and weights of a mixture of experts; pass it to ``rescore`` as ``sim``.

    Parameters
    ----------
    text, video : mapping of str to (n_text, D_e) and (n_video, D_e) array
        Embeddings by expert. Rows of items that lack an expert are ignored but must be finite.
    text_weights, video_weights : (n_text, E) and (n_video, E) array
        In the order of ``text``'s names; not negative, 0 for an expert that an item lacks.

    Examples
    --------
    >>> import numpy as np
    >>> from emcl_plugin import rerank
    >>> one, two = np.float32([[1, 0], [0, 1]]), np.float32([[0, 1], [1, 0]])
    >>> weights = np.float32([[1, 0], [0, 1]])  # the first text has one expert, the second another
    >>> given = Experts({"rgb": one, "audio": two}, {"rgb": one, "audio": two}, weights, weights)
    >>> given.shape, rerank(given, prior="off", emcl=None).tolist()
    ((2, 2), [[1.0, 0.0], [0.0, 1.0]])
    """

    text: Mapping[str, Array]
    video: Mapping[str, Array]
    text_weights: Array
    video_weights: Array

    def __post_init__(self) -> None:
        if not self.text or set(self.text) != set(self.video):
            raise InputValueError(
                "texts and videos have different experts",
                f"text {', '.join(self.text) or 'none'}; video {', '.join(self.video) or 'none'}",
                "pass the same experts for both",
            )
        for side in ("text", "video"):
            embeddings, weights = getattr(self, side), getattr(self, f"{side}_weights")
            check_matrix(weights, f"{side}_weights")
            for name in self.text:
                check_matrix(embeddings[name], f"{side}[{name!r}]")
                if len(embeddings[name]) != len(weights):
                    raise InputValueError(
                        f"{side}[{name!r}] and {side}_weights are of different numbers of items",
                        f"{describe(embeddings[name])}; {describe(weights)}",
                        "each has one row per item",
                    )
            if weights.shape[1] != len(self.text):
                raise InputValueError(
                    f"{side}_weights must have one column per expert",
                    f"{describe(weights)} for {', '.join(self.text)}",
                    "pass them in the order of the experts",
                )
            if bool((weights < 0).any()):
                raise InputValueError(
                    f"{side}_weights holds a negative weight", describe(weights), "0 means absent"
                )
        for name in self.text:
            if self.text[name].shape[1] != self.video[name].shape[1]:
                raise InputValueError(
                    f"the expert {name!r} has different dimensions",
                    f"text {describe(self.text[name])}, video {describe(self.video[name])}",
                    "pass the embeddings that the retriever compares",
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        return int(self.text_weights.shape[0]), int(self.video_weights.shape[0])

    @property
    def arrays(self) -> list[Array]:
        """All arrays; the first determines the array type of the result."""
        return [*self.text.values(), *self.video.values(), self.text_weights, self.video_weights]

    @property
    def products(self) -> int:
        """Multiplications per score."""
        return sum(int(array.shape[1]) for array in self.text.values())

    def take(self, texts: Any, videos: Any) -> Experts:
        """Return these texts and videos, in this order."""
        return Experts(
            {name: array[texts] for name, array in self.text.items()},
            {name: array[videos] for name, array in self.video.items()},
            self.text_weights[texts],
            self.video_weights[videos],
        )

    def open(self, *, dtype: torch.dtype, device: torch.device, memory: int) -> Mixture:
        """Return the scores as a similarity source."""
        weights = [
            read_rows(given, 0, len(given), dtype, device)
            for given in (self.text_weights, self.video_weights)
        ]
        check_finite(weights[0], "text_weights", 0)
        check_finite(weights[1], "video_weights", 0)
        there = (weights[0] > 0).any(0) & (weights[1] > 0).any(0)
        if not bool(there.any()):
            raise InputValueError(
                "no expert is there for a text and a video",
                f"{', '.join(self.text)}, without a common weight above 0",
                "check the weights; 0 means absent",
            )
        names = [name for name, used in zip(self.text, there.tolist(), strict=True) if used]

        def side(name: str, embeddings: Mapping[str, Array], given: torch.Tensor) -> _Side:
            features = [
                Features(
                    embeddings[expert],
                    name=f"{name}[{expert!r}]",
                    metric="dot",
                    dtype=dtype,
                    device=device,
                    memory=memory // (2 * len(names)),
                )
                for expert in names
            ]
            return _Side(features, given[:, there], given[:, there], given[:, :0])

        return Mixture(
            side("text", self.text, weights[0]),
            side("video", self.video, weights[1]),
            memory=memory,
        )


@dataclass(frozen=True)
class _Side:
    """One side of (m): embeddings, weights in the numerator and in the denominator, directions."""

    embeddings: list[Features]
    weights: torch.Tensor
    scaled: torch.Tensor
    directions: torch.Tensor

    @property
    def count(self) -> int:
        return len(self.weights)

    def part(self, which: slice | torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield a_ie t_ie of these items, expert by expert."""
        for e, features in enumerate(self.embeddings):
            if isinstance(which, slice):
                rows = features.rows(which.start, which.stop)
            else:
                rows = features.take(which)
            yield rows * self.scaled[which, e, None]


class Mixture(Similarity):
    """The scores (m); made by :meth:`Experts.open`."""

    def __init__(self, text: _Side, video: _Side, *, memory: int) -> None:
        self.text, self.video, self.memory = text, video, memory
        self.shape = (text.count, video.count)
        self.dtype, self.device = text.weights.dtype, text.weights.device
        self.block_rows = rows_per_block(self.shape[1], self.dtype, memory // 2)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self._scores(slice(start, stop))

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        return self._scores(indices)

    @property
    def T(self) -> Similarity:
        return Mixture(self.video, self.text, memory=self.memory).among(self.group.even())

    def _scores(self, which: slice | torch.Tensor) -> torch.Tensor:
        text, video = self.text, self.video
        out = text.directions[which] @ video.directions.T
        width = max(side.shape[1] for side in video.embeddings)
        tile = rows_per_block(width, self.dtype, self.memory // 2)
        parts = list(text.part(which))
        for start in range(0, self.shape[1], tile):
            stop = min(start + tile, self.shape[1])
            for part, other in zip(parts, video.part(slice(start, stop)), strict=True):
                out[:, start:stop].addmm_(part, other.T)
        shared = text.weights[which] @ video.weights.T
        shared[shared == 0] = NO_EXPERT
        out /= shared
        return out


class ExpertMaps:
    """EMCL's map of every expert, and the mixture at a given strength.

    Parameters
    ----------
    mixture : Mixture
    config : EMCL
        With ``beta``, each expert has its own strength, beta times its eigenvalue.
    weights : (n_text,), optional
        Weight of each text.
    """

    def __init__(self, mixture: Mixture, config: EMCL, weights: torch.Tensor | None) -> None:
        self.mixture = mixture
        self.renormalize = config.renormalize
        text, video = mixture.text, mixture.video
        self.maps: list[Subspaces] = []
        for e, pair in enumerate(zip(text.embeddings, video.embeddings, strict=True)):
            counts = [(side.weights[:, e] > 0).to(side.weights) for side in (text, video)]
            if weights is not None:
                counts[0] = counts[0] * weights
            moments = second_moments(*pair, batch=config.batch, weights=counts)
            self.maps.append(fit_subspaces(moments, config))
        largest = [float(found.eigenvalues[0]) for found in self.maps]
        self.fixed = config.strength
        self._shares = [1.0] * len(self.maps)
        if config.beta is not None:
            self.fixed = config.beta * max(largest)
            self._shares = [value / max(largest) for value in largest]
        self._projected = [
            [x.project(found.basis) for x, found in zip(side.embeddings, self.maps, strict=True)]
            for side in (text, video)
        ]
        self._norms = [[x.squared_norms() for x in side.embeddings] for side in (text, video)]

    @property
    def effective_rank(self) -> float:
        """Mean effective number of subspaces per expert."""
        return sum(found.effective_rank for found in self.maps) / len(self.maps)

    def scores(self, strength: float) -> Similarity:
        """Return the mixture after every expert's map of this strength."""
        gains = [
            ((1 + found.factors(strength * share)).square() - 1).to(self.mixture.text.weights)
            for found, share in zip(self.maps, self._shares, strict=True)
        ]
        text = self._changed(self.mixture.text, 0, gains)
        video = self._changed(self.mixture.video, 1, gains)
        text = replace(text, directions=text.directions * torch.cat(gains))
        made = Mixture(text, video, memory=self.mixture.memory)
        return made.among(self.mixture.group)

    def _changed(self, side: _Side, which: int, gains: list[torch.Tensor]) -> _Side:
        """Return a side with the lengths and coordinates of its mapped embeddings."""
        scaled, projected = side.weights.clone(), self._projected[which]
        if self.renormalize:  # to the original length
            for e, norms in enumerate(self._norms[which]):
                kept = renormalizing(norms, projected[e], gains[e]) * norms.sqrt()
                scaled[:, e] *= torch.where(norms > 0, kept, 1)
        directions = [x * scaled[:, e, None] for e, x in enumerate(projected)]
        return replace(side, scaled=scaled, directions=torch.cat(directions, 1))
