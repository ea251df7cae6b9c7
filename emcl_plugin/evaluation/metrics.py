"""Retrieval metrics: streaming, average ranks for ties, NaN refused.

One pass counts, for every relevant pair, the items that score higher and those that score the
same (:func:`place`). Every metric follows from these counts.

Names of the measures in Python, in JSON and on the command line:

======== ===========================================================================
``R@K``  percentage of queries with a relevant item in the top K; larger is better
``MdR``  median rank of the relevant item (the best of several by default)
``MnR``  mean rank of the relevant item
``MRR``  mean of 1 / rank of the right item
``mAP``  mean average precision; ``mAP@K`` counts relevant items in the top K
``nDCG`` discounted gain, log2 discount, linear gain; ``nDCG@K``
``GM``   geometric mean of R@1, R@5 and R@10
======== ===========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import check_finite
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.errors import InputValueError
from emcl_plugin.ground_truth import Floats, GroundTruth, Ints
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.candidates import Candidates

MEASURES = ("R@1", "R@5", "R@10", "MdR", "MnR")
SEVERAL = ("best", "mean", "worst")

_SORT_FROM = 6  # from so many relevant items per query on, sorting a row is cheaper
_PER_QUERY = re.compile(r"(R|mAP|nDCG)@([1-9]\d*)|MRR|mAP|nDCG|MnR|MdR")


def is_measure(name: str) -> bool:
    """Return whether this is the name of a measure.

    >>> is_measure("R@10"), is_measure("R@0"), is_measure("recall")
    (True, False, False)
    """
    return name == "GM" or _PER_QUERY.fullmatch(name) is not None


@dataclass(frozen=True)
class Placement:
    """Positions of the relevant items of every query.

    Attributes
    ----------
    truth : GroundTruth
        Relevant pairs, in the order of the arrays below.
    above : (n_pairs,) int
        Number of items that score higher.
    level : (n_pairs,) int
        Number of items with the same score, itself included.
    several : {"best", "mean", "worst"}
        Rank of a query with several relevant items, such as a video with several captions:
        that of the best one (the usual protocol), the mean, or that of the worst one.
    """

    truth: GroundTruth
    above: Ints
    level: Ints
    several: str = "best"

    @property
    def queries(self) -> Ints:
        """Indices of the queries with a relevant item; others are not evaluated."""
        return np.unique(self.truth.query)

    def ranks(self) -> Floats:
        """Return the rank of each of :attr:`queries`, from 1; :attr:`several` selects or averages.

        Irrelevant items of the same score count half each (average rank of ties). Relevant items
        do not count against one another.
        """
        query, starts, counts = self.truth.query, self._starts(), self._counts()
        order = np.lexsort((self.above, query))
        group = np.append(True, (np.diff(query[order]) != 0) | (np.diff(self.above[order]) != 0))
        first = np.flatnonzero(group)[np.cumsum(group) - 1]  # of the relevant items of one score
        size = np.diff(np.append(np.flatnonzero(group), len(order)))[np.cumsum(group) - 1]
        better = first - np.repeat(starts, counts)  # relevant items that score higher
        wrong_above = self.above[order] - better
        wrong_level = self.level[order] - size
        ranks = 1 + wrong_above + wrong_level / 2
        if self.several == "mean":
            return np.asarray(np.add.reduceat(ranks, starts) / counts)
        reduce = np.minimum if self.several == "best" else np.maximum
        return np.asarray(reduce.reduceat(ranks, starts))

    def values(self, measure: str) -> Floats:
        """Return the values of :attr:`queries`; their mean (median for MdR) is the metric."""
        match = _PER_QUERY.fullmatch(measure)
        if match is None:
            raise InputValueError(
                "this measure is not known", repr(measure), "R@K, MdR, MnR, MRR, mAP, nDCG, GM"
            )
        cut = int(match[2]) if match[2] else self.truth.shape[1]
        if measure.startswith("R@"):
            return np.where(self.ranks() <= cut, 100.0, 0.0)
        if measure == "MRR":
            return 1 / self.ranks()
        if measure.startswith("mAP"):
            return self._average_precision(cut)
        if measure.startswith("nDCG"):
            return self._ndcg(cut)
        return self.ranks()

    def metric(self, measure: str) -> float:
        """Return the metric over all queries."""
        if measure == "GM":
            return float(np.prod([self.metric(f"R@{k}") for k in (1, 5, 10)]) ** (1 / 3))
        values = self.values(measure)
        if len(values) == 0:
            raise InputValueError(
                "no query has a right item", "an empty ground truth", "check the ids or the mask"
            )
        return float(np.median(values) if measure == "MdR" else values.mean())

    def _average_precision(self, cut: int) -> Floats:
        """Return average precision as in scikit-learn: ties share the precision at their end."""
        reached = self.above + self.level
        order = np.lexsort((reached, self.truth.query))
        starts, counts = self._starts(), self._counts()
        position = np.arange(len(order)) - np.repeat(starts, counts)
        ends = np.append(np.diff(reached[order]) != 0, True)
        ends |= np.append(np.diff(self.truth.query[order]) != 0, True)
        last = np.flatnonzero(ends)[np.searchsorted(np.flatnonzero(ends), np.arange(len(order)))]
        precision = (position[last] + 1) / reached[order]
        precision = np.where(reached[order] <= cut, precision, 0.0)
        return np.add.reduceat(precision, starts) / counts

    def _ndcg(self, cut: int) -> Floats:
        """Return the gain over the ideal gain; ties get their average discount."""
        n = self.truth.shape[1]
        discount = 1 / np.log2(np.arange(n) + 2)
        discount[cut:] = 0
        total = np.concatenate([[0.0], np.cumsum(discount)])
        average = (total[self.above + self.level] - total[self.above]) / self.level
        starts, counts = self._starts(), self._counts()
        gain = np.add.reduceat(self.truth.grade * average, starts)
        order = np.lexsort((-self.truth.grade, self.truth.query))
        position = np.arange(len(order)) - np.repeat(starts, counts)
        ideal = np.add.reduceat(self.truth.grade[order] * discount[position], starts)
        return np.asarray(gain / ideal)

    def _starts(self) -> Ints:
        return np.flatnonzero(np.diff(self.truth.query, prepend=-1))

    def _counts(self) -> Ints:
        return np.diff(np.append(self._starts(), len(self.truth.query)))


def place(source: Similarity, truth: GroundTruth, several: str = "best") -> Placement:
    """Rank every relevant pair in one streaming pass; NaN and infinity are refused."""
    if several not in SEVERAL:
        raise InputValueError(
            "this way with several right items is not known", repr(several), ", ".join(SEVERAL)
        )
    if source.shape != truth.shape:
        problem = "scores and ground truth are of different sizes"
        remedy = "one row per text, one column per video"
        raise InputValueError(problem, f"scores {source.shape}, ground truth {truth.shape}", remedy)
    if isinstance(source, Candidates):
        wanted = (torch.from_numpy(x).to(source.device) for x in (truth.query, truth.item))
        found = [x.cpu().numpy() for x in source.standing(*wanted)]
        return Placement(truth, found[0], found[1], several)
    above = np.zeros(len(truth.query), dtype=np.int64)
    level = np.zeros_like(above)
    bounds = np.searchsorted(truth.query, np.arange(source.shape[0] + 1))
    for start, stop, block in source.blocks():
        check_finite(block, "sim", start)
        pairs = slice(bounds[start], bounds[stop])
        if pairs.start == pairs.stop:
            continue
        rows = torch.from_numpy(truth.query[pairs] - start).to(block.device)
        columns = torch.from_numpy(truth.item[pairs]).to(block.device)
        higher, same = _count(block, rows, columns, np.diff(bounds[start : stop + 1]))
        above[pairs], level[pairs] = higher.cpu().numpy(), same.cpu().numpy()
    above, level = (source.group.sum(torch.from_numpy(x)).numpy() for x in (above, level))
    return Placement(truth, above, level, several)


def _count(
    block: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, per_row: Ints
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the scores in each pair's row that are higher than, and equal to, the pair's."""
    score = block[rows, columns]
    if per_row.max() >= _SORT_FROM:
        ordered = block.sort(dim=1).values
        n = block.shape[1]
        higher, same = torch.empty_like(rows), torch.empty_like(rows)
        ends = np.cumsum(per_row)
        for row, end in enumerate(ends):
            pairs = slice(end - per_row[row], end)
            values = score[pairs].contiguous()
            right = torch.searchsorted(ordered[row], values, right=True)
            higher[pairs] = n - right
            same[pairs] = right - torch.searchsorted(ordered[row], values)
        return higher, same
    higher, same = torch.empty_like(rows), torch.empty_like(rows)
    slot = torch.arange(len(rows), device=rows.device)
    slot = slot - torch.searchsorted(rows, rows)  # 0 for the first relevant item of a row, 1, ...
    for k in range(int(per_row.max())):
        chosen = slot == k
        own = block if bool((per_row > k).all()) else block[rows[chosen]]
        value = score[chosen, None]
        higher[chosen] = (own > value).sum(1)
        same[chosen] = (own == value).sum(1)
    return higher, same


