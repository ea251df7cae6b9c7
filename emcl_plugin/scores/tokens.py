"""Weighted token-wise interaction of the words of a text with the frames of a video.

Source: Wang et al., "Disentangled Representation Learning for Text-Video Retrieval" (DRL, also
DCR), arXiv 2203.07111, and its released code where the two differ. With unit token vectors t_ip
and v_jq, weights a_ip and b_jq that sum to 1 over the tokens, and padding set to zero,

    S_ij = 1/2 sum_p a_ip max_q <t_ip, v_jq> + 1/2 sum_q b_jq max_p <t_ip, v_jq>              (w)

Padding takes part in the maxima with a product of 0, as in the release: a word with negative
products scores 0 if the video has fewer frames than the longest one. Equal weights give the
"ti" of the release; the weights of its two small networks give its "wti".

EMCL works on one vector per item, sum_p a_ip t_ip and sum_q b_jq v_jq (:meth:`Tokens.pooled`),
and its change is added to (w) as a residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import (
    Array,
    Kind,
    check_finite,
    compute_dtype,
    describe,
    read_rows,
)
from emcl_plugin._internal.sizes import DEFAULT_MEMORY
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.scores import Similarity, rows_per_block

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Tokens:
    """Token vectors of texts and videos; pass it to ``rescore`` as ``sim``.

    Parameters
    ----------
    text, video : (n_text, P, D) and (n_video, Q, D) array
        Words and frames; vectors of any length.
    text_mask, video_mask : (n_text, P) and (n_video, Q) array
        0 for padding; every item needs a token.
    text_weights, video_weights : arrays like the masks, optional
        Logits; the softmax is taken over the tokens of an item. Default: equal weights.

    Examples
    --------
    >>> import numpy as np
    >>> from emcl_plugin import rerank
    >>> words = np.float32([[[1, 0], [0, 1]], [[1, 0], [9, 9]]])  # the second text has one word
    >>> frames = np.float32([[[2, 0]], [[0, 3]]])
    >>> given = Tokens(words, frames, np.array([[1, 1], [1, 0]]), np.ones((2, 1)))
    >>> rerank(given, prior="off").tolist()
    [[0.75, 0.75], [1.0, 0.0]]
    """

    text: Array
    video: Array
    text_mask: Array
    video_mask: Array
    text_weights: Array | None = None
    video_weights: Array | None = None

    def __post_init__(self) -> None:
        for side in ("text", "video"):
            tokens, mask = getattr(self, side), getattr(self, f"{side}_mask")
            weights = getattr(self, f"{side}_weights")
            if (
                not isinstance(tokens, np.ndarray | torch.Tensor)
                or tokens.ndim != 3
                or 0 in tokens.shape
            ):
                raise InputTypeError(
                    f"{side} holds no tokens", describe(tokens), "pass (items, tokens, dimensions)"
                )
            for name, given in ((f"{side}_mask", mask), (f"{side}_weights", weights)):
                if given is None and given is weights:
                    continue
                if not isinstance(given, np.ndarray | torch.Tensor) or tuple(given.shape) != tuple(
                    tokens.shape[:2]
                ):
                    raise InputValueError(
                        f"{name} does not fit the {side} tokens",
                        f"{describe(given)} for {describe(tokens)}",
                        "pass one number per token, (items, tokens)",
                    )
            empty = ~(mask != 0).any(1)
            if bool(empty.any()):
                row = int(empty.nonzero()[0][0])
                raise InputValueError(
                    f"a {side} has no token", f"{side}_mask[{row}] is all 0", "drop that item"
                )
        if self.text.shape[2] != self.video.shape[2]:
            raise InputValueError(
                "text and video tokens have different dimensions",
                f"text {describe(self.text)}, video {describe(self.video)}",
                "pass the tokens that the retriever compares",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        return int(self.text.shape[0]), int(self.video.shape[0])

    @property
    def arrays(self) -> list[Array]:
        """Token vectors."""
        return [self.text, self.video]

    @property
    def products(self) -> int:
        """Number of multiplications per score."""
        return int(self.text.shape[1] * self.video.shape[1] * self.text.shape[2])

    def take(self, texts: Any, videos: Any) -> Tokens:
        """Return these texts and videos, in this order."""

        def chosen(array: Array | None, which: Any) -> Any:
            return None if array is None else array[which]

        return Tokens(
            self.text[texts],
            self.video[videos],
            self.text_mask[texts],
            self.video_mask[videos],
            chosen(self.text_weights, texts),
            chosen(self.video_weights, videos),
        )

    def open(self, *, dtype: torch.dtype, device: torch.device, memory: int) -> TokenWise:
        """Return the scores as a similarity source."""
        text = _Side("text", self.text, self.text_mask, self.text_weights, dtype, device)
        video = _Side("video", self.video, self.video_mask, self.video_weights, dtype, device)
        return TokenWise(text, video, memory=memory)

    def pooled(self) -> tuple[Array, Array]:
        """Return the weighted sum of the tokens of every item: (n_text, D) and (n_video, D)."""
        kind = Kind.of(self.text)
        dtype = compute_dtype(self.text)
        opened = self.open(dtype=dtype, device=kind.device, memory=DEFAULT_MEMORY)
        text, video = (kind.narrow(side.pooled()) for side in (opened.text, opened.video))
        return (text.numpy(), video.numpy()) if kind.numpy else (text, video)


class _Side:
    """Unit tokens of texts or videos, read in blocks, and their weights."""

    def __init__(
        self,
        name: str,
        tokens: Array,
        mask: Array,
        weights: Array | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.name, self.tokens, self.dtype, self.device = name, tokens, dtype, device
        self.there = read_rows(mask, 0, len(mask), dtype, device) != 0
        if weights is None:
            found = self.there.to(dtype)
            self.weights = found / found.sum(1, keepdim=True)
        else:
            found = read_rows(weights, 0, len(weights), dtype, device)
            check_finite(found.masked_fill(~self.there, 0), f"{name}_weights", 0)
            self.weights = torch.softmax(found.masked_fill(~self.there, -math.inf), 1)
        self.count, self.length, self.dimension = (int(n) for n in tokens.shape)
        self.block_rows = rows_per_block(self.length * self.dimension, dtype, None)
        for start in range(0, self.count, self.block_rows):
            self.read(start, min(start + self.block_rows, self.count))  # checks every token

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return unit tokens of items ``start:stop``, (n, tokens, D); padding is 0."""
        x = read_rows(self.tokens, start, stop, self.dtype, self.device)
        there = self.there[start:stop, :, None]
        x = torch.where(there, x, 0)
        check_finite(x.flatten(1), self.name, start)
        largest = x.abs().amax(2, keepdim=True)
        zero = (largest == 0) & there
        if bool(zero.any()):
            row, token, _ = (int(k) for k in zero.nonzero()[0])
            raise InputValueError(
                f"a {self.name} token is all zeros, so its cosine is not defined",
                f"{self.name}[{start + row}, {token}]",
                "set its mask to 0",
            )
        return torch.nn.functional.normalize(x / torch.where(there, largest, 1), dim=2)

    def pooled(self) -> torch.Tensor:
        """Return weighted sums, (n, D)."""
        out = torch.empty(self.count, self.dimension, dtype=self.dtype, device=self.device)
        for start in range(0, self.count, self.block_rows):
            stop = min(start + self.block_rows, self.count)
            tokens, weights = self.read(start, stop), self.weights[start:stop]
            out[start:stop] = torch.einsum("np,npd->nd", weights, tokens)
        return out


