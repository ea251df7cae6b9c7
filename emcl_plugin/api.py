"""`rerank`, `rescore` and `rerank_top`: correct the scores of known texts (transductive)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, overload

import numpy as np
import torch

from emcl_plugin._internal.arrays import Arr, Array
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

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing's from Python 3.11 on

Arr_co = TypeVar("Arr_co", np.ndarray[Any, Any], torch.Tensor, Array, covariant=True)


class _Options(TypedDict, total=False):
    """The keyword arguments of `rerank` and `rescore`, for their overloads."""

    emcl: EMCL | str | None
    ncl: NCL | str | None
    prior: str
    guard: bool
    metric: str
    device: str | torch.device | None
    memory: int | None
    progress: Progress | None
    process_group: Any
    resume: str | Path | None


@dataclass(frozen=True, kw_only=True)
class RerankResult(Report, Generic[Arr_co]):
    """Re-scored similarity and the report on it.

    Attributes
    ----------
    scores : (n_text, n_video) array or tensor
        S + tau (f_i + g_j) after EMCL, in the library, dtype and device of the input. Larger is
        better; rank rows for text -> video and columns for video -> text.

    Examples
    --------
    >>> import numpy as np
    >>> result = rescore(np.eye(3, dtype="float32"))
    >>> result.scores.shape, result.shape, result.emcl  # no features, no EMCL
    ((3, 3), (3, 3), None)
    """

    scores: Arr_co


@overload
def rerank(sim: Arr, feats: FeaturesPair | None = None, **options: Unpack[_Options]) -> Arr: ...
@overload
def rerank(sim: None, feats: tuple[Arr, Arr], **options: Unpack[_Options]) -> Arr: ...
@overload
def rerank(*, feats: tuple[Arr, Arr], **options: Unpack[_Options]) -> Arr: ...
@overload
def rerank(
    sim: Array | Scorer | None = None,
    feats: FeaturesPair | None = None,
    **options: Unpack[_Options],
) -> Array: ...
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
    """Return corrected text-video scores, without training.

    Parameters
    ----------
    sim : (n_text, n_video) array or tensor, optional
        Similarity, larger is better, at any scale. Instead of a matrix pass
        :class:`emcl_plugin.emcl.experts.Experts` (MMT) or
        :class:`emcl_plugin.scores.tokens.Tokens` (DRL) to compute it in blocks.
    feats : (text, video), optional
        Embeddings of shape (n_text, dimension) and (n_video, dimension), normalised or not. Give
        at least one of ``sim`` and ``feats``. Alone, the cosine of ``feats`` is corrected; with
        ``sim``, EMCL uses them to correct ``sim``.
    emcl : "auto", None, preset name or EMCL, default "auto"
        "auto": with NCL off, the strength that gives most mutual nearest neighbours; else 0,
        because NCL finds the same pairs. None: no EMCL.
    ncl : "auto", None or NCL, default "auto"
        "auto" uses a temperature of 0.15 standard deviations of the scores. None: no NCL.
    prior : {"auto", "even", "gentle", "off"}, default "auto"
        How often each video is assumed to be requested. "even": equally often, as in benchmarks
        and in the NCL paper. "auto": estimated from the scores. "gentle": unknown, so little
        more than hubs is corrected. "off": no NCL. See :mod:`emcl_plugin.evidence.prior`.
    guard : bool, default True
        Limit the correction to what mutual nearest neighbours support; leave the scores unchanged
        where there are no hubs. A handful of texts is too few to test.
    metric : {"cosine", "dot"}, default "cosine"
        Similarity of features.
    device : str or torch.device, optional
        Default: the device of the tensors; for NumPy input CUDA if available.
    memory : int, optional
        Budget in bytes; scores that exceed it are recomputed instead of stored. Default: half of
        the free memory.
    progress : callable, optional
        Called with (stage, done, total).
    process_group : torch.distributed.ProcessGroup, optional
        An initialised group that shares the work (``torch.distributed.group.WORLD``). Each
        process passes its own texts (rows of ``sim`` or embeddings) and all videos, and gets the
        rows of its own texts. Default: this process alone.
    resume : path, optional
        Checkpoint file, written at most every 10 seconds. If it exists, the run continues from
        it; a completed run removes it. See :mod:`emcl_plugin.pipeline.checkpoint`.

    Returns
    -------
    (n_text, n_video) array or tensor
        In the library, dtype and device of the input.

    Raises
    ------
    InputValueError, InputTypeError
        An argument is wrong. Both are EmclError; the first is also a ValueError, the second a
        TypeError.
    InputFileError
        ``resume`` is damaged or belongs to another run.
    MemoryBudgetError
        The result does not fit into memory.
    WorkerError
        Another process of the group failed.

    Warns
    -----
    ConvergenceWarning
        Sinkhorn stopped before its marginals were within the tolerance.
    ScaleWarning
        The temperature does not suit the spread of the scores.
    RepeatedItemsWarning
        Some texts or videos are exact duplicates of others.

    Notes
    -----
    The protocol is transductive: the biases are computed from all texts at once.
    Sources: arXiv 2211.11427 (EMCL), arXiv 2212.11790 (NCL).

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> sim.argmax(1)  # video 0 is a hub
    array([0, 0, 0])
    >>> rerank(sim, prior="even", guard=False).argmax(1)  # too few texts for the guard
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