@dataclass(frozen=True)
class Evaluation:
    """Placements of both directions: the queries are the texts, then the videos."""

    text_to_video: Placement
    video_to_text: Placement

    @property
    def directions(self) -> tuple[tuple[str, Placement], ...]:
        """Both placements with their names."""
        return tuple(zip(DIRECTIONS, (self.text_to_video, self.video_to_text), strict=True))

    def to_dict(self, measures: Sequence[str] = MEASURES) -> dict[str, dict[str, Any]]:
        """Return metrics by direction, with the number of queries evaluated and left out."""
        return {
            name: {
                **{measure: placement.metric(measure) for measure in measures},
                "queries": len(placement.queries),
                "left_out": placement.truth.shape[0] - len(placement.queries),
            }
            for name, placement in self.directions
        }


def by_direction(found: Mapping[str, Evaluation]) -> list[tuple[str, str, Placement]]:
    """Return (direction, name, placement) of several evaluations, one direction after the other."""
    return [
        (direction, name, dict(one.directions)[direction])
        for direction in DIRECTIONS
        for name, one in found.items()
    ]


def evaluate(
    source: Similarity, truth: GroundTruth | None = None, several: str = "best"
) -> Evaluation:
    """Rank the relevant items of both directions of (n_text, n_video) scores.

    Without ``truth``, text i belongs to video i; ``several`` is as in :class:`Placement`.
    """
    truth = GroundTruth.diagonal(source.shape) if truth is None else truth
    return Evaluation(place(source, truth, several), place(source.T, truth.T, several))
