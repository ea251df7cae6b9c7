"""Every method on the same data: ours, its parts, and the peers, with what each needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emcl_plugin._internal.arrays import Array
from emcl_plugin._internal.progress import Progress
from emcl_plugin.bank.both_directions import correct_by_banks
from emcl_plugin.baselines import METHODS, Direction
from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.hubness import Hubness, hubness
from emcl_plugin.evaluation.metrics import Evaluation, evaluate, place
from emcl_plugin.evaluation.significance import Comparison
from emcl_plugin.evaluation.significance import compare as compare_queries
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.correct import Correction
from emcl_plugin.pipeline.inputs import FeaturesPair
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.scores import Dense, Features, Scorer, Similarity
from emcl_plugin.scores.memory import kernel_fits

OURS = "emcl_plugin"
INPUT = "input"
ABLATION = {
    INPUT: (False, False),
    "+EMCL": (True, False),
    "+NCL": (False, True),
    OURS: (True, True),
}
PRIORS = {
    "ncl-even": ("even", "NCL as published: every video asked for equally often"),
    "ncl-gentle": ("gentle", "NCL at a higher temperature, marginals relaxed"),
}


@dataclass(frozen=True)
class Row:
    """One method's results.

    Attributes
    ----------
    name, title : str
    protocol : str
        "none" (scores as they came), "transductive" or "bank".
    serves : bool
        Whether it can be exported to an inner-product index.
    seconds : float
        Correction and evaluation of both directions.
    evaluation : Evaluation
    hubness : Hubness
        Of the videos for the texts.
    note : str
    """

    name: str
    title: str
    protocol: str
    serves: bool
    seconds: float
    evaluation: Evaluation
    hubness: Hubness
    note: str = ""

    def mean(self, measure: str) -> float:
        """A metric's mean over both directions."""
        return float(np.mean([p.metric(measure) for _, p in self.evaluation.directions]))

    def gain_over(self, other: Row, measure: str = "R@1") -> tuple[Comparison, Comparison]:
        """The paired difference to another method, text -> video and video -> text."""
        pairs = zip(self.evaluation.directions, other.evaluation.directions, strict=True)
        first, second = (
            compare_queries(b.values(measure), a.values(measure)) for (_, a), (_, b) in pairs
        )
        return first, second

    def to_dict(self, measures: Sequence[str]) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "protocol": self.protocol,
            "serves": self.serves,
            "seconds": round(self.seconds, 3),
            "metrics": self.evaluation.to_dict(measures),
            "mean": {measure: self.mean(measure) for measure in measures},
            "hubness": self.hubness.to_dict(),
            "note": self.note,
        }


BANKED = "emcl_plugin-bank"
KNOWN = (*ABLATION, BANKED, *PRIORS, *METHODS)
"""What :func:`compare` can run."""