class TokenWise(Similarity):
    """The scores (w), made by :meth:`Tokens.open`."""

    def __init__(self, text: _Side, video: _Side, *, memory: int) -> None:
        self.text, self.video, self.memory = text, video, memory
        self.shape = (text.count, video.count)
        self.dtype, self.device = text.dtype, text.device
        room = min(_BLOCK_BYTES, memory // 16) // self.dtype.itemsize
        # two blocks of words x videos are held in addition to the words and frames
        words = max(text.length, int((room / 2) ** 0.5))
        self.block_rows = max(1, min(words, room // text.dimension) // text.length)
        self._videos = max(
            1,
            min(
                room // (2 * self.block_rows * text.length),
                room // (video.length * video.dimension),
            ),
        )

    def rows(self, start: int, stop: int) -> torch.Tensor:
        words = self.text.read(start, stop)
        n, length = words.shape[:2]
        flat = words.flatten(0, 1)
        out = torch.zeros(n, self.shape[1], dtype=self.dtype, device=self.device)
        for first in range(0, self.shape[1], self._videos):
            last = min(first + self._videos, self.shape[1])
            frames = self.video.read(first, last)
            score = out[:, first:last]
            best = None
            for q in range(self.video.length):
                products = flat @ frames[:, q].T  # words x videos
                best = products if best is None else torch.maximum(best, products)
                of_frame = products.view(n, length, -1).amax(1)
                score += of_frame * self.video.weights[first:last, q]
            assert best is not None
            weights = self.text.weights[start:stop, None, :]
            score += torch.bmm(weights, best.view(n, length, -1))[:, 0]
            score /= 2
        return out

    @property
    def T(self) -> Similarity:
        return TokenWise(self.video, self.text, memory=self.memory).among(self.group.even())
