"""Sets of pairs as the benchmarks read them, and how their queries are drawn.

A folder holds text.npy and video.npy, or sim.npy alone (texts x videos). Row i of the texts
belongs to row i of the videos, unless text_to_video.npy gives the video of each text. qrels.npy
(text, video, grade) adds right videos. text_bank.npy and video_bank.npy are other pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.data.demo import load_demo
from emcl_plugin.ground_truth import GroundTruth

Array = np.ndarray[Any, Any]
Random = np.random.Generator
FEW = 50  # queries of the scenario "few"


@dataclass(frozen=True)
class Data:
    """Features or scores, and what is right.

    Attributes
    ----------
    name : str
    owner : (n_text,) int
        The video that each text asks for; scenarios choose among these.
    right : (n, 2) int
        All right pairs of a text and a video.
    text, video : (n, dimension), optional
    sim : (n_text, n_video), optional
        Scores, where there are no features.
    banks : two (n, dimension), optional
        Paired texts and videos that are not in the set.
    """

    name: str
    owner: Array
    right: Array
    text: Array | None = None
    video: Array | None = None
    sim: Array | None = None
    banks: tuple[Array, Array] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        source = self.sim if self.video is None else self.video
        assert source is not None
        return len(self.owner), source.shape[int(self.video is None)]

    @property
    def truth(self) -> GroundTruth:
        """The right pairs as the metrics take them."""
        return GroundTruth.from_pairs(self.right, self.shape)

    def scores(self) -> Array:
        """Cosines of all pairs, or the scores that are given."""
        if self.sim is not None:
            return self.sim
        sides = (np.asarray(side, dtype=np.float32) for side in (self.text, self.video))
        text, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides)
        scores: Array = text @ video.T
        return scores

    def ask(self, texts: Array) -> Data:
        """Return the set with these texts alone, in this order, as often as they are named."""
        order = np.argsort(self.right[:, 0], kind="stable")
        bounds = np.searchsorted(self.right[order, 0], np.arange(len(self.owner) + 1))
        videos = [self.right[order[bounds[t] : bounds[t + 1]], 1] for t in texts]
        rows = np.repeat(np.arange(len(texts)), [len(v) for v in videos])
        right = np.stack([rows, np.concatenate(videos)], axis=1)
        text = None if self.text is None else self.text[texts]
        sim = None if self.sim is None else self.sim[texts]
        return replace(self, owner=self.owner[texts], right=right, text=text, sim=sim)


def load(folder: Path) -> Data:
    """Read a folder."""

    def read(name: str) -> Array | None:
        path = folder / f"{name}.npy"
        return np.load(path) if path.exists() else None

    text, video, sim = read("text"), read("video"), read("sim")
    size = len(text if sim is None else sim)  # type: ignore[arg-type]
    owner, graded = read("text_to_video"), read("qrels")
    owner = np.arange(size) if owner is None else owner.astype(np.int64)
    right = np.stack([np.arange(size), owner], axis=1)
    if graded is not None:
        right = np.unique(np.concatenate([right, graded[graded[:, 2] > 0, :2]]), axis=0)
    banks = read("text_bank"), read("video_bank")
    paired = None if banks[0] is None or banks[1] is None else (banks[0], banks[1])
    return Data(folder.name, owner, right, text, video, sim, paired)


def demo(size: int | None = None) -> Data:
    """Return the data that ship with the package, or their first pairs."""
    given = load_demo()
    owner = np.arange(len(given.text[:size]))
    pairs = np.stack([owner, owner], axis=1)
    banks = given.text_bank[:size], given.video_bank[:size]
    return Data("demo", owner, pairs, given.text[:size], given.video[:size], None, banks)


# --- scenarios: which texts ask ------------------------------------------------------------------


def even(owner: Array, _: Random) -> Array:
    """Every text once."""
    return np.arange(len(owner))


def share(owner: Array, random: Random, part: float) -> Array:
    """All texts of a random part of the videos; nobody asks for the others."""
    videos = np.unique(owner)
    chosen = random.choice(videos, max(1, round(part * len(videos))), replace=False)
    return np.flatnonzero(np.isin(owner, chosen))


def zipf(owner: Array, random: Random) -> Array:
    """As many draws as there are texts, each text's chance 1 / its rank in a random order."""
    chance = 1 / (1 + random.permutation(len(owner)))
    return random.choice(len(owner), len(owner), p=chance / chance.sum())


def few(owner: Array, random: Random) -> Array:
    """Fifty random texts, where there are more than a hundred."""
    return random.choice(len(owner), FEW if len(owner) > 2 * FEW else 0, replace=False)


ASKED: dict[str, Callable[[Array, Random], Array]] = {
    "even": even, "half": partial(share, part=1 / 2), "fifth": partial(share, part=1 / 5),
    "zipf": zipf, "few": few,
}  # fmt: skip
SHIFT = "shift"
"""Texts of one half of the videos, corrected by the texts of the other half alone."""
