"""Both directions by banks in one matrix: what `emcl-rerank --text-bank --video-bank` runs.

The text bank gives the videos' biases g, the video bank the texts' biases f, each as in
:mod:`emcl_plugin.bank`. With gates s of the texts and s' of the videos, all of

    S_ij + s_i tau g_j + s'_j tau f_i  =  < [M t_i, s_i, tau f_i],  [M v_j, tau g_j, s'_j] >

where EMCL's map M is fitted once, for text -> video (or for the only direction). The ranking of
videos for a text must not depend on s'_j, nor that of texts for a video on s_i. So with both
banks all gates are open. Instead, one in-domain score per direction
(:class:`~emcl_plugin.bank.BankReport`) shrinks the biases: the gallery bank of each direction is
the query bank of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import warn
from emcl_plugin.bank import BankReport, fit_corrector, overlap_message
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputValueError, OverlapWarning
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.report import Report
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.batch_invariant import BatchInvariantPair


@dataclass(frozen=True)
class Banked:
    """Scores before (``base``) and after the correction, (texts, videos), and the report.

    By direction: the correctors; gates, the mean of s over the queries, which says how far they
    resemble the bank; and seen, the number of queries that are in their bank.
    """

    base: Similarity
    source: Similarity
    report: Report
    correctors: dict[str, Corrector]
    gates: dict[str, float]
    seen: dict[str, int]


@torch.no_grad()
def correct_by_banks(
    job: Job,
    text_bank: Array | None,
    video_bank: Array | None,
    *,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    progress: Progress | None = None,
) -> Banked:
    """Correct a job's features by other texts and other videos, (n, D), at least one of the two.

    The job has no ``sim``; its prior, guard, metric and memory are used. ``emcl``, ``ncl`` and
    ``progress`` are as in :func:`~emcl_plugin.bank.fit_corrector`.

    Raises
    ------
    InputValueError, InputTypeError
        There is no bank, the job has ``sim`` or no features, or dimensions differ.

    Warns
    -----
    OverlapWarning
        Some texts are in the text bank, or some videos in the video bank.
    """
    text, video, texts, videos = _vectors(job, text_bank, video_bank)
    both = texts is not None and videos is not None
    metric = job.settings.metric
    found: dict[str, tuple[Corrector, BankReport]] = {}
    options: dict[str, Any] = {"ncl": ncl, "memory": job.memory, "progress": progress}
    options |= {"prior": job.settings.prior, "guard": job.settings.guard}
    fit: Any = partial(fit_corrector, **options)
    seen, gates = {}, {}
    forward, backward = DIRECTIONS
    if texts is not None:
        found[forward] = fit(texts, video, gallery_bank=videos, emcl=emcl, metric=metric)
        first = found[forward][0]
        seen[forward] = first.seen(text)
        left = torch.cat(list(first.vectors(text, gate=not both)))  # [M t_i, s_i]
        right = first.vectors_of_gallery()  # [M v_j, tau g_j]
        gates[forward] = float(left[:, -1].mean())
        text, video, texts = left[:, :-1], right[:, :-1], first.map(texts)
    if videos is not None:
        if texts is not None:
            videos, emcl = first.map(videos), None
            metric = metric if first.renormalize or not len(first.change) else "dot"
        found[backward] = fit(videos, text, gallery_bank=texts, emcl=emcl, metric=metric)
        second = found[backward][0]
        seen[backward] = second.seen(video)
        asks = torch.cat(list(second.vectors(video, gate=not both)))  # [M v_j, s'_j]
        gates[backward] = float(asks[:, -1].mean())
        if texts is None:
            left, right = second.vectors_of_gallery(), asks
        else:
            left = torch.cat([left, second.bias[:, None]], 1)
            right = torch.cat([right, asks[:, -1:]], 1)
    source = BatchInvariantPair(left, right)
    for direction, total, what in zip(DIRECTIONS, job.shape, ("texts", "videos"), strict=True):
        if count := seen.get(direction):
            warn(overlap_message(count, total, what), OverlapWarning)
    base = job.source()
    report = _report(job, base, source, {way: report for way, (_, report) in found.items()})
    correctors = {way: corrector for way, (corrector, _) in found.items()}
    return Banked(base, source, report, correctors, gates, seen)


def _vectors(
    job: Job, text_bank: Array | None, video_bank: Array | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    if job.features is None or job.sim is not None:
        problem = "banks correct embeddings, not a similarity"
        remedy = "pass only the embeddings of both sides"
        raise InputValueError(problem, "sim" if job.features is None else "sim and feats", remedy)
    banks = job.bank(text_bank, "text_bank"), job.bank(video_bank, "video_bank")
    if banks == (None, None):
        raise InputValueError("there is no bank", "none", "pass text_bank, video_bank or both")
    text, video = (side.rows(0, side.shape[0]) for side in job.features)
    texts, videos = (None if side is None else side.rows(0, side.shape[0]) for side in banks)
    return text, video, texts, videos


def _report(job: Job, base: Similarity, source: Similarity, banks: dict[str, BankReport]) -> Report:
    """Return the common report; each bank's own is in ``banks``."""
    main = next(iter(banks.values()))
    return Report(
        shape=job.shape,
        protocol="bank",
        score_std=main.score_std,
        emcl=main.emcl,
        biases=None,
        probes=None,
        prior=None,
        guard=max((bank.guard for bank in banks.values()), key=lambda guard: guard.strength),
        hubs_before=nearest(base).hubs(),
        hubs_after=nearest(source).hubs(),
        repeated_texts=job.repeated[0],
        repeated_videos=job.repeated[1],
        banks=banks,
    )