def compare(
    sim: Array | Scorer | None = None,
    feats: FeaturesPair | None = None,
    *,
    truth: GroundTruth | None = None,
    text_bank: Array | None = None,
    video_bank: Array | None = None,
    methods: Iterable[str] | None = None,
    several: str = "best",
    metric: str = "cosine",
    device: str | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Row], dict[str, str]]:
    """Run methods on the same data.

    Parameters
    ----------
    sim, feats, metric, device, memory, progress
        As in :func:`emcl_plugin.rerank`.
        With ``sim``, the peers that need features or a bank are left out: theirs would be
        corrections of the features' similarity, not of ``sim``.
    truth : GroundTruth, optional
        Default: text i belongs to video i.
    text_bank, video_bank : (n, dimension), optional
        Other texts and videos, for the methods that use query or gallery banks. Methods that
        can take a query bank use it; without one they use the test queries themselves.
    methods : iterable of str, optional
        Names; default all that the input allows: "input", "+EMCL", "+NCL", "emcl_plugin",
        "emcl_plugin-bank" (fitted on the banks), "ncl-even" and "ncl-gentle" (NCL alone, with
        that prior and without the guard) and the names in
        :data:`emcl_plugin.baselines.METHODS`.
    several : {"best", "mean", "worst"}
        The rank of a query with several right items.

    Returns
    -------
    rows : list of Row
        In the order of the names.
    skipped : dict of str to str
        Methods that could not run, and what they lack.
    """
    resources = Resources(device=device, memory=memory)
    job = Job(sim, feats, Settings.of(metric=metric), resources)
    chosen = list(KNOWN if methods is None else methods)
    for name in chosen:
        if name not in KNOWN:
            raise InputValueError(
                "no method has this name", repr(name), f"use one of {', '.join(KNOWN)}"
            )
    truth = GroundTruth.diagonal(job.shape) if truth is None else truth
    forward, backward = _directions(job, text_bank, video_bank)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for done, name in enumerate(chosen):
        if name == BANKED:
            if job.sim is not None or (text_bank is None and video_bank is None):
                skipped[name] = "needs features and a bank"
                continue
            rows.append(_banked_row(job, text_bank, video_bank, truth, several))
        elif name in ABLATION or name in PRIORS:
            if name == "+EMCL" and job.features is None:
                skipped[name] = "needs features"
                continue
            rows.append(ablation_row(job, name, forward.scores, truth, several))
        else:
            method = METHODS[name]
            lacking = [*method.missing(forward), *method.missing(backward)]
            if lacking:
                skipped[name] = f"needs {', '.join(dict.fromkeys(lacking))}"
                continue
            started = time.perf_counter()
            source = method.correct(forward)
            other = method.correct(backward)
            evaluation = Evaluation(place(source, truth, several), place(other, truth.T, several))
            protocol = forward.protocol if method.bank else "transductive"
            seconds = time.perf_counter() - started
            rows.append(
                Row(
                    name,
                    method.title,
                    protocol,
                    method.serves,
                    seconds,
                    evaluation,
                    hubness(source),
                )
            )
        if progress is not None:
            progress("methods", done + 1, len(chosen))
    return rows, skipped


def _banked_row(
    job: Job, text_bank: Array | None, video_bank: Array | None, truth: GroundTruth, several: str
) -> Row:
    started = time.perf_counter()
    found = correct_by_banks(job, text_bank, video_bank)
    evaluation = evaluate(found.source, truth, several)
    seconds = time.perf_counter() - started
    title = "emcl_plugin, fitted on the banks"
    return Row(BANKED, title, "bank", True, seconds, evaluation, hubness(found.source))


def _directions(
    job: Job, text_bank: Array | None, video_bank: Array | None
) -> tuple[Direction, Direction]:
    # the peers' corrections of features and banks would be those of another similarity than sim
    text, video = (job.features or (None, None)) if job.sim is None else (None, None)
    banks: tuple[Features | None, Features | None] = (None, None)
    if text is not None:
        banks = job.bank(text_bank, "text_bank"), job.bank(video_bank, "video_bank")
    scores = job.source()
    if not isinstance(scores, Dense) and kernel_fits(scores.shape, job.dtype, job.memory // 2):
        scores = Dense(scores.dense(), dtype=job.dtype, device=job.device, memory=job.memory)
    return (
        Direction(scores, text, video, banks[0], banks[1]),
        Direction(scores.T, video, text, banks[1], banks[0]),
    )


def ablation_row(
    job: Job,
    name: str,
    before: Similarity,
    truth: GroundTruth,
    several: str,
    found: Correction | None = None,
) -> Row:
    """The input, one part of ours, or ours: a name in :data:`ABLATION` or :data:`PRIORS`.

    ``found`` is the whole correction where it is already there.
    """
    started = time.perf_counter()
    source, note = before, ""
    title = "the scores as they are" if name == INPUT else name
    if name in PRIORS:
        prior, title = PRIORS[name]
        settings = job.settings.with_only(ncl=True)
        found = job.correct(settings=replace(settings, prior=prior, guard=False))
    elif name != INPUT and found is None:
        emcl, ncl = ABLATION[name]
        found = job.correct(settings=job.settings.with_only(emcl=emcl, ncl=ncl))
    if found is not None:
        source = found.source
        note = "" if found.guard.applied else "left as it was by the guard"
    evaluation = evaluate(source, truth, several)
    seconds = time.perf_counter() - started
    protocol = "none" if name == INPUT else "transductive"
    return Row(name, title, protocol, True, seconds, evaluation, hubness(source), note)
