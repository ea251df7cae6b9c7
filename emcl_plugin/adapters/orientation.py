"""Orientation of a similarity matrix: detected from its shape, otherwise assumed and noted."""

from __future__ import annotations

from emcl_plugin._internal.arrays import Array, check_matrix
from emcl_plugin.errors import InputValueError

ORIENTATIONS = ("auto", "text-video", "video-text")


def oriented(
    sim: Array,
    orientation: str,
    notes: list[str],
    *,
    texts: int | None = None,
    videos: int | None = None,
    by_ids: bool = False,
) -> Array:
    """Return the matrix as texts x videos; ``notes`` receives what was assumed or done.

    "auto" uses the numbers of ``texts`` and ``videos``, as far as they are known. If these do not
    decide, it assumes texts x videos. With ``by_ids``, ids have confirmed that already.

    >>> import numpy as np
    >>> notes = []
    >>> oriented(np.ones((2, 3)), "auto", notes, texts=3, videos=2).shape, notes
    ((3, 2), ['sim is video x text by its shape and was transposed'])
    """
    if orientation not in ORIENTATIONS:
        raise InputValueError(
            "unknown orientation", repr(orientation), f"use one of {', '.join(ORIENTATIONS)}"
        )
    matrix = check_matrix(sim, "sim")
    shape = int(matrix.shape[0]), int(matrix.shape[1])

    def fits(rows: int, columns: int) -> bool:
        return texts in (None, rows) and videos in (None, columns)

    turned = orientation == "video-text"
    if orientation == "auto" and not by_ids and not fits(*shape) and fits(*shape[::-1]):
        turned = True
        notes.append("sim is video x text by its shape and was transposed")
    if turned:
        matrix, shape = matrix.T, shape[::-1]
    if not fits(*shape):
        received = f"{shape[0]} x {shape[1]}; {_many(texts)} texts, {_many(videos)} videos"
        remedy = "pass text x video, or the orientation"
        raise InputValueError("sim does not match the texts and videos", received, remedy)
    unknown = texts is None and videos is None
    if orientation == "auto" and not by_ids and (shape[0] == shape[1] or unknown):
        why = "it is square" if shape[0] == shape[1] else "its shape does not tell"
        notes.append(
            f"sim is assumed to be text x video ({why}); set --orientation video-text if it is "
            "video x text"
        )
    return matrix


def _many(count: int | None) -> str:
    return "any number of" if count is None else str(count)
