"""Base class of the adapters: features, similarity and ground truth of a retriever."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.adapters.captions import from_cut_off_points, unpadded
from emcl_plugin.adapters.orientation import oriented
from emcl_plugin.adapters.scale import unscaled
from emcl_plugin.api import RerankResult, rescore
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.evaluation.metrics import by_direction, evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.inputs import FeaturesPair
from emcl_plugin.report.tables import metrics_table
from emcl_plugin.scores import Dense, Scorer

Fields: TypeAlias = Mapping[str, tuple[str, ...]]


class Adapter(abc.ABC):
    """The output of one retriever.

    Attributes
    ----------
    features : (text, video) or None
        One vector per item, for EMCL.
    similarity : (n_text, n_video) array, Scorer or None
        The retriever's own scores; None if they are the cosine of the features.
    ground_truth : GroundTruth or None
        The right video of each text, if the output determines it.
    text_ids, video_ids : tuple of str or None
    notes : list of str
        Assumptions about orientation, scale and masks.
    """

    NAME: ClassVar[str]
    FIELDS: ClassVar[Fields] = {}
    """Other names that the constructor's parameters may have in a file."""

    features: FeaturesPair | None = None
    similarity: Array | Scorer | None = None
    ground_truth: GroundTruth | None = None
    text_ids: tuple[str, ...] | None = None
    video_ids: tuple[str, ...] | None = None
    notes: list[str]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of texts and videos."""
        if self.similarity is not None:
            return int(self.similarity.shape[0]), int(self.similarity.shape[1])
        assert self.features is not None
        return len(self.features[0]), len(self.features[1])

    def scores(self, **settings: Any) -> Array:
        """Return the retriever's own scores, (n_text, n_video).

        ``settings`` are those of :meth:`rescore`; only metric, device and memory are used.
        """
        off = {"emcl": None, "ncl": None, "resume": None}
        feats = self.features if self.similarity is None else None
        return rescore(self.similarity, feats, **{**settings, **off}).scores

    def rescore(self, **settings: Any) -> RerankResult[Any]:
        """Re-score; ``settings`` are those of :func:`emcl_plugin.rescore`."""
        feats = None if isinstance(self.similarity, Experts) else self.features
        return rescore(self.similarity, feats, **settings)

    def summary(self, result: RerankResult[Any], **settings: Any) -> str:
        """Return metrics before and after, if the ground truth is known, and the notes.

        ``settings`` are those that made the result.
        """
        lines = [f"  {note}" for note in self.notes]
        if self.ground_truth is not None:
            scores = {"before": self.scores(**settings), "after": result.scores}
            found = {name: evaluate(Dense(x), self.ground_truth) for name, x in scores.items()}
            lines = [metrics_table(by_direction(found)), "", *lines]
        return "\n".join([*lines, f"  protocol: {result.protocol}"])

    @classmethod
    def read(cls, path: str | Path, *, trust_pickle: bool = False, **settings: Any) -> Adapter:
        """Read a file or folder with the constructor's arrays by name."""
        from emcl_plugin.io.bundle import read_bundle
        from emcl_plugin.io.members import parsing

        parameters = _parameters(cls)
        if strange := ", ".join(sorted(settings.keys() - parameters.keys())):
            raise InputValueError(f"{cls.NAME} has no such setting", strange, "omit it")
        found = read_bundle(path, trust_pickle=trust_pickle)
        held = f"{path}: {', '.join(map(str, found)) or 'nothing'}"
        known = {field: (field, *cls.FIELDS.get(field, ())) for field in parameters}
        given = {}
        for field, names in known.items():
            if (name := next((name for name in names if name in found), None)) is not None:
                value = found[name]
                single = isinstance(value, np.ndarray) and value.ndim == 0
                given[field] = value.item() if single else value
        if not given:
            wanted = ", ".join(sorted({n for names in known.values() for n in names if n}))
            remedy = f"use these array names: {wanted}"
            raise InputValueError(f"no arrays of {cls.NAME} found", held, remedy)
        given |= settings
        needed = [name for name, p in parameters.items() if p.default is p.empty]
        if missing := ", ".join(name for name in needed if name not in given):
            remedy = "save them in the same file, under these names"
            problem = f"arrays of {cls.NAME} are missing"
            raise InputValueError(problem, f"{held}; no {missing}", remedy)
        with parsing(Path(path), cls.NAME):
            return cls(**given)

    def _settle(
        self,
        sim: Any = None,
        *,
        cut_off_points: Any = None,
        logit_scale: Any = None,
        orientation: str = "auto",
    ) -> None:
        """Set similarity and ground truth.

        A matrix that equals the cosine of the features is dropped. Without cut-off points, text i
        of a square matrix belongs to video i.
        """
        known = self.features is not None or self.similarity is not None
        n_text, n_video = self.shape if known else (None, None)
        index = None
        matrix = None if sim is None else stacked(sim, "sim")
        if cut_off_points is not None:
            most = None if matrix is None else max(matrix.shape, default=0)
            index = from_cut_off_points(cut_off_points, n_text, most)
            n_text, n_video = len(index), int(index[-1]) + 1
        if matrix is not None:
            if matrix.ndim == 3:
                matrix, index = unpadded(matrix)
                n_text, n_video = (int(n) for n in matrix.shape)
            matrix = oriented(matrix, orientation, self.notes, texts=n_text, videos=n_video)
            self.similarity = unscaled(matrix, self.features, logit_scale, self.notes)
        elif not known:
            problem = f"neither scores nor features of {self.NAME} given"
            remedy = "pass sim, or text and video, or all three"
            raise InputValueError(problem, "no sim, and no text or no video", remedy)
        if index is not None:
            self.ground_truth = GroundTruth.from_index(index, self.shape[1])
        elif self.shape[0] == self.shape[1]:
            self.ground_truth = GroundTruth.diagonal(self.shape)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the constructor's parameters; ``**settings`` stand for those of the parent."""
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" in vars(parent):
            own = inspect.signature(parent).parameters
            found = {**own, **found}
            if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
                break
    return {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD}


def stacked(given: Any, name: str) -> Array:
    """Return an array, or concatenate a list of batches.

    >>> stacked([np.ones((2, 3)), np.ones((1, 3))], "text").shape
    (3, 3)
    """
    if isinstance(given, list | tuple) and given:
        parts = list(given)
        if all(isinstance(part, torch.Tensor) for part in parts):
            return torch.cat(parts)
        if all(isinstance(part, np.ndarray) and part.ndim for part in parts):
            return np.concatenate(parts)
    if not isinstance(given, np.ndarray | torch.Tensor):
        raise InputTypeError(f"{name} is not an array", describe(given), "pass an array or batches")
    return given
