"""Real embeddings, which lie beside the checkout where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real_set(name, *more):
    """Texts, videos, arrays called ``more``, and every text's video; skip if they are missing."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is missing in {DATA.parent.name}/{DATA.name}, beside the checkout")
    sides = [np.load(folder / f"{side}.npy") for side in ("text", "video", *more)]
    truth = folder / "text_to_video.npy"
    return *sides, np.load(truth) if truth.exists() else np.arange(len(sides[0]))
