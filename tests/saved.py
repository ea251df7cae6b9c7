"""Fitted correctors to save, and damaged copies of saved ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from emcl_plugin import Reranker
from emcl_plugin.bank import manifest, persistence
from emcl_plugin.bank.persistence import MANIFEST
from emcl_plugin.errors import EmclWarning, StateError

DATA = Path(__file__).parent / "data"
V1 = DATA / "state_v1"
DEEP = 10**6


def hubby(n_text: int = 80, n_video: int = 60, dim: int = 12, seed: int = 0, dtype: str = "f4"):
    """Paired features with hubs: everything leans towards one direction, some videos more."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(dim)
    video = rng.standard_normal((n_video, dim)) + rng.uniform(0, 1.5, (n_video, 1)) * shared
    text = video[np.arange(n_text) % n_video] + 0.6 * rng.standard_normal((n_text, dim)) + shared
    return text.astype(dtype), video.astype(dtype)


def fitted(dtype: str = "f4", names: bool = False, **params) -> Reranker:
    text, video = hubby(dtype=dtype)
    labels = [f"video {i}" for i in range(len(video))] if names else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmclWarning)
        return Reranker(**params).fit(text, video, names=labels)


def load(folder: Path, **options) -> Reranker:
    return persistence.load(folder, Reranker, **options)


def scores(reranker: Reranker, dim: int | None = None) -> torch.Tensor:
    rng = np.random.default_rng(7)
    queries = rng.standard_normal((37, dim or reranker.corrector_.dimension))
    return torch.cat(list(reranker.corrector_.scores(queries)))


def same(a: Reranker, b: Reranker) -> None:
    """All of the corrector, the settings and the report."""
    for name, x in vars(a.corrector_).items():
        y = getattr(b.corrector_, name, None)
        if name == "ood_gate":
            assert torch.equal(x.rows, y.rows)
            assert (x.low, x.high, x.within) == (y.low, y.high, y.within)
        elif isinstance(x, torch.Tensor):
            assert x.dtype == y.dtype
            assert torch.equal(x, y), name
        elif not name.startswith("_"):
            assert (type(x), x) == (type(y), y)
    assert torch.equal(scores(a), scores(b))
    wanted = a.get_params()
    assert {**b.get_params(), "device": wanted["device"], "memory": wanted["memory"]} == wanted


def write(folder: Path, content: object, *, seal: bool = True) -> None:
    """Write corrector.json with the right checksum, so that nothing but the change is wrong."""
    if seal and isinstance(content, dict):
        content["sha256"] = manifest.seal(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def refused(folder: Path, words: str, **options) -> str:
    with pytest.raises(StateError, match=words) as caught:
        load(folder, **options)
    assert type(caught.value) is StateError
    text = str(caught.value)
    assert "received: " in text
    assert "to do: " in text
    assert len(text) < 1000
    return text


def at(path: str, value: object):
    """A change of the JSON: ``value`` at settings.emcl.sigma; ... takes the key away."""

    def change(content: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key)] if isinstance(content, list) else content[key]
        if value is ...:
            del content[last]
        else:
            content[int(last) if isinstance(content, list) else last] = value

    return change
