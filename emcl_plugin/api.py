"""The front door where all texts are known: `rerank` gives scores, `rescore` tells all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin._internal.progress import Progress
from emcl_plugin.distributed.process_group import SINGLE_PROCESS
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputValueError
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.checkpoint import journal
from emcl_plugin.pipeline.inputs import FeaturesPair
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.report import Report
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.pipeline.shards import shared
from emcl_plugin.scores import Scorer
from emcl_plugin.scores.candidates import Candidates


@dataclass(frozen=True, kw_only=True)
class RerankResult(Report):
    """Re-scored similarity and how it came about.

    Attributes
    ----------
    scores : (n_text, n_video) array or tensor
        S + tau (f_i + g_j) after EMCL, of the library, dtype and device that came in. Larger is
        better; rank rows for text -> video and columns for video -> text.

    Examples
    --------
    >>> import numpy as np
    >>> result = rescore(np.eye(3, dtype="float32"))
    >>> result.scores.shape, result.shape, result.emcl  # no features, no EMCL
    ((3, 3), (3, 3), None)
    """

    scores: Array


def rerank(
    sim: Array | Scorer | None = None,
    feats: FeaturesPair | None = None,
    *,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    process_group: Any = None,
    resume: str | Path | None = None,
) -> Array:
    """Re-score a text-video similarity without training; the scores of :func:`rescore`.

    Parameters
    ----------
    sim : (n_text, n_video) array or tensor, optional
        Similarity, larger is better, at any scale. Where it is no inner product of two vectors
        it can be computed from its parts, in blocks:
        :class:`emcl_plugin.emcl.experts.Experts` (MMT) and
        :class:`emcl_plugin.scores.tokens.Tokens` (DRL) stand in its place.
    feats : (text, video), optional
        Embeddings of shape (n_text, dimension) and (n_video, dimension); they need not be
        normalised. At least one of ``sim`` and ``feats``: alone, their cosine is corrected;
        with ``sim`` they are used to correct that similarity.
    emcl : "auto", None, preset name or EMCL, default "auto"
        "auto" chooses the strength by mutual nearest neighbours. None leaves EMCL out.
    ncl : "auto", None or NCL, default "auto"
        "auto" is a temperature of 0.15 standard deviations. None leaves NCL out.
    prior : {"auto", "even", "gentle", "off"}, default "auto"
        What to assume about how often each video is asked for. NCL as published assumes that
        all are asked for equally often ("even"), which benchmarks are and the world is not.
        "auto" finds out from the scores, "gentle" corrects for hubs and little else, "off"
        leaves NCL out. See :mod:`emcl_plugin.evidence.prior`.
    guard : bool, default True
        Apply no more than the mutual nearest neighbours bear out, and nothing where there are
        no hubs to correct. It wants evidence: of a handful of texts nothing can be told.
    metric : {"cosine", "dot"}, default "cosine"
        Similarity of features.
    device : str or torch.device, optional
        Where to compute. Default: where the tensors are; for NumPy input CUDA if there is one.
    memory : int, optional
        Bytes to keep within; beyond it scores are recomputed instead of stored. Default: half
        of what is free.
    progress : callable, optional
        Called with (stage, done, total).
    process_group : torch.distributed.ProcessGroup, optional
        Of processes that share the work, already initialised
        (``torch.distributed.group.WORLD``). Each passes its own texts, their rows of ``sim``
        or their embeddings, and all videos, and gets the rows of its own texts. Default: this
        process alone, whatever is initialised.
    resume : path, optional
        A file in which the run keeps where it stands, after every iteration and at most every 10
        seconds. If it is there, the run goes on from it; when the scores are there, it is
        removed. See :mod:`emcl_plugin.pipeline.checkpoint`.

    Returns
    -------
    (n_text, n_video) array or tensor
        Of the library, dtype and device that came in.

    Raises
    ------
    InputValueError, InputTypeError
        What is wrong, what came in and what to do. Both are subclasses of EmclError, the first
        also of ValueError, the second of TypeError.
    MemoryBudgetError
        If a dense result does not fit into the memory.

    Notes
    -----
    The protocol is transductive: all texts are used at once to compute the biases.
    Sources: arXiv 2211.11427 (EMCL), arXiv 2212.11790 (NCL).

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> sim.argmax(1)  # video 0 is everybody's best
    array([0, 0, 0])
    >>> rerank(sim, prior="even", guard=False).argmax(1)  # three texts are no evidence
    array([0, 1, 2])
    """
    return rescore(
        sim,
        feats,
        emcl=emcl,
        ncl=ncl,
        prior=prior,
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
        progress=progress,
        process_group=process_group,
        resume=resume,
    ).scores


def rescore(
    sim: Array | Scorer | None = None,
    feats: FeaturesPair | None = None,
    *,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    process_group: Any = None,
    resume: str | Path | None = None,
) -> RerankResult:
    """As :func:`rerank`, and tell everything: biases, temperature, strength, guard, hubs.

    Parameters
    ----------
    sim, feats, emcl, ncl, prior, guard, metric, device, memory, progress, process_group, resume
        As in :func:`rerank`.

    Returns
    -------
    RerankResult
        The scores, and how they came about.

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> result = rescore(sim)
    >>> result.protocol, result.hubs_before.largest, result.guard.applied  # so few show nothing
    ('transductive', 3, False)
    """
    group = SINGLE_PROCESS
    if process_group is not None:
        group, feats = shared(process_group, sim, feats)

    def prepare() -> Job:
        settings = Settings.of(emcl, ncl, prior, guard, metric)
        job = Job(sim, feats, settings, Resources(device=device, memory=memory, group=group))
        job.require_dense()
        return job

    job = group.together(prepare)
    with journal(job, resume) as kept:
        report, blocks = job.run(progress, kept)
        return RerankResult(scores=job.collect(blocks), **vars(report))


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
    >>> from emcl_plugin.data.demo import load_demo
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
    settings = Settings.of(emcl, ncl, prior, guard, metric)
    resources = Resources(device=device, memory=memory)
    job = Job(None, feats, settings, resources, candidates=candidates, index=index)
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
