"""MMT, collaborative-experts, QB-Norm, DBSN: experts with weights, or a matrix and caption mask.

According to the public code of gabeur/mmt (`model/model.py`, `trainer/trainer.py`), texts are
grouped by video, with the same number of captions for each. Captions that do not exist are masked
(two videos of MSR-VTT have 19 of 20) and must be dropped. Scores are a mixture of experts
(:mod:`emcl_plugin.emcl.experts`); ``*-sims.npy`` is a pickled dictionary of matrix and mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.adapters.base import Adapter, Fields, stacked
from emcl_plugin.adapters.captions import unmasked
from emcl_plugin.adapters.orientation import oriented
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputFileError, InputValueError
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.io.bundle import ORDERED


class MMT(Adapter):
    """Output of MMT: embeddings and weights, or a matrix.

    Parameters
    ----------
    text_embds : mapping of str to (n_video, captions, D) or (n_video * captions, D) array, optional
        Embeddings by expert, in the order of the weights' columns.
    vid_embds : mapping of str to (n_video, D) array, optional
    text_weights : (n_video, captions, E) or (n_video * captions, E) array, optional
    vid_weights : (n_video, E) array, optional
        0 for missing experts of a video.
    query_masks : (n_video, captions) array, optional
        0 for missing captions, which are dropped. Default: none is missing, and every video has
        the same number of captions.
    sims : (n_video * captions, n_video) array, optional
        The model's matrix. Ignored with embeddings: the mixture is then computed from them, with
        one EMCL map per expert.
    experts : sequence of str, optional
        Experts in the order of the weights' columns. Default: the order of ``text_embds``.
    orientation : {"auto", "text-video", "video-text"}, default "auto"
        Of ``sims``.

    Examples
    --------
    >>> sims = np.eye(2).repeat(2, 0)  # two videos, two captions each
    >>> run = MMT(sims=sims, query_masks=np.array([[1, 1], [1, 0]]))
    >>> run.similarity.tolist(), run.ground_truth.item.tolist()
    ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 0, 1])
    """

    NAME = "mmt"
    FIELDS: ClassVar[Fields] = {
        "query_masks": ("query_mask", "masks"),
        "sims": ("sim", "sim_matrix", ""),
    }

    def __init__(
        self,
        *,
        text_embds: Mapping[str, Any] | None = None,
        vid_embds: Mapping[str, Any] | None = None,
        text_weights: Any = None,
        vid_weights: Any = None,
        query_masks: Any = None,
        sims: Any = None,
        experts: Sequence[str] | None = None,
        orientation: str = "auto",
    ) -> None:
        self.notes = []
        parts = dict(zip(_PARTS, (text_embds, vid_embds, text_weights, vid_weights), strict=True))
        missing = [name for name, part in parts.items() if part is None]
        if missing and len(missing) < len(parts):
            received, remedy = ", ".join(missing), f"pass {', '.join(_PARTS)}, or sims alone"
            raise InputValueError("some arrays of the experts are missing", received, remedy)
        if isinstance(query_masks, torch.Tensor):
            query_masks = query_masks.cpu()
        mask = None if query_masks is None else np.asarray(query_masks)
        matrix: Any
        if not missing:
            matrix = _mixture(**parts, experts=experts)
        elif sims is not None:
            texts, videos = (None, None) if mask is None else (mask.size, len(mask))
            whole = stacked(sims, "sims")
            matrix = oriented(whole, orientation, self.notes, texts=texts, videos=videos)
        else:
            remedy = "pass sims, or the embeddings"
            raise InputValueError("neither scores nor experts given", "nothing", remedy)
        n_text, n_video = matrix.shape
        rows, index = unmasked(self._caption_mask(mask, n_text, n_video))
        if len(rows) < n_text:
            self.notes.append(f"{n_text - len(rows)} missing captions were dropped")
            matrix = _rows(matrix, rows)
        self.similarity = matrix
        self.ground_truth = GroundTruth.from_index(index, n_video)

    def _caption_mask(self, mask: Any, n_text: int, n_video: int) -> Any:
        """Check the mask; without one, assume equally many captions per video."""
        if mask is None:
            if n_text % n_video:
                problem = "the texts are not a multiple of the videos"
                remedy = "pass query_masks, (videos, captions)"
                raise InputValueError(problem, f"{n_text} texts, {n_video} videos", remedy)
            captions = n_text // n_video
            if captions > 1:
                self.notes.append(f"{captions} consecutive captions per video are assumed")
            return np.ones((n_video, captions))
        if mask.shape[0] != n_video or mask.size != n_text:
            received = f"{mask.shape} for {n_text} texts and {n_video} videos"
            remedy = "pass (videos, captions), with 0 for every missing caption"
            raise InputValueError("query_masks does not match the scores", received, remedy)
        return mask

    @classmethod
    def read(cls, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
        """Read ``*-sims.npy``, or a file or folder with the constructor's arrays by name.

        If the format does not preserve the order of the experts, pass ``experts``.
        """
        found = super().read(path, trust_pickle=trust_pickle, **settings)
        ordered = Path(path).suffix.lower() in ORDERED and not Path(path).is_dir()
        if isinstance(found.similarity, Experts) and not (ordered or "experts" in settings):
            problem = "this format does not keep the order of the experts, which the weights need"
            raise InputFileError(problem, str(path), "save them as .npz or .pt")
        return found


class CollaborativeExperts(MMT):
    """Output of collaborative-experts and QB-Norm: a pickled matrix and a pickled mask."""

    NAME = "collaborative-experts"


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


_PARTS = ("text_embds", "vid_embds", "text_weights", "vid_weights")


def _mixture(
    text_embds: Any, vid_embds: Any, text_weights: Any, vid_weights: Any, experts: Any
) -> Experts:
    """Return the mixture, with the experts in the order of the weights' columns."""
    names = list(text_embds) if experts is None else [str(name) for name in experts]
    if set(names) != set(text_embds) or len(names) != len(text_embds):
        received = f"{', '.join(names)}; text_embds has {', '.join(text_embds)}"
        remedy = "pass each name once, in the order of the weights' columns"
        raise InputValueError("experts does not match text_embds", received, remedy)
    text = {name: _flat(text_embds[name], name) for name in names}
    video = {name: stacked(vid_embds[name], name) for name in text if name in vid_embds}
    return Experts(
        text, video, _flat(text_weights, "text_weights"), stacked(vid_weights, "vid_weights")
    )


def _flat(given: Any, name: str) -> Array:
    """Return captions as rows, (n_video * captions, D)."""
    x = stacked(given, name)
    if x.ndim not in (2, 3):
        problem = f"{name} must have two or three dimensions"
        raise InputValueError(problem, describe(x), "(videos, captions, D)")
    return x.reshape(-1, x.shape[-1])


def _rows(matrix: Any, rows: np.ndarray[Any, Any]) -> Any:
    if isinstance(matrix, np.ndarray):
        return matrix[rows]
    if isinstance(matrix, torch.Tensor):
        return matrix[torch.from_numpy(rows).to(matrix.device)]
    return matrix.take(rows, slice(None))
