"""The best answers of every query, for sets whose matrix nobody wants: `rerank_top`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emcl_plugin.arrays import Array
from emcl_plugin.candidates import Candidates
from emcl_plugin.checkpoint import journal
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputValueError
from emcl_plugin.inputs import FeaturesPair
from emcl_plugin.job import Job
from emcl_plugin.ncl import NCL, Progress
from emcl_plugin.outcome import Report


@dataclass(frozen=True, kw_only=True)
class TopResult(Report):
    """The best videos of every text, and how they came about.

    Attributes
    ----------
    scores : (n_text, k) array or tensor
        Re-scored, best first.
    videos : (n_text, k) array or tensor of int
        Which they are; -1, with a score of -infinity, where an approximate index found fewer.

    Examples
    --------
    >>> import numpy as np
    >>> found = rerank_top((np.eye(3, 4), np.eye(3, 4)), k=1)
    >>> found.videos[:, 0], found.scores.shape
    (array([0, 1, 2]), (3, 1))
    """

    scores: Array
    videos: Array


def rerank_top(
    feats: FeaturesPair,
    k: int = 10,
    *,
    candidates: int = 100,
    index: str = "Flat",
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> TopResult:
    """Re-score promising pairs only and give every text its best videos; never a dense matrix.

    Work and memory grow with (n_text + n_video) * candidates after a search by FAISS. What is
    left out is measured on 256 texts that are scored in full: ``coverage`` of the result.

    Parameters
    ----------
    feats : (text, video)
        Embeddings of shape (n_text, dimension) and (n_video, dimension), memory-mapped or not.
    k : int, default 10
        At most ``candidates`` and the number of videos.
    candidates : int, default 100
        Pairs to look at: so many videos of every text, and so many texts of every video. More
        come closer to the dense result.
    index : str, default "Flat"
        FAISS's factory string. "Flat" searches exactly; others, such as "HNSW32" or
        "IVF4096,Flat;nprobe=32", sooner, and the recall says what they miss.
    emcl, ncl, prior, guard, metric, device, memory, progress, resume
        As in :func:`emcl_plugin.rerank`.

    Returns
    -------
    TopResult
        Protocol "transductive"; for videos to texts pass ``feats`` the other way round.

    Examples
    --------
    >>> from emcl_plugin.demo import load_demo
    >>> demo = load_demo()
    >>> found = rerank_top((demo.text, demo.video), k=3)
    >>> found.videos.shape, round(found.coverage.recall, 2)
    ((945, 3), 1.0)
    """
    if not 1 <= k <= candidates:
        raise InputValueError(
            "k must be at least 1 and at most the candidates", f"k={k} of {candidates}",
            "search more candidates",
        )  # fmt: skip
    job = Job(
        None,
        feats,
        emcl=emcl,
        ncl=ncl,
        prior=prior,
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
        candidates=candidates,
        index=index,
    )
    with journal(job, resume) as kept:
        found = job.correct(progress, journal=kept)
        assert isinstance(found.source, Candidates)
        scores, videos = found.source.top(min(k, job.shape[1]))
    missing = videos < 0
    scores = job.kind.narrow(scores.masked_fill(missing, 0))
    out: dict[str, Any] = {"videos": videos.to(job.kind.device)}
    out["scores"] = scores.masked_fill_(missing.to(scores.device), -math.inf)
    if job.kind.numpy:
        out = {name: x.numpy() for name, x in out.items()}
    return TopResult(**out, **vars(job.report(found)))
