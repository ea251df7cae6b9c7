"""Adapters: read, capture or collect the output of known retrievers, and re-score it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emcl_plugin.adapters.base import Adapter
from emcl_plugin.adapters.capture import Captured, capture
from emcl_plugin.adapters.clip4clip import XCLIP, CLIP2Video, CLIP4Clip, EMCLNet
from emcl_plugin.adapters.collect import Collected, Collector
from emcl_plugin.adapters.drl import DRL
from emcl_plugin.adapters.embeddings import (
    ClipRetrieval,
    HuggingFace,
    OpenCLIP,
    SentenceTransformers,
)
from emcl_plugin.adapters.mmt import DBSN, MMT, CollaborativeExperts
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
"""Adapters by the names that ``--from`` and :func:`read` accept."""


def read(name: str, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
    """Read the output of a retriever from its file or folder.

    Parameters
    ----------
    name : str
        One of :data:`ADAPTERS`.
    path : str or Path
        A file that the retriever wrote, or a file or folder with its arrays by name.
    trust_pickle : bool, default False
        Also read pickles; only arrays, containers, strings and numbers are loaded.
    **settings
        Arguments of the adapter, such as ``orientation``.

    Returns
    -------
    Adapter
        An instance of ``ADAPTERS[name]``. InputValueError is raised for an unknown name or setting
        and for missing arrays, InputFileError if the file cannot be read.
    """
    if name not in ADAPTERS:
        raise InputValueError("unknown adapter", repr(name), f"use one of {', '.join(ADAPTERS)}")
    return ADAPTERS[name].read(path, trust_pickle=trust_pickle, **settings)
