"""Outputs of known retrievers: read, captured or collected, and re-scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emcl_plugin.adapters.base import Adapter
from emcl_plugin.adapters.capture import Captured, capture
from emcl_plugin.adapters.clip4clip import XCLIP, CLIP2Video, CLIP4Clip
from emcl_plugin.adapters.collect import Collected, Collector
from emcl_plugin.adapters.drl import DRL
from emcl_plugin.adapters.embeddings import (
    ClipRetrieval,
    HuggingFace,
    OpenCLIP,
    SentenceTransformers,
)
from emcl_plugin.adapters.matrices import DBSN, EMCLNet
from emcl_plugin.adapters.mmt import MMT, CollaborativeExperts
from emcl_plugin.errors import InputValueError

__all__ = [
    "ADAPTERS",
    "DBSN",
    "DRL",
    "MMT",
    "XCLIP",
    "Adapter",
    "CLIP2Video",
    "CLIP4Clip",
    "Captured",
    "ClipRetrieval",
    "CollaborativeExperts",
    "Collected",
    "Collector",
    "EMCLNet",
    "HuggingFace",
    "OpenCLIP",
    "SentenceTransformers",
    "capture",
    "read",
]

_KINDS: tuple[type[Adapter], ...] = (
    MMT,
    CollaborativeExperts,
    CLIP4Clip,
    CLIP2Video,
    XCLIP,
    DRL,
    EMCLNet,
    DBSN,
    OpenCLIP,
    HuggingFace,
    SentenceTransformers,
    ClipRetrieval,
)
ADAPTERS: dict[str, type[Adapter]] = {kind.NAME: kind for kind in _KINDS}


def read(name: str, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
    """A retriever's output from its file or folder.

    Parameters
    ----------
    name : str
        One of :data:`ADAPTERS`.
    path : str or Path
        What the retriever wrote, or a file or folder that holds its arrays by name.
    trust_pickle : bool, default False
        Also read pickles: arrays, containers, texts and numbers in them, and nothing else.
    **settings
        Of the adapter, such as ``orientation``.

    Returns
    -------
    Adapter
        Of the class that :data:`ADAPTERS` has under this name.
    """
    if name not in ADAPTERS:
        raise InputValueError(
            "no adapter has this name", repr(name), f"use one of {', '.join(ADAPTERS)}"
        )
    return ADAPTERS[name].read(path, trust_pickle=trust_pickle, **settings)