@overload
def rescore(
    sim: Arr, feats: FeaturesPair | None = None, **options: Unpack[_Options]
) -> RerankResult[Arr]: ...
@overload
def rescore(
    sim: None, feats: tuple[Arr, Arr], **options: Unpack[_Options]
) -> RerankResult[Arr]: ...
@overload
def rescore(*, feats: tuple[Arr, Arr], **options: Unpack[_Options]) -> RerankResult[Arr]: ...
@overload
def rescore(
    sim: Array | Scorer | None = None,
    feats: FeaturesPair | None = None,
    **options: Unpack[_Options],
) -> RerankResult[Array]: ...
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
) -> RerankResult[Any]:
    """Return corrected scores with the report: biases, temperature, strength, guard, hubs.

    Parameters
    ----------
    sim, feats, emcl, ncl, prior, guard, metric, device, memory, progress, process_group, resume
        As in :func:`rerank`.

    Returns
    -------
    RerankResult
        The scores and the report.

    Raises
    ------
    EmclError
        As in :func:`rerank`.

    Warns
    -----
    EmclWarning
        As in :func:`rerank`.

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> result = rescore(sim)
    >>> result.protocol, result.hubs_before.largest, result.guard.applied  # too few
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
class TopResult(Report, Generic[Arr_co]):
    """The best videos of every text, and the report.

    Attributes
    ----------
    scores : (n_text, k) array or tensor
        Corrected scores, best first.
    videos : (n_text, k) array or tensor of int
        Their indices; -1, with a score of -infinity, where an approximate index found fewer.

    Examples
    --------
    >>> import numpy as np
    >>> found = rerank_top((np.eye(3, 4), np.eye(3, 4)), k=1)
    >>> found.videos[:, 0], found.scores.shape
    (array([0, 1, 2]), (3, 1))
    """

    scores: Arr_co
    videos: Arr_co


def rerank_top(
    feats: tuple[Arr, Arr],
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
) -> TopResult[Arr]:
    """Correct the scores of candidate pairs only, and return the best videos of every text.

    FAISS searches the candidates; after that, work and memory grow with
    (n_text + n_video) * candidates. ``coverage`` of the result estimates the recall from 256
    texts that are scored in full.

    Parameters
    ----------
    feats : (text, video)
        Embeddings of shape (n_text, dimension) and (n_video, dimension), memory-mapped or not.
    k : int, default 10
        At most ``candidates`` and the number of videos.
    candidates : int, default 100
        Videos per text, and texts per video. More come closer to the dense result.
    index : str, default "Flat"
        FAISS factory string. "Flat" is exact; others, such as "HNSW32" or
        "IVF4096,Flat;nprobe=32", are faster and may miss pairs, which the recall shows.
    emcl, ncl, prior, guard, metric, device, memory, progress, resume
        As in :func:`emcl_plugin.rerank`.

    Returns
    -------
    TopResult
        Protocol "transductive". For video -> text pass ``feats`` the other way round.

    Raises
    ------
    EmclError
        As in :func:`emcl_plugin.rerank`.
    InputValueError
        ``k`` is below 1 or above ``candidates``.

    Warns
    -----
    EmclWarning
        As in :func:`emcl_plugin.rerank`.

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
            "k must be between 1 and the number of candidates", f"k={k}, candidates={candidates}",
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
