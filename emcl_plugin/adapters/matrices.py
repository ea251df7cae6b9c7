"""Retrievers with a matrix only: EMCL-Net and dumps of DBSN."""

from __future__ import annotations

from typing import Any, ClassVar

from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.adapters.mmt import MMT
from emcl_plugin.errors import InputValueError


class EMCLNet(Adapter):
    """Output of EMCL-Net, whose video vectors depend on the text, so only the matrix is used.

    Parameters
    ----------
    sim : (n_text, n_video), (n_video, most captions, n_video) array or list of row blocks
        Returned by ``_run_on_single_gpu`` in ``main_retrieval.py``.
    cut_off_points, logit_scale, orientation
        As in :class:`CLIP4Clip`.
    """

    NAME = "emcl-net"
    FIELDS: ClassVar[Fields] = {"sim": ("sim_matrix", "sims", "")}

    def __init__(
        self,
        *,
        sim: Any,
        cut_off_points: Any = None,
        logit_scale: Any = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        points, scale = cut_off_points, logit_scale
        self._settle(sim, cut_off_points=points, logit_scale=scale, orientation=orientation)


class DBSN(MMT):
    """Dump of DBSN: a matrix, or a dictionary with ``sims``; some are video x text.

    Parameters
    ----------
    sims : (n_text, n_video) or (n_video, n_text) array
    query_masks : (n_video, captions) array, optional
    orientation : {"text-video", "video-text"}
        Required for square matrices, because dumps exist in both orientations.
    """

    NAME = "dbsn"
    FIELDS: ClassVar[Fields] = {"sims": ("sim", "sim_matrix", ""), "query_masks": ("query_mask",)}

    def __init__(self, *, sims: Any, query_masks: Any = None, orientation: str = "auto") -> None:
        matrix, turned = stacked(sims, "sims"), False
        if orientation == "auto" and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]:
            raise InputValueError(
                "cannot determine whether the matrix is text x video",
                f"a square matrix of size {len(matrix)}; dumps of DBSN exist in both orientations",
                "pass the orientation: text-video or video-text",
            )
        if orientation == "auto" and query_masks is None and matrix.shape[0] < matrix.shape[1]:
            orientation, turned = "video-text", True  # videos have captions
        super().__init__(sims=matrix, query_masks=query_masks, orientation=orientation)
        if turned:
            why = "sim has fewer rows than columns"
            self.notes.append(f"{why}: it is video x text and was transposed")
