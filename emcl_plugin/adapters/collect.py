"""Features from an evaluation loop, batch by batch, of one process or several.

Distributed samplers repeat samples so that all processes have as many. What came already is known
by its id and dropped; rows are then put in the order of their ids, so that the result does not
depend on which process had which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import distributed

from emcl_plugin._internal.arrays import check_finite, check_matrix, describe
from emcl_plugin.adapters.base import Adapter
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.io.parts import natural

Key: TypeAlias = "str | int"
"""An id, or the number of a row that has none."""
Row: TypeAlias = "tuple[np.ndarray[Any, Any], str | None]"
"""A vector, and of a text the id of its video."""

SIDES = ("text", "video")
ROUNDING = 0.05
"""Largest distance of two vectors, by their length, that bfloat16 in a deep network explains."""


class Collected(Adapter):
    """What a :class:`Collector` has: features in the order of their ids, and the ground truth.

    Parameters
    ----------
    texts, videos : dict
        By id, or by row where there are none: the vector and, of a text, the id of its video.
    """

    NAME: ClassVar[str] = "collected"
    FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

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
            self.notes.append("there are no ids: text i is taken to belong to video i")
        else:
            self.notes.append("the texts do not say which video is theirs: no ground truth")


class Collector:
    """Collect features in any evaluation loop, to re-score them once it is over.

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
        """Forget everything, as before the next epoch."""
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
        """Keep a copy of a batch, on the CPU.

        Parameters
        ----------
        text : (n, D) array or tensor, optional
        video : (n, D) array or tensor, optional
            At least one of the two. bfloat16 becomes float32.
        ids : (n,) sequence of str or int, optional
            The video of every row, of text and of video alike. Default: row i of all text
            belongs to row i of all video.
        text_ids : (n,) sequence of str or int, optional
            What every text is called. A text that came already is dropped. Needed under several
            processes; else all texts are kept.
        video_ids : (n,) sequence of str or int, optional
            What every row of video is called, where that is not ``ids``. A video that came
            already is dropped.

        Raises
        ------
        InputTypeError, InputValueError
            No vectors, another dimension than before, not one id per row, ids in some batches
            only, or an id whose vector or video is another than before. Nothing of the batch is
            kept then.
        """
        if text is None and video is None:
            raise InputValueError(
                "the batch has no rows", "neither text nor video", "pass at least one of them"
            )
        for side, rows, own in (("text", text, text_ids), ("video", video, video_ids)):
            if rows is None and own is not None:
                raise InputValueError(
                    f"there are ids of {side} and no {side}", f"{side}_ids", f"pass {side}, too"
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
        """All that was added so far, of all processes; each of them must call it and gets all.

        Raises
        ------
        InputValueError
            There are no texts or no videos, or a text's video never came; under several
            processes also texts or videos without ids. All processes raise it.
        """
        found = self._rows
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            if len(parts) > 1:
                distributed.all_gather_object(parts, found)
                found = _joined(parts)
        for side, rows in found.items():
            if not rows:
                raise InputValueError(
                    f"no {side} was added",
                    ", ".join(f"{len(found[side])} {side}s" for side in SIDES),
                    "call add(text=..., video=..., ids=...) with every batch",
                )
        return Collected(found["text"], found["video"])

    def _batch(self, side: str, given: Any, ids: Any, of: Any = None) -> dict[Key, Row]:
        """What a batch of one side adds."""
        known, vectors = self._rows[side], _vectors(given, side)
        numbers = range(len(known), len(known) + len(vectors))
        keys: Sequence[Key] = _names(ids, len(vectors), side) or numbers
        right: Sequence[str | None] = _names(of, len(vectors), side) or [None] * len(vectors)
        copies = (vector.copy() for vector in vectors)  # views would keep what is dropped
        return _fresh(known, zip(keys, zip(copies, right, strict=True), strict=True), side)


# --- what comes in ------------------------------------------------------------------------------


def _vectors(given: Any, side: str) -> np.ndarray[Any, Any]:
    """A checked batch as an own array."""
    rows = check_matrix(given, side)
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu()
        rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    rows = np.array(rows, dtype=rows.dtype.newbyteorder("="))
    check_finite(torch.from_numpy(rows), side, 0)
    return rows


def _names(given: Any, count: int, side: str) -> Sequence[str] | None:
    """One id per row as text; None if there are none."""
    if given is None:
        return None
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InputTypeError("ids are no list", describe(given), "pass a list of str or int")
    names = [x.item() if isinstance(x, torch.Tensor) and x.ndim == 0 else x for x in values]
    if wrong := [x for x in names if not isinstance(x, str | Integral)]:
        raise InputTypeError(
            "an id is neither text nor a whole number", repr(wrong[0]), "pass (n,) ids"
        )
    if len(names) != count:
        raise InputValueError(
            f"the ids are not as many as the rows of {side}",
            f"{len(names)} ids for {count} rows",
            "pass one id per row; the ids of video as video_ids where text has other rows",
        )
    return [str(name) for name in names]


def _fresh(known: dict[Key, Row], rows: Iterable[tuple[Key, Row]], side: str) -> dict[Key, Row]:
    """What rows add to those that are known; checked against them."""
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
        raise InputValueError(
            f"the batches of {side} have different dimensions",
            f"{len(vector0)} at first, then {len(vector)}",
            "add vectors of one model, (n, D)",
        )
    if type(key) is not type(key0) or (of is None) != (of0 is None):
        raise InputValueError(
            f"some batches of {side} have ids and others lack them",
            f"{key0!r} of video {of0!r} at first, then {key!r} of {of!r}",
            "pass the same kinds of ids with every batch",
        )


def _one_of(before: Row, row: Row, what: str) -> Row:
    """Two rows of one id as one: whichever came first, the same."""
    (a, of_a), (b, of_b) = before, row
    if of_a != of_b:
        raise InputValueError(
            "a text has two videos", f"{what}: {of_a!r} and {of_b!r}", "give every text its own id"
        )
    distance, length = (float(np.linalg.norm(x)) for x in (np.float64(a) - b, np.float64(a)))
    if distance > ROUNDING * length:
        raise InputValueError(
            "an id has two different vectors",
            f"{what}: they are {distance:.3g} apart",
            "give every item an own id; switch dropout and random frames off",
        )
    return min(before, row, key=lambda kept: kept[0].tobytes())


# --- what goes out ------------------------------------------------------------------------------


def _joined(parts: list[dict[str, dict[Key, Row]]]) -> dict[str, dict[Key, Row]]:
    """The rows of all processes."""
    found: dict[str, dict[Key, Row]] = {side: {} for side in SIDES}
    for part in parts:
        for side, rows in part.items():
            if any(isinstance(key, int) for key in rows):
                raise InputValueError(
                    f"under several processes every {side} needs an id",
                    f"{len(parts)} processes, {side}s without ids",
                    "pass text_ids (of one caption per video, the video's id) and ids: samplers "
                    "repeat samples, which cannot be told from others without them",
                )
            found[side].update(_fresh(found[side], rows.items(), side))
    return found


def _in_order(rows: dict[Key, Row]) -> dict[Key, Row]:
    """By id, texts without one by their video's, and all others as they came."""

    def place(item: tuple[Key, Row]) -> Any:
        key, (_, of) = item
        name = key if isinstance(key, str) else of
        return () if name is None else natural(name)

    return dict(sorted(rows.items(), key=place))


def _ids(rows: dict[Key, Row]) -> tuple[str, ...] | None:
    ids = tuple(key for key in rows if isinstance(key, str))
    return ids or None


def _truth(right: list[str], videos: dict[Key, Row]) -> GroundTruth:
    """Every text's video by its id."""
    places = {key: place for place, key in enumerate(videos)}
    missing = [of for of in right if of not in places]
    if missing:
        raise InputValueError(
            "the video of some texts never came",
            f"{missing[0]!r}; {len(missing)} of {len(right)} texts",
            "add every video with the id that its texts name",
        )
    return GroundTruth.from_index([places[of] for of in right], len(videos))
