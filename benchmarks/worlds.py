"""Generated worlds: pairs whose truth is known, with hubs and popular videos drawn at random.

Videos are Gaussian vectors of 64 dimensions, a text is its video plus noise. Each seed draws all
of the following independently, from the ranges of :data:`MODERATE` or :data:`NASTY`:

- the number of videos, and of texts per video that is asked for;
- noise, relative to the signal, and how much it differs between texts;
- hubs: a share of the videos leans towards a direction that all texts share, by an amount that
  is the same for all texts, or another for each;
- demand: all videos, half or a fifth of them, by Zipf's law, or one video by a share of all texts;
- near-duplicate texts: a share of the texts is asked two to six times;
- clusters: videos of a topic resemble each other;
- several right videos: groups of near-copies, all of them right;
- the modality gap: a constant vector added to each side.

The ranges were fixed before anything was measured on them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from sets import Array, Data, Random

DIMENSION = 64
TEXTS = 4000  # at most
COPY_NOISE = 0.02  # of a near-duplicate, relative to the signal
ALIKE = 0.3  # distance of videos that are right together

MODERATE: dict[str, Any] = {
    "videos": (150, 400), "least": 100, "each": [1, 1, 2, 5], "noise": (0.6, 2.0),
    "quality": [0.0, 0.3], "hubs": [0.0, 0.02, 0.05], "lean": (0.5, 1.0), "steady": [True, False],
    "demand": [("share", 1.0), ("share", 1.0), ("share", 0.5), ("zipf", 0.5)],
    "copies": [0.0, 0.0, 0.1], "clusters": [0, 0, 20], "together": [1, 1, 2],
    "gap": [0.0, 0.5, 1.0],
}  # fmt: skip
NASTY: dict[str, Any] = {
    "videos": (20, 400), "least": 20, "each": [1, 2, 5, 20], "noise": (0.6, 3.5),
    "quality": [0.0, 0.3, 0.6], "hubs": [0.0, 0.05, 0.1, 0.2], "lean": (1.0, 2.5),
    "steady": [True, False],
    "demand": [("share", 1.0), ("share", 0.5), ("share", 0.2), ("zipf", 1.0), ("zipf", 1.5),
               ("one", 0.5), ("one", 0.9)],
    "copies": [0.0, 0.2, 0.5], "clusters": [0, 5, 20], "together": [1, 2, 4],
    "gap": [0.0, 1.0, 2.0],
}  # fmt: skip
KINDS = {"moderate": MODERATE, "nasty": NASTY}


@dataclass(frozen=True)
class Settings:
    """What a seed drew.

    ``least`` texts are asked at least; ``steady`` hubs lean by the same amount for all texts.
    """

    videos: int
    least: int
    each: int
    noise: float
    quality: float
    hubs: float
    lean: float
    steady: bool
    demand: tuple[str, float]
    copies: float
    clusters: int
    together: int
    gap: float

    def __str__(self) -> str:
        """The settings in words, for the world to be found again."""
        hubs = f"{100 * self.hubs:.0f} % hubs"
        if self.hubs:
            hubs += f" leaning {self.lean:.1f}{'' if self.steady else ', varying'}"
        parts = [f"{self.videos} videos", f"{self.demand[0]} {self.demand[1]:g}"]
        parts += [f"{self.each} texts each", f"noise {self.noise:.1f} +- {self.quality:g}", hubs]
        parts += [f"{100 * self.copies:.0f} % repeated", f"{self.clusters} clusters"]
        return ", ".join([*parts, f"{self.together} right", f"gap {self.gap:g}"])


def draw(kind: str, random: Random) -> Settings:
    """Draw every setting on its own: uniformly from a list, or from a range (two numbers)."""
    found: dict[str, Any] = {}
    for name, given in KINDS[kind].items():
        if isinstance(given, list):
            found[name] = given[random.integers(len(given))]
        elif isinstance(given, tuple):
            found[name] = random.uniform(*given)
        else:
            found[name] = given
    found["videos"] = min(round(found["videos"]), TEXTS // found["each"])
    return Settings(**found)


def make(kind: str, seed: int) -> tuple[Data, Settings]:
    """Return a world and its settings."""
    random = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    settings = draw(kind, random)
    groups = max(2, settings.videos // settings.together)
    group = np.arange(settings.videos) % groups
    base = _videos(settings, groups, random)
    video = base[group]
    if settings.together > 1:
        video = video + ALIKE * _noise(random, settings.videos)
    wanted = _demand(settings, groups, random)
    quality = np.exp(settings.quality * random.standard_normal(len(wanted)))
    text = base[wanted] + settings.noise * quality[:, None] * _noise(random, len(wanted))
    text, wanted = _repeat(text, wanted, settings.copies, random)
    if settings.hubs:
        hubs = random.choice(settings.videos, max(1, round(settings.hubs * len(video))), False)
        shared = _noise(random, 1)
        much = 1.0 if settings.steady else np.abs(random.standard_normal((len(text), 1)))
        text, video[hubs] = text + much * shared, video[hubs] + settings.lean * shared
    text, video = (x + settings.gap * _noise(random, 1) for x in (text, video))
    right = np.argwhere(wanted[:, None] == group)
    return Data(f"{kind} {seed}", wanted, right, *(x.astype("f4") for x in (text, video))), settings


def _noise(random: Random, count: int) -> Array:
    return random.standard_normal((count, DIMENSION))


def _videos(settings: Settings, groups: int, random: Random) -> Array:
    """Return one vector per group, most of it shared within a cluster, if there are any."""
    own = _noise(random, groups)
    if not settings.clusters:
        return own
    topics = _noise(random, settings.clusters)[random.integers(settings.clusters, size=groups)]
    mixed: Array = 0.8 * topics + 0.6 * own
    return mixed


def _demand(settings: Settings, groups: int, random: Random) -> Array:
    """Return the group that each text asks for."""
    how, amount = settings.demand
    if how == "share":
        chosen = random.choice(groups, max(1, round(amount * groups)), replace=False)
        return np.repeat(chosen, max(settings.each, -(-settings.least // len(chosen))))
    count = max(settings.least, settings.each * groups)
    order = random.permutation(groups)
    if how == "zipf":
        chance = (1.0 + order) ** -amount
        return random.choice(groups, count, p=chance / chance.sum())
    return np.where(random.random(count) < amount, order[0], random.integers(groups, size=count))


def _repeat(text: Array, wanted: Array, part: float, random: Random) -> tuple[Array, Array]:
    """Ask a part of the texts one to five times more, in nearly the same words."""
    asked = np.flatnonzero(random.random(len(text)) < part)
    rows = np.repeat(asked, random.integers(1, 6, size=len(asked)))
    copies = text[rows] + COPY_NOISE * _noise(random, len(rows))
    return np.concatenate([text, copies]), np.concatenate([wanted, wanted[rows]])
