"""Retrievers of which only the matrix counts: EMCL-Net, and dumps of DBSN."""

from __future__ import annotations

from typing import Any, ClassVar

from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.adapters.mmt import MMT
from emcl_plugin.errors import InputValueError


class EMCLNet(Adapter):
    """EMCL-Net: its videos are made anew for every text, so there is no vector of a video.

    Parameters
    ----------
    sim : (n_text, n_video), (n_video, most captions, n_video) array or list of row blocks
        As ``_run_on_single_gpu`` of its ``main_retrieval.py`` gives it.
    cut_off_points : sequence of int, optional
        Ends of the videos' captions. Default: one text per video.
    logit_scale : float, optional
        What the scores were multiplied by, to be divided out.
    orientation : {"auto", "text-video", "video-text"}, default "auto"
    """

    NAME = "emcl-net"
    FIELDS: ClassVar[Fields] = {
        "sim": ("sim_matrix", "sims", ""),
        "cut_off_points": (),
        "logit_scale": (),
        "orientation": (),
    }

    def __init__(
        self,
        *,
        sim: Any,
        cut_off_points: Any = None,
        logit_scale: Any = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        self._settle(
            sim,
            cut_off_points=cut_off_points,
            logit_scale=logit_scale,
            orientation=orientation,
        )


class DBSN(MMT):
    """A dump of DBSN's: a matrix, or a dictionary with ``sims``; some are video x text.

    Parameters
    ----------
    sims : (n_text, n_video) or (n_video, n_text) array
    query_masks : (n_video, captions) array, optional
    orientation : {"text-video", "video-text"}
        Needed where the matrix is square, because both kinds are about.
    """

    NAME = "dbsn"
    FIELDS: ClassVar[Fields] = {
        "sims": ("sim", "sim_matrix", ""),
        "query_masks": ("query_mask",),
        "orientation": (),
    }

    def __init__(self, *, sims: Any, query_masks: Any = None, orientation: str = "auto") -> None:
        matrix, turned = stacked(sims, "sims"), False
        if orientation == "auto" and matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]:
            raise InputValueError(
                "whether the matrix is text x video cannot be told",
                f"a square matrix of {len(matrix)}, and DBSN's dumps are of both kinds",
                "pass the orientation: text-video or video-text",
            )
        if orientation == "auto" and query_masks is None and matrix.shape[0] < matrix.shape[1]:
            orientation, turned = "video-text", True  # no retriever has fewer captions than videos
        super().__init__(sims=matrix, query_masks=query_masks, orientation=orientation)
        if turned:
            self.notes.append("sim has fewer rows than columns: it is video x text, and was turned")
