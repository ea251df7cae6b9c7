"""Ablation of a run with ground truth, as the report page shows it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import old_names
from emcl_plugin.bank.both_directions import Banked
from emcl_plugin.baselines.vectors import Changed
from emcl_plugin.evaluation.compare import ABLATION, INPUT, OURS, Row, ablation_row, row_of
from emcl_plugin.evaluation.hubness import Hubness, ModalityGap, hubness, modality_gap
from emcl_plugin.evaluation.metrics import MEASURES, evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.correct import Correction
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.report import Report
from emcl_plugin.pipeline.settings import Resources
from emcl_plugin.scores import Features, Scorer, Similarity


@dataclass(frozen=True)
class Names:
    """Display names of the items, and a URL (thumbnail or video) per video; may be empty."""

    text: Sequence[str] = field(default_factory=tuple)
    video: Sequence[str] = field(default_factory=tuple)
    video_links: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Ablation:
    """Measurements of a run with ground truth.

    Attributes
    ----------
    report, truth, names
        What the correction did, the right pairs, the names of the items.
    rows : list of Row
        "input", "+EMCL" (with features), "+NCL", "emcl_plugin".
    before, after : Similarity
        (texts, videos).
    hubness : dict of str to (Hubness, Hubness)
        Before and after, by direction: of the videos and of the texts.
    gap : (ModalityGap, ModalityGap) or None
        Of the input features and after EMCL (NCL does not move features).
    """

    report: Report
    rows: list[Row]
    before: Similarity
    after: Similarity
    hubness: dict[str, tuple[Hubness, Hubness]]
    gap: tuple[ModalityGap, ModalityGap] | None
    truth: GroundTruth
    names: Names

    def row(self, name: str) -> Row:
        """Return the row with this name."""
        return next(row for row in self.rows if row.name == name)

    def gains(self, measure: str = "R@1") -> dict[str, Any]:
        """Compare after with before, by direction, with interval and test."""
        found = self.row(OURS).gain_over(self.row(INPUT), measure)
        return dict(zip(DIRECTIONS, found, strict=True))

    def to_dict(self, measures: Sequence[str] = MEASURES) -> dict[str, Any]:
        """Return the JSON form."""
        when = ("before", "after")
        gap = self.gap and dict(zip(when, (dict(vars(found)) for found in self.gap), strict=True))
        return {
            "ablation": [row.to_dict(measures) for row in self.rows],
            "gain": {d: {"measure": "R@1", **g.to_dict()} for d, g in self.gains().items()},
            "hubness": {
                d: {"before": before.to_dict(), "after": after.to_dict()}
                for d, (before, after) in self.hubness.items()
            },
            "modality_gap": gap,
        }


def ablation(
    job: Job,
    found: Correction | Banked,
    truth: GroundTruth,
    *,
    several: str = "best",
    names: Names | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """Measure a correction and its parts against the ground truth.

    ``found`` is the result of the job, or of banks (which has no ablation); ``several`` is as in
    :class:`~emcl_plugin.evaluation.metrics.Placement`.
    """
    banked = isinstance(found, Banked)
    has = {
        "+EMCL": not banked and job.settings.emcl is not None and job.has_features,
        "+NCL": not banked and job.settings.normalises,
    }
    kept = [name for name in ABLATION if has.get(name, True)]
    before, after = found.base, found.source
    rows = []
    for done, name in enumerate(kept, 1):
        if isinstance(found, Banked):
            ours = name == OURS
            source, title = (after, OURS) if ours else (before, "input scores")
            about: dict[str, Any] = {"title": title, "protocol": "bank" if ours else "none"}
            rows.append(row_of(name, time.perf_counter(), source, truth, several, **about))
        else:
            whole = found if name == OURS else None
            rows.append(ablation_row(job, name, before, truth, several, whole))
        if progress is not None:
            progress("measuring", done, len(kept))
    spread = {
        DIRECTIONS[0]: (rows[0].hubness, rows[-1].hubness),
        DIRECTIONS[1]: (hubness(before.T), hubness(after.T)),
    }
    gap = None
    if job.features is not None and not isinstance(found, Banked):
        pairs = (truth.query, truth.item)
        gap = modality_gap(*job.features, pairs), modality_gap(*_mapped(job, found), pairs)
    report = found.report if isinstance(found, Banked) else job.report(found)
    return Ablation(report, rows, before, after, spread, gap, truth, names or Names())


def _mapped(job: Job, found: Correction) -> tuple[Features, Features]:
    assert job.features is not None
    text, video = job.features
    subspaces, report = found.subspaces, found.emcl
    if subspaces is None or report is None or report.strength == 0 or not found.guard.applied:
        return text, video
    emcl = job.settings.emcl
    unit = job.sim is None and emcl is not None and emcl.renormalize
    unit = unit and text.metric == "cosine"

    def change(x: torch.Tensor, _: int) -> torch.Tensor:
        return subspaces.apply(x, report.strength, renormalize=unit)

    return Changed(text, change), Changed(video, change)


def _shuffled(given: Array | Scorer, rows: torch.Tensor, columns: torch.Tensor) -> Array | Scorer:
    if isinstance(given, np.ndarray | torch.Tensor):
        return given[rows][:, columns]
    return given.take(rows, columns)


def permutation_check(job: Job, found: Correction, truth: GroundTruth | None = None) -> float:
    """Return the share of queries, of both directions, whose rank changes when items are shuffled.

    0 unless the result depends on the order of the items; ranks within rounding may swap.
    Without ground truth, top-1 results are compared instead of ranks. Holds a shuffled copy of
    the input in memory.
    """
    rng = np.random.default_rng(0)
    order = [rng.permutation(n) for n in job.shape]
    rows, columns = (torch.from_numpy(x) for x in order)
    sides = None if job.features is None else tuple(side.array for side in job.features)
    given = job.given
    shuffled = Job(
        None if given is None else _shuffled(given, rows, columns),
        None if sides is None else (sides[0][rows], sides[1][columns]),
        job.settings,
        Resources(device=job.device, dtype=job.kind.dtype, memory=job.memory),
    ).correct()
    if truth is None:
        rows, columns = rows.to(job.device), columns.to(job.device)
        texts = columns[shuffled.after.video_of_text] != found.after.video_of_text[rows]
        videos = rows[shuffled.after.text_of_video] != found.after.text_of_video[columns]
        return float((texts.sum() + videos.sum()) / (len(texts) + len(videos)))
    new = [np.argsort(x) for x in order]  # where each item went
    pairs = np.stack([new[0][truth.query], new[1][truth.item]], axis=1)
    moved = evaluate(shuffled.source, GroundTruth.from_pairs(pairs, truth.shape, truth.grade))
    still = evaluate(found.source, truth)
    changed = total = 0
    for (_, a), (_, b), place in zip(still.directions, moved.directions, new, strict=True):
        there = np.argsort(np.argsort(place[a.queries]))  # b's queries are sorted by new place
        changed += int((a.ranks() != b.ranks()[there]).sum())
        total += len(there)
    return changed / total


__getattr__ = old_names(
    __name__, {"Study": "Ablation", "order_leaks": "permutation_check", "study": "ablation"}
)
