"""Compare methods on the same data: ours, its parts and the baselines."""

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
from emcl_plugin.evaluation.metrics import Evaluation, place
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
    "ncl-even": ("even", "NCL as published: every video is requested equally often"),
    "ncl-gentle": ("gentle", "NCL at a higher temperature, marginals relaxed"),
}


@dataclass(frozen=True)
class Row:
    """Results of one method.

    ``protocol`` is "none" (input scores), "transductive" or "bank". ``serves`` is true if the
    method can be exported to an inner-product index. ``seconds`` is the time to correct and
    evaluate both directions, ``hubness`` that of the videos, as results of the texts.
    """

    name: str
    title: str
    protocol: str
    seconds: float
    evaluation: Evaluation
    hubness: Hubness
    serves: bool = True
    note: str = ""

    def mean(self, measure: str) -> float:
        """Return the mean of a metric over both directions."""
        return float(np.mean([p.metric(measure) for _, p in self.evaluation.directions]))

    def gain_over(self, other: Row, measure: str = "R@1") -> tuple[Comparison, Comparison]:
        """Return the paired difference to another method: text -> video, video -> text."""
        pairs = zip(self.evaluation.directions, other.evaluation.directions, strict=True)
        first, second = (
            compare_queries(b.values(measure), a.values(measure)) for (_, a), (_, b) in pairs
        )
        return first, second

    def to_dict(self, measures: Sequence[str]) -> dict[str, Any]:
        """Return the JSON form."""
        out = {name: value for name, value in vars(self).items() if name != "evaluation"}
        return {
            **out,
            "seconds": round(self.seconds, 3),
            "metrics": self.evaluation.to_dict(measures),
            "mean": {measure: self.mean(measure) for measure in measures},
            "hubness": self.hubness.to_dict(),
        }


BANKED = "emcl_plugin-bank"
KNOWN = (*ABLATION, BANKED, *PRIORS, *METHODS)
"""Methods that :func:`compare` can run."""


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
    """Run methods on the same data and measure both directions.

    ``sim``, ``feats``, ``metric``, ``device``, ``memory`` and ``progress`` are as in
    :func:`emcl_plugin.rerank`, ``several`` as in
    :class:`~emcl_plugin.evaluation.metrics.Placement`. Without ``truth``, text i belongs to video
    i. The banks are other texts and videos, (n, D). With ``sim``, baselines that need features or a
    bank are skipped: they would correct the similarity of the features, not ``sim``. Without a
    query bank, methods that can take one use the test queries.

    ``methods`` are names, by default all that the input allows of "input", "+EMCL", "+NCL",
    "emcl_plugin", "emcl_plugin-bank" (fitted on the banks), "ncl-even" and "ncl-gentle" (NCL alone,
    with that prior and without the guard) and :data:`emcl_plugin.baselines.METHODS`. An unknown one
    raises InputValueError.

    Returns
    -------
    rows : list of Row
        In the order of the names.
    skipped : dict of str to str
        Methods that could not run, with what they lack.
    """
    chosen = list(KNOWN if methods is None else methods)
    for name in chosen:
        if name not in KNOWN:
            raise InputValueError("unknown method", repr(name), f"use one of {', '.join(KNOWN)}")
    resources = Resources(device=device, memory=memory)
    job = Job(sim, feats, Settings.of(metric=metric), resources)
    truth = GroundTruth.diagonal(job.shape) if truth is None else truth
    runner = _Runner(job, truth, several, (text_bank, video_bank))
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for done, name in enumerate(chosen, 1):
        lacking = runner.lacking(name)
        if lacking:
            skipped[name] = f"needs {lacking}"
            continue
        rows.append(runner.run(name))
        if progress is not None:
            progress("methods", done, len(chosen))
    return rows, skipped


class _Runner:
    def __init__(
        self, job: Job, truth: GroundTruth, several: str, banks: tuple[Array | None, Array | None]
    ) -> None:
        self.job, self.truth, self.several, self.banks = job, truth, several, banks
        self.forward, self.backward = _directions(job, *banks)

    def lacking(self, name: str) -> str:
        """Return what the method needs and the input lacks; empty if it can run."""
        if name == BANKED:
            ready = self.job.sim is None and any(bank is not None for bank in self.banks)
            return "" if ready else "features and a bank"
        if name in METHODS:
            method = METHODS[name]
            both = [*method.missing(self.forward), *method.missing(self.backward)]
            return ", ".join(dict.fromkeys(both))
        return "features" if name == "+EMCL" and self.job.features is None else ""

    def run(self, name: str) -> Row:
        """Correct both directions with a method and measure the result."""
        if name not in METHODS and name != BANKED:
            return ablation_row(self.job, name, self.forward.scores, self.truth, self.several)
        started, turned = time.perf_counter(), None
        about: dict[str, Any] = {"title": "emcl_plugin, fitted on the banks", "protocol": "bank"}
        if name == BANKED:
            source = correct_by_banks(self.job, *self.banks).source
        else:
            method = METHODS[name]
            protocol = self.forward.protocol if method.bank else "transductive"
            about = {"title": method.title, "protocol": protocol, "serves": method.serves}
            source, turned = method.correct(self.forward), method.correct(self.backward)
        return row_of(name, started, source, self.truth, self.several, turned, **about)


def _directions(
    job: Job, text_bank: Array | None, video_bank: Array | None
) -> tuple[Direction, Direction]:
    # with sim, corrections of the features would change another similarity
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
    """Measure the input, a part of ours or ours: a name in :data:`ABLATION` or :data:`PRIORS`.

    ``found`` is the full correction, if it is known already.
    """
    started = time.perf_counter()
    source, note = before, ""
    title = "input scores" if name == INPUT else name
    if name in PRIORS:
        prior, title = PRIORS[name]
        settings = job.settings.with_only(ncl=True)
        found = job.correct(settings=replace(settings, prior=prior, guard=False))
    elif name != INPUT and found is None:
        emcl, ncl = ABLATION[name]
        found = job.correct(settings=job.settings.with_only(emcl=emcl, ncl=ncl))
    if found is not None:
        source = found.source
        note = "" if found.guard.applied else "returned unchanged by the guard"
    protocol = "none" if name == INPUT else "transductive"
    about: dict[str, Any] = {"title": title, "protocol": protocol, "note": note}
    return row_of(name, started, source, truth, several, **about)


def row_of(
    name: str,
    started: float,
    source: Similarity,
    truth: GroundTruth,
    several: str,
    turned: Similarity | None = None,
    **about: Any,
) -> Row:
    """Measure scores made since ``started``; ``turned`` are those of the videos, if others."""
    turned = source.T if turned is None else turned
    found = Evaluation(place(source, truth, several), place(turned, truth.T, several))
    seconds = time.perf_counter() - started
    return Row(name, seconds=seconds, evaluation=found, hubness=hubness(source), **about)
