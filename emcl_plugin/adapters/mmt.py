"""MMT, collaborative-experts and QB-Norm: experts with weights, or the saved matrix and its mask.

Facts from the public code of gabeur/mmt (`model/model.py`, `trainer/trainer.py`): texts come
grouped by video, as many captions for each; captions that do not exist are masked (two videos of
MSR-VTT have 19 of 20) and must be dropped. Scores are a mixture of experts
(:mod:`emcl_plugin.emcl.experts`); ``*-sims.npy`` is a pickled dictionary of the matrix and
the mask.
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
    """MMT's embeddings and weights, or its matrix.

    Parameters
    ----------
    text_embds : mapping of str to (n_video, captions, D) or (n_video * captions, D) array, optional
        By expert, in the order of the weights' columns.
    vid_embds : mapping of str to (n_video, D) array, optional
    text_weights : (n_video, captions, E) or (n_video * captions, E) array, optional
    vid_weights : (n_video, E) array, optional
        0 for experts that a video lacks.
    query_masks : (n_video, captions) array, optional
        0 for captions that do not exist; they are dropped. Default: none is missing, and there
        are as many captions as texts divided by videos.
    sims : (n_video * captions, n_video) array, optional
        The model's matrix. With embeddings the mixture is computed from them, and EMCL finds a map
        per expert; the matrix is then not needed.
    experts : sequence of str, optional
        The experts in the order of the weights' columns. Default: that of ``text_embds``.
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
        "text_embds": (),
        "vid_embds": (),
        "text_weights": (),
        "vid_weights": (),
        "query_masks": ("query_mask", "masks"),
        "sims": ("sim", "sim_matrix", ""),
        "experts": (),
        "orientation": (),
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
        parts = (text_embds, vid_embds, text_weights, vid_weights)
        given = [part is not None for part in parts]
        if any(given) and not all(given):
            raise InputValueError(
                "a part of the experts is missing",
                ", ".join(n for n, there in zip(_PARTS, given, strict=True) if not there),
                f"pass {', '.join(_PARTS)}, or sims alone",
            )
        mask = None if query_masks is None else np.asarray(_numpy(query_masks))
        matrix: Any = None
        if all(given):
            assert text_embds is not None
            assert vid_embds is not None
            names = list(text_embds) if experts is None else [str(name) for name in experts]
            if set(names) != set(text_embds) or len(names) != len(text_embds):
                raise InputValueError(
                    "experts does not name the experts",
                    f"{', '.join(names)}; text_embds has {', '.join(text_embds)}",
                    "pass each name once, in the order of the weights' columns",
                )
            text = {name: _flat(text_embds[name], name) for name in names}
            video = {name: stacked(vid_embds[name], name) for name in text if name in vid_embds}
            weights = _flat(text_weights, "text_weights"), stacked(vid_weights, "vid_weights")
            matrix = Experts(text, video, *weights)
        elif sims is not None:
            count = None if mask is None else (mask.size, len(mask))
            texts, videos = count or (None, None)
            whole = stacked(sims, "sims")
            matrix = oriented(whole, orientation, self.notes, texts=texts, videos=videos)
        else:
            raise InputValueError(
                "there are neither scores nor experts", "nothing", "pass sims, or the embeddings"
            )
        n_text, n_video = matrix.shape
        if mask is None:
            if n_text % n_video:
                raise InputValueError(
                    "the captions are not as many for every video",
                    f"{n_text} texts, {n_video} videos",
                    "pass query_masks, (videos, captions)",
                )
            mask = np.ones((n_video, n_text // n_video))
            if n_text > n_video:
                self.notes.append(
                    f"{n_text // n_video} captions per video are assumed, one after another"
                )
        elif mask.shape[0] != n_video or mask.size != n_text:
            raise InputValueError(
                "query_masks does not fit the scores",
                f"{mask.shape} for {n_text} texts and {n_video} videos",
                "pass (videos, captions), with a 0 for every caption that does not exist",
            )
        rows, index = unmasked(mask)
        if len(rows) < n_text:
            self.notes.append(f"{n_text - len(rows)} captions that do not exist were dropped")
            matrix = _rows(matrix, rows)
        self.similarity = matrix
        self.ground_truth = GroundTruth.from_index(index, n_video)

    @classmethod
    def read(cls, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
        """From ``*-sims.npy``, or a file or folder that holds the constructor's arrays by name.

        Where a format does not keep the order of the experts, ``experts`` must be there, too.
        """
        found = super().read(path, trust_pickle=trust_pickle, **settings)
        ordered = Path(path).suffix.lower() in ORDERED and not Path(path).is_dir()
        if isinstance(found.similarity, Experts) and not (ordered or "experts" in settings):
            raise InputFileError(
                "this format does not keep the order of the experts, so whose weights are whose "
                "is not known",
                str(path),
                "save them as .npz or .pt",
            )
        return found


class CollaborativeExperts(MMT):
    """collaborative-experts and what QB-Norm keeps of it: a pickled matrix, and a pickled mask."""

    NAME = "collaborative-experts"


_PARTS = ("text_embds", "vid_embds", "text_weights", "vid_weights")


def _flat(given: Any, name: str) -> Array:
    """Captions one below the other, (n_video * captions, ...)."""
    x = stacked(given, name)
    if x.ndim not in (2, 3):
        raise InputValueError(
            f"{name} must have two or three dimensions", describe(x), "(videos, captions, D)"
        )
    return x.reshape(-1, x.shape[-1])


def _numpy(x: Any) -> Any:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x


def _rows(matrix: Any, rows: np.ndarray[Any, Any]) -> Any:
    if isinstance(matrix, np.ndarray):
        return matrix[rows]
    if isinstance(matrix, torch.Tensor):
        return matrix[torch.from_numpy(rows).to(matrix.device)]
    return matrix.take(rows, slice(None))
