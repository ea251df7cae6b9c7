"""Collector: features of an evaluation loop, in one process or several.

Distributed samplers repeat samples so that all processes have the same number. Repeated ids are
dropped, and rows are sorted by id, so that the result does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import distributed

from emcl_plugin._internal.arrays import check_finite, check_matrix, describe
from emcl_plugin.adapters.base import Adapter
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.io.parts import natural

Key: TypeAlias = "str | int"
"""An id, or the row number without ids."""
Row: TypeAlias = "tuple[np.ndarray[Any, Any], str | None]"
"""A vector and, for a text, the id of its video."""

SIDES = ("text", "video")
ROUNDING = 0.05
"""Largest relative distance that bfloat16 rounding in a deep network explains."""


class Collected(Adapter):
    """Contents of a :class:`Collector`: features sorted by id, and the ground truth.

    Parameters
    ----------
    texts, videos : dict
        By id, or by row number without ids: the vector and, for a text, the id of its video.
    """

    NAME = "collected"

    def __init__(self, texts: dict[Key, Row], videos: dict[Key, Row]) -> None:
        self.notes = []
        texts, videos = _in_order(texts), _in_order(videos)
        text, video = (np.stack([x for x, _ in rows.values()]) for rows in (texts, videos))
        self.features = text, video
        self.text_ids, self.video_ids = _ids(texts), _ids(videos)
        right = [of for _, of in texts.values() if of is not None]
        if right:
            self.ground_truth = _truth(right, videos)
        elif self.text_ids is None and self.video_ids is None and len(text) == len(video):
            self.ground_truth = GroundTruth.diagonal(self.shape)
            self.notes.append("no ids: text i is assumed to belong to video i")
        else:
            self.notes.append("no ground truth: the texts have no video ids")


class Collector:
    """Collect features in any evaluation loop, to re-score them after it.

    Examples
    --------
    >>> collector = Collector()
    >>> for video in ("v10", "v9"):  # a batch each: two captions of one video
    ...     collector.add(text=np.eye(2, 3), ids=[video, video])
    ...     collector.add(video=np.ones((1, 3)), ids=[video])
    >>> found = collector.finish()
    >>> found.video_ids, found.ground_truth.item.tolist()
    (('v9', 'v10'), [0, 0, 1, 1])
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Remove all rows, for the next epoch."""
        self._rows: dict[str, dict[Key, Row]] = {side: {} for side in SIDES}

    def add(
        self,
        *,
        text: Any = None,
        video: Any = None,
        ids: Any = None,
        text_ids: Any = None,
        video_ids: Any = None,
    ) -> None:
        """Add a copy of a batch, on the CPU.

        Parameters
        ----------
        text, video : (n, D) array or tensor, optional
            At least one of the two. bfloat16 is converted to float32.
        ids : (n,) sequence of str or int, optional
            The video id of every row of text and of video. Default: row i of all text belongs to
            row i of all video.
        text_ids : (n,) sequence of str or int, optional
            The id of every text. Texts that were added already are dropped. Required with several
            processes; otherwise all texts are kept by default.
        video_ids : (n,) sequence of str or int, optional
            The id of every row of video, if different from ``ids``. Videos that were added
            already are dropped.

        Raises
        ------
        InputTypeError, InputValueError
            Empty batch, changed dimension, number of ids other than rows, ids in some batches
            only, or an id whose vector or video changed. Nothing of the batch is added then.
        """
        if text is None and video is None:
            raise InputValueError(
                "the batch is empty", "neither text nor video", "pass at least one of them"
            )
        for side, rows, own in (("text", text, text_ids), ("video", video, video_ids)):
            if rows is None and own is not None:
                raise InputValueError(
                    f"{side}_ids without {side}", f"{side}_ids", f"pass {side}, too"
                )
        fresh = {}
        if text is not None:
            of = video_ids if ids is None else ids
            fresh["text"] = self._batch("text", text, text_ids, of)
        if video is not None:
            fresh["video"] = self._batch("video", video, ids if video_ids is None else video_ids)
        for side, rows in fresh.items():
            self._rows[side].update(rows)

    def finish(self) -> Collected:
        """Return all rows added so far; with several processes, each must call it and gets all.

        Raise InputValueError, in all processes, if there are no texts or no videos, a text is
        without its video, or, with several processes, texts or videos have no ids.
        """
        found = self._rows
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            if len(parts) > 1:
                distributed.all_gather_object(parts, found)
                found = _joined(parts)
        for side, rows in found.items():
            if not rows:
                received = ", ".join(f"{len(found[side])} {side}s" for side in SIDES)
                remedy = "call add(text=..., video=..., ids=...) with every batch"
                raise InputValueError(f"no {side} was added", received, remedy)
        return Collected(found["text"], found["video"])

    def _batch(self, side: str, given: Any, ids: Any, of: Any = None) -> dict[Key, Row]:
        known, vectors = self._rows[side], _vectors(given, side)
        numbers = range(len(known), len(known) + len(vectors))
        keys: Sequence[Key] = _names(ids, len(vectors), side) or numbers
        right: Sequence[str | None] = _names(of, len(vectors), side) or [None] * len(vectors)
        copies = (vector.copy() for vector in vectors)  # views would keep dropped rows alive
        return _fresh(known, zip(keys, zip(copies, right, strict=True), strict=True), side)


def _vectors(given: Any, side: str) -> np.ndarray[Any, Any]:
    rows = check_matrix(given, side)
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu()
        rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    rows = np.array(rows, dtype=rows.dtype.newbyteorder("="))
    check_finite(torch.from_numpy(rows), side, 0)
    return rows


def _names(given: Any, count: int, side: str) -> Sequence[str] | None:
    if given is None:
        return None
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InputTypeError("ids is not a list", describe(given), "pass a list of str or int")
    names = [x.item() if isinstance(x, torch.Tensor) and x.ndim == 0 else x for x in values]
    if wrong := [x for x in names if not isinstance(x, str | Integral)]:
        raise InputTypeError(
            "an id is neither a string nor an integer", repr(wrong[0]), "pass (n,) ids"
        )
    if len(names) != count:
        problem = f"the ids do not match the rows of {side}"
        remedy = "pass one id per row; if text and video have different rows, pass video_ids too"
        raise InputValueError(problem, f"{len(names)} ids for {count} rows", remedy)
    return [str(name) for name in names]


def _fresh(known: dict[Key, Row], rows: Iterable[tuple[Key, Row]], side: str) -> dict[Key, Row]:
    """Return the rows that are not known yet, checked against those that are."""
    fresh: dict[Key, Row] = {}
    first = next(iter(known.items()), None)
    for key, row in rows:
        first = first or (key, row)
        _check_alike(first, (key, row), side)
        before = fresh.get(key) or known.get(key)
        fresh[key] = row if before is None else _one_of(before, row, f"{side} {key!r}")
    return fresh


def _check_alike(first: tuple[Key, Row], other: tuple[Key, Row], side: str) -> None:
    (key0, (vector0, of0)), (key, (vector, of)) = first, other
    if len(vector) != len(vector0):
        problem = f"the batches of {side} have different dimensions"
        remedy = "add vectors of one model, (n, D)"
        raise InputValueError(problem, f"{len(vector0)} at first, then {len(vector)}", remedy)
    if type(key) is not type(key0) or (of is None) != (of0 is None):
        problem = f"some batches of {side} have ids and others do not"
        received = f"{key0!r} of video {of0!r} at first, then {key!r} of {of!r}"
        raise InputValueError(problem, received, "pass the same kinds of ids with every batch")


def _one_of(before: Row, row: Row, what: str) -> Row:
    """Merge two rows of one id, independently of their order."""
    (a, of_a), (b, of_b) = before, row
    if of_a != of_b:
        raise InputValueError(
            "a text has two videos", f"{what}: {of_a!r} and {of_b!r}", "give every text its own id"
        )
    distance, length = (float(np.linalg.norm(x)) for x in (np.float64(a) - b, np.float64(a)))
    if distance > ROUNDING * length:
        problem = "an id has two different vectors"
        remedy = "give every item its own id; turn off dropout and random frames"
        raise InputValueError(problem, f"{what}: distance {distance:.3g}", remedy)
    return min(before, row, key=lambda kept: kept[0].tobytes())


def _joined(parts: list[dict[str, dict[Key, Row]]]) -> dict[str, dict[Key, Row]]:
    found: dict[str, dict[Key, Row]] = {side: {} for side in SIDES}
    for part in parts:
        for side, rows in part.items():
            if any(isinstance(key, int) for key in rows):
                raise InputValueError(
                    f"with several processes, every {side} needs an id",
                    f"{len(parts)} processes, {side}s without ids",
                    "pass text_ids (with one caption per video, the video ids) and ids, because "
                    "samplers repeat samples",
                )
            found[side].update(_fresh(found[side], rows.items(), side))
    return found


def _in_order(rows: dict[Key, Row]) -> dict[Key, Row]:
    """Sort by id, texts without an id by that of their video; otherwise keep the order."""

    def place(item: tuple[Key, Row]) -> Any:
        key, (_, of) = item
        name = key if isinstance(key, str) else of
        return () if name is None else natural(name)

    return dict(sorted(rows.items(), key=place))


def _ids(rows: dict[Key, Row]) -> tuple[str, ...] | None:
    ids = tuple(key for key in rows if isinstance(key, str))
    return ids or None


def _truth(right: list[str], videos: dict[Key, Row]) -> GroundTruth:
    places = {key: place for place, key in enumerate(videos)}
    missing = [of for of in right if of not in places]
    if missing:
        received = f"{missing[0]!r}; {len(missing)} of {len(right)} texts"
        remedy = "add every video with the id that its texts refer to"
        raise InputValueError("the video of some texts was not added", received, remedy)
    return GroundTruth.from_index([places[of] for of in right], len(videos))
