"""Baselines on arrays, the counterpart of `emcl_plugin.rerank`."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from emcl_plugin._internal import renamed
from emcl_plugin._internal.arrays import Array, check_finite
from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.registry import METHODS, applicable
from emcl_plugin.errors import InputValueError
from emcl_plugin.pipeline.inputs import FeaturesPair
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.scores import FeaturePair


@renamed.keyword("rounds", "iterations")
def correct(
    name: str,
    sim: Array | None = None,
    feats: FeaturesPair | None = None,
    *,
    query_bank: Array | None = None,
    gallery_bank: Array | None = None,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    **settings: Any,
) -> Array:
    """Correct text-to-video scores by one of :data:`METHODS`.

    Parameters
    ----------
    name : str
        A key of :data:`METHODS`, such as "csls".
    sim : (n_text, n_video) array or tensor, optional
        Similarity, larger is better. Published settings are for cosines in [-1, 1]: divide
        by the logit scale first.
    feats : (text, video), optional
        Embeddings of shape (n_text, dimension) and (n_video, dimension). Give either this or
        ``sim`` to a method that uses features or a bank.
    query_bank, gallery_bank : (n, dimension) array or tensor, optional
        Other texts, used by methods that can in place of the test texts, and other videos.
    metric : {"cosine", "dot"}, default "cosine"
        Similarity of features.
    device, memory
        As in :func:`emcl_plugin.rerank`.
    **settings
        Settings of the method, such as ``k=10``.

    Returns
    -------
    (n_text, n_video) array or tensor
        Of the library, dtype and device of the input. Rank its rows. For video -> text,
        exchange the sides and the banks.

    Raises
    ------
    InputValueError
        The method or setting is unknown, an input is missing, or the method would ignore ``sim``.

    Examples
    --------
    >>> import numpy as np
    >>> sim = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.8, 0.2, 0.6]], np.float32)
    >>> correct("is", sim, temperature=0.1).argmax(1)
    array([0, 1, 2])
    """
    if name not in METHODS:
        remedy = f"use one of {', '.join(METHODS)}"
        raise InputValueError("no method has this name", repr(name), remedy)
    method = METHODS[name]
    known = list(inspect.signature(method.correct).parameters)[1:]
    for setting in settings.keys() - set(known):
        remedy = f"use one of {', '.join(known)}" if known else "it has none"
        raise InputValueError(f"{name} has no such setting", repr(setting), remedy)
    plain = Settings(emcl=None, ncl=None, metric=metric)
    job = Job(sim, feats, plain, Resources(device=device, memory=memory))
    job.require_dense()
    with torch.no_grad():
        direction = _direction(method, job, query_bank, gallery_bank)
        if missing := " and ".join(method.missing(direction)):
            inputs = {"sim": sim, "feats": feats}
            inputs |= {"query_bank": query_bank, "gallery_bank": gallery_bank}
            received = ", ".join(name for name, value in inputs.items() if value is not None)
            others = ", ".join(other.name for other in applicable(direction))
            remedy = f"pass them, or take one of {others}"
            raise InputValueError(f"{name} needs {missing}", received, remedy)
        corrected = method.correct(direction, **settings)
        return job.collect(job.kind.narrow(block) for _, _, block in corrected.blocks())


def _direction(
    method: Method, job: Job, query_bank: Array | None, gallery_bank: Array | None
) -> Direction:
    text, video = job.features or (None, None)
    banks = job.bank(query_bank, "query_bank"), job.bank(gallery_bank, "gallery_bank")
    if job.sim is None:
        assert text is not None
        assert video is not None
        scores = FeaturePair(text, video, memory=job.memory)
        return Direction(scores, text, video, *banks)
    if text is not None and (FEATURES in method.needs or banks != (None, None)):
        problem = f"{method.name} works on the features' own similarity and would not heed sim"
        raise InputValueError(problem, "sim and feats", "pass feats alone")
    for start, _, block in job.sim.blocks():
        check_finite(block, "sim", start)
    return Direction(job.sim, text, video, *banks)
