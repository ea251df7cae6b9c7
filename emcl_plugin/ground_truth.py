"""Ground truth: relevant pairs of texts and videos, from one-to-one to many-to-many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emcl_plugin.errors import InputTypeError, InputValueError

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class GroundTruth:
    """Relevant pairs of a query and an item, sorted by query.

    Attributes
    ----------
    query, item : (n_pairs,) int
        Indices of rows and columns of the similarity.
    grade : (n_pairs,) float
        Relevance, 1 unless graded. Only nDCG uses it.
    shape : tuple of int
        (queries, items).

    Examples
    --------
    >>> GroundTruth.from_index([0, 0, 1], 2).T.item.tolist()  # two captions, then one
    [0, 1, 2]
    """

    query: Ints
    item: Ints
    grade: Floats
    shape: tuple[int, int]

    @classmethod
    def diagonal(cls, shape: tuple[int, int]) -> GroundTruth:
        """Match text i with video i, the default for square matrices; raise for others."""
        if shape[0] != shape[1]:
            problem = "which text belongs to which video is not known"
            remedy = "give the ground truth: the index of every text's video"
            raise InputValueError(problem, f"{shape[0]} texts and {shape[1]} videos", remedy)
        return cls.from_index(np.arange(shape[0]), shape[1])

    @classmethod
    def from_index(cls, text_to_video: Any, n_video: int) -> GroundTruth:
        """Build from the video index of every text (many texts to one video)."""
        index = _integers(text_to_video, "the ground truth")
        if index.ndim != 1:
            problem = "an index ground truth has one number per text"
            raise InputValueError(problem, f"shape {index.shape}", "pass pairs to from_pairs")
        pairs = np.stack([np.arange(len(index)), index], axis=1)
        return cls.from_pairs(pairs, (len(index), n_video))

    @classmethod
    def from_pairs(
        cls, pairs: Any, shape: tuple[int, int], grade: Any | None = None
    ) -> GroundTruth:
        """Build from (text, video) pairs, (n_pairs, 2); pairs graded 0 or less are dropped.

        Raises
        ------
        InputTypeError
            If indices are not whole numbers.
        InputValueError
            If a pair is outside the matrix or occurs twice, or a grade is not finite.
        """
        table = _integers(pairs, "the ground truth")
        if table.ndim != 2 or table.shape[1] != 2 or len(table) == 0:
            problem = "ground-truth pairs are (n, 2) of text and video"
            remedy = "give one row per right pair, and one pair at least"
            raise InputValueError(problem, f"shape {table.shape}", remedy)
        grades = np.ones(len(table)) if grade is None else np.asarray(grade, dtype=np.float64)
        if not np.isfinite(grades).all():
            first = int((~np.isfinite(grades)).argmax())
            received, remedy = f"pair {first}: {grades[first]}", "grades are numbers, 1 is right"
            raise InputValueError("a relevance grade is not finite", received, remedy)
        for column, side in enumerate(("text", "video")):
            wrong = (table[:, column] < 0) | (table[:, column] >= shape[column])
            if wrong.any():
                first = int(wrong.argmax())
                raise InputValueError(
                    f"the ground truth names a {side} that is not there",
                    f"pair {first}: {side} {table[first, column]} of {shape[column]}",
                    "indices count from 0; are text and video swapped?",
                )
        table, grades = table[grades > 0], grades[grades > 0]
        order = np.lexsort((table[:, 1], table[:, 0]))
        table, grades = table[order], grades[order]
        same = (np.diff(table, axis=0) == 0).all(1)
        if same.any():
            first = int(same.argmax())
            raise InputValueError(
                "the ground truth holds a pair twice", f"text {table[first, 0]}, video "
                f"{table[first, 1]}", "keep one of them",
            )  # fmt: skip
        return cls(table[:, 0], table[:, 1], grades, shape)

    @property
    def T(self) -> GroundTruth:
        """The same pairs with videos as queries."""
        order = np.lexsort((self.query, self.item))
        return GroundTruth(self.item[order], self.query[order], self.grade[order], self.shape[::-1])

    def keep_queries(self, mask: Any) -> GroundTruth:
        """Keep the pairs of queries whose ``mask`` is true; others are not evaluated."""
        kept = np.asarray(mask)
        if kept.shape != (self.shape[0],):
            problem = "a query mask has one entry per query"
            raise InputValueError(problem, f"shape {kept.shape}", f"pass {self.shape[0]} values")
        chosen = kept.astype(bool)[self.query]
        return GroundTruth(self.query[chosen], self.item[chosen], self.grade[chosen], self.shape)


def _integers(given: Any, name: str) -> Ints:
    array = np.asarray(given)
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and (array % 1 == 0).all())
    if not whole:
        raise InputTypeError(
            f"{name} must hold whole numbers", f"dtype {array.dtype}", "indices count from 0"
        )
    return array.astype(np.int64)
