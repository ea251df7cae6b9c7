"""The front door: `rerank`, `rescore` and `Reranker`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from emcl_plugin.arrays import (
    Array,
)
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import (
    InputValueError,
    NotFittedError,
)
from emcl_plugin.job import FeaturesPair, Job, Report
from emcl_plugin.ncl import NCL, Progress


@dataclass(frozen=True, kw_only=True)
class RerankResult(Report):
    """Re-scored similarity and how it came about.

    Attributes
    ----------
    scores : (n_text, n_video) array or tensor
        S + tau (f_i + g_j) after EMCL, of the library, dtype and device that came in. Larger is
        better; rank rows for text -> video and columns for video -> text.
    """

    scores: Array


def rerank(
    sim: Array | None = None,
    feats: FeaturesPair | None = None,
    *,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Re-score a text-video similarity without training; the scores of :func:`rescore`.

    Parameters
    ----------
    sim : (n_text, n_video) array or tensor, optional
        Similarity, larger is better, at any scale.
    feats : (text, video), optional
        Embeddings of shape (n_text, dimension) and (n_video, dimension); they need not be
        normalised. At least one of ``sim`` and ``feats``: alone, their cosine is corrected;
        with ``sim`` they are used to correct that similarity.
    emcl : "auto", None, preset name or EMCL, default "auto"
        "auto" chooses the strength by mutual nearest neighbours. None leaves EMCL out.
    ncl : "auto", None or NCL, default "auto"
        "auto" is a temperature of 0.15 standard deviations. None leaves NCL out.
    prior : {"auto", "even", "gentle", "off"}, default "auto"
        What to assume about how often each video is asked for. NCL as published assumes that
        all are asked for equally often ("even"), which benchmarks are and the world is not.
        "auto" finds out from the scores, "gentle" corrects for hubs and little else, "off"
        leaves NCL out. See :mod:`emcl_plugin.prior`.
    guard : bool, default True
        Apply no more than the mutual nearest neighbours bear out, and nothing where there are
        no hubs to correct. It wants evidence: of a handful of texts nothing can be told.
    metric : {"cosine", "dot"}, default "cosine"
        Similarity of features.
    device : str or torch.device, optional
        Where to compute. Default: where the tensors are; for NumPy input CUDA if there is one.
    memory : int, optional
        Bytes to keep within; beyond it scores are recomputed instead of stored. Default: half
        of what is free.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    (n_text, n_video) array or tensor
        Of the library, dtype and device that came in.

    Raises
    ------
    InputValueError, InputTypeError
        What is wrong, what came in and what to do. Both are subclasses of EmclError, the first
        also of ValueError, the second of TypeError.
    MemoryBudgetError
        If a dense result does not fit into the memory.

    Notes
    -----
    The protocol is transductive: all texts are used at once to compute the biases.
    Sources: arXiv 2211.11427 (EMCL), arXiv 2212.11790 (NCL).

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> sim.argmax(1)  # video 0 is everybody's best
    array([0, 0, 0])
    >>> rerank(sim, prior="even", guard=False).argmax(1)  # three texts are no evidence
    array([0, 1, 2])
    """
    return rescore(
        sim,
        feats,
        emcl=emcl,
        ncl=ncl,
        prior=prior,
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
        progress=progress,
    ).scores


def rescore(
    sim: Array | None = None,
    feats: FeaturesPair | None = None,
    *,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> RerankResult:
    """As :func:`rerank`, and tell everything: biases, temperature, strength, guard, hubs.

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> result = rescore(sim)
    >>> result.protocol, result.hubs_before.largest, result.guard.applied  # so few show nothing
    ('transductive', 3, False)
    """
    job = Job(
        sim,
        feats,
        emcl=emcl,
        ncl=ncl,
        prior=prior,
        guard=guard,
        metric=metric,
        device=device,
        memory=memory,
    )
    job.require_dense()
    report, blocks = job.run(progress)
    return RerankResult(scores=job.collect(blocks), **vars(report))


class Reranker:
    """`rerank` as an estimator with scikit-learn's conventions.

    Parameters
    ----------
    emcl, ncl, prior, guard, metric, device, memory
        As in :func:`rerank`.

    Attributes
    ----------
    report_ : Report
        After ``fit_transform``: what was done.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> video = rng.standard_normal((20, 8))
    >>> text = video + rng.standard_normal((20, 8))
    >>> Reranker(ncl=NCL(rho=0.9)).fit_transform(text, video).shape
    (20, 20)
    """

    def __init__(
        self,
        emcl: EMCL | str | None = "auto",
        ncl: NCL | str | None = "auto",
        prior: str = "auto",
        guard: bool = True,
        metric: str = "cosine",
        device: str | torch.device | None = None,
        memory: int | None = None,
    ) -> None:
        self.emcl = emcl
        self.ncl = ncl
        self.prior = prior
        self.guard = guard
        self.metric = metric
        self.device = device
        self.memory = memory

    def fit_transform(self, text: Array, video: Array) -> Array:
        """Re-scored (n_text, n_video) of two sets of features, transductive."""
        result = rescore(None, (text, video), **self.get_params())
        names = (name for name in Report.__dataclass_fields__)
        self.report_ = Report(**{name: getattr(result, name) for name in names})
        return result.scores

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn's clone needs them (there is nothing deep)."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Reranker:
        """Change settings by name and return self."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputValueError(
                    "Reranker has no such setting", repr(name), f"one of {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            raise NotFittedError(
                f"{name} is not there yet", "a Reranker that was not fitted", "fit_transform first"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not defaults[name].default
        )
        return f"Reranker({', '.join(changed)})"
