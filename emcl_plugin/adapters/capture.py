"""Capture what a retriever's own evaluation computes, without editing it.

CLIP4Clip and its descendants compute a matrix from cached features and masks in a function
``_run_on_single_gpu``. They pass it to ``compute_metrics`` or, padded if there are several captions
per video, to ``tensor_text_to_video_metrics``. MMT's trainer calls
``sharded_cross_view_inner_product`` with the output of its ``_get_embeddings``. Python looks these
functions up in their module at each call, so they can be wrapped for the duration of a block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

from emcl_plugin.adapters.base import Adapter
from emcl_plugin.adapters.captions import unpadded
from emcl_plugin.adapters.clip4clip import XCLIP, CLIP2Video, CLIP4Clip, EMCLNet
from emcl_plugin.adapters.drl import DRL
from emcl_plugin.adapters.mmt import MMT
from emcl_plugin.api import RerankResult
from emcl_plugin.errors import InputValueError
from emcl_plugin.io.atomic import atomic_writer, check_target

Calls: TypeAlias = list[tuple[Any, ...]]

RUN, METRICS, PADDED = "_run_on_single_gpu", "compute_metrics", "tensor_text_to_video_metrics"
SHARDED, GATHER = "sharded_cross_view_inner_product", "_get_embeddings"
MIXED = ("vid_embds", "text_embds", "vid_weights", "text_weights")


class Captured:
    """Arrays captured from an evaluation; created by :func:`capture`.

    Parameters
    ----------
    settings : dict
        Keyword arguments of :func:`emcl_plugin.rescore`.

    Attributes
    ----------
    adapters, results : list of Adapter, list of RerankResult
        One per evaluated matrix, in order; after the block, their re-scored matrices.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.adapters: list[Adapter] = []
        self.results: list[RerankResult[Any]] = []
        self._settings = settings
        self._last: dict[str, Any] = {}

    def add(self, kind: type[Adapter], **given: Any) -> None:
        """Add an adapter, given the arguments of its constructor."""
        self._last = given
        self.adapters.append(kind(**given))

    @property
    def adapter(self) -> Adapter:
        """The last adapter."""
        self._check()
        return self.adapters[-1]

    @property
    def result(self) -> RerankResult[Any]:
        """The last result."""
        self._check()
        return self.results[-1]

    def summary(self) -> str:
        """Return metrics before and after for every matrix."""
        pairs = zip(self.adapters, self.results, strict=True)
        return "\n\n".join(adapter.summary(result, **self._settings) for adapter, result in pairs)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the arrays of the last matrix to an ``.npz`` file.

        ``emcl-rerank --from clip4clip run.npz --report out.html`` re-scores them again.
        """
        self._check()
        target = Path(path)
        if target.suffix.lower() != ".npz":
            problem = "captured arrays can only be saved as .npz"
            raise InputValueError(problem, str(path), "choose a name that ends in .npz")
        check_target(target, 0, force=force)
        with atomic_writer(target, force=force) as file:
            np.savez(file, **_flat(self._last))

    def _check(self) -> None:
        if not self.adapters:
            problem = "nothing was captured"
            remedy = "call the retriever's own evaluation inside the block"
            raise InputValueError(problem, "no matrix was evaluated in the block", remedy)


@contextmanager
def capture(name: str, *, module: ModuleType | None = None, **settings: Any) -> Iterator[Captured]:
    """Capture features, masks and matrix of the evaluation in the block; re-score at its end.

    Parameters
    ----------
    name : {"clip4clip", "clip2video", "x-clip", "drl", "emcl-net", "mmt"}
        The retriever.
    module : module, optional
        Module that defines the evaluation. Default: the loaded module with these functions.
    **settings
        Keyword arguments of :func:`emcl_plugin.rescore`.

    Yields
    ------
    Captured
        Its ``result`` and ``summary()`` are available after the block. The retriever's functions
        are always restored. After an exception, nothing is re-scored. InputValueError is raised for
        an unknown retriever, an evaluation that is not loaded, and at the end if none ran.

    Examples
    --------
    ::

        from main_task_retrieval import eval_epoch  # CLIP4Clip's own
        with emcl_plugin.adapters.capture("clip4clip") as run:
            eval_epoch(args, model, test_dataloader, device, n_gpu)
        print(run.summary())
    """
    if name not in _HOOKS:
        remedy = f"use one of {', '.join(_HOOKS)}"
        raise InputValueError("cannot capture this retriever", repr(name), remedy)
    found = Captured(settings)
    with _HOOKS[name](_home(name) if module is None else module, found):
        yield found
    found._check()
    found.results = [adapter.rescore(**settings) for adapter in found.adapters]


def _home(name: str) -> ModuleType:
    """Return the loaded module that defines the retriever's functions."""
    needed, defines = ((SHARDED, GATHER), _trainers) if name == "mmt" else ((RUN, METRICS), _runs)
    homes = [module for module in list(sys.modules.values()) if defines(module)]
    if len(homes) != 1:
        several = f"several modules may be {name}"
        listed = ", ".join(sorted(module.__name__ for module in homes)) or "no loaded module"
        problem = several if homes else f"the evaluation of {name} was not found"
        remedy = "import it first, or pass module="
        raise InputValueError(problem, f"{listed} with {' and '.join(needed)}", remedy)
    return homes[0]


@contextmanager
def _replaced(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Call ``around(original, ...)`` in place of ``owner.name`` while the block runs."""
    if name not in vars(owner):
        yield
        return
    original = vars(owner)[name]

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _runs(module: ModuleType) -> bool:
    """Return whether the module defines the functions of CLIP4Clip's evaluation."""
    known = getattr(module, "__dict__", {})
    return METRICS in known and getattr(known.get(RUN), "__globals__", None) is known


# --- CLIP4Clip and its descendants ----------------------------------------------------------


def _matrix_hooks(build: Callable[..., None]) -> Callable[..., Any]:
    """Record calls of ``_run_on_single_gpu``, maybe by several threads, until a matrix is measured.

    ``build`` adds the adapter, given the arguments of the calls and the matrix.
    """

    @contextmanager
    def hooks(module: ModuleType, found: Captured) -> Iterator[None]:
        calls: list[tuple[tuple[Any, ...], list[Any]]] = []

        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            rows = original(*args, **kwargs)
            calls.append(((*args, *kwargs.values()), rows))
            return rows

        def measure(original: Callable[..., Any], sim: Any, *args: Any, **kwargs: Any) -> Any:
            if calls:  # with several GPUs, each covers a part of the texts
                parts = sorted(calls, key=lambda call: _device_index(call[0][1]))
                calls.clear()
                flat = np.concatenate([np.asarray(rows) for _, part in parts for rows in part])
                known: dict[str, Any] = {"orientation": "text-video"}
                if np.ndim(sim) == 3:
                    index = unpadded(np.asarray(sim))[1]
                    known["cut_off_points"] = np.cumsum(np.bincount(index))
                build(found, [args for args, _ in parts], flat, known)
            return original(sim, *args, **kwargs)

        with (
            _replaced(module, RUN, run),
            _replaced(module, METRICS, measure),
            _replaced(module, PADDED, measure),
        ):
            yield

    return hooks


def _device_index(batches: Any) -> int:
    """Return the GPU index of the first tensor of nested lists."""
    while isinstance(batches, list | tuple) and batches:
        batches = batches[0]
    return batches.device.index or 0 if isinstance(batches, torch.Tensor) else 0


def _kept(batches: Any) -> list[torch.Tensor]:
    """Detach to CPU; keep the first element of a tuple."""
    flat = [batch[0] if isinstance(batch, list | tuple) else batch for batch in batches]
    return [batch.detach().float().cpu() for batch in flat]


def _scale(model: Any) -> float | None:
    """Return CLIP's exp(logit_scale), if the model has one."""
    scale = getattr(getattr(model, "clip", model), "logit_scale", None)
    return float(scale.detach().exp()) if isinstance(scale, torch.Tensor) else None


def _clip4clip(kind: type[CLIP4Clip], last: int) -> Callable[..., None]:
    """Return a builder for (model, text batches, video batches, text features, ..., frames)."""

    def build(found: Captured, calls: Calls, sim: np.ndarray[Any, Any], truth: Any) -> None:
        model, _, videos, *_ = calls[0]
        given: dict[str, Any] = {"sim": sim, "logit_scale": _scale(model), **truth}
        texts = torch.cat([part for call in calls for part in _kept(call[3])])
        frames = torch.cat(_kept(calls[0][last]))
        vectors = texts.ndim == 2 or texts.shape[1] == 1  # else hidden states
        tight = getattr(model, "sim_header", "") == "tightTransf"
        if vectors and not tight and texts.shape[-1] == frames.shape[-1]:
            masks = torch.cat([mask.reshape(-1, mask.shape[-1]) for mask in _kept(videos)])
            given["text"], given["video"] = texts.numpy(), frames.numpy()
            given["video_mask"] = masks.numpy()
        found.add(kind, **given)

    return build


def _drl(found: Captured, calls: Calls, sim: np.ndarray[Any, Any], truth: Any) -> None:
    model, text_mask, video_mask, text, video = calls[0][:5]
    interaction = getattr(model, "interaction", None)
    weights: dict[str, Any] = {}
    if interaction == "wti":
        with torch.no_grad():
            weights["text_weights"] = model.text_weight_fc(text).squeeze(2)
            weights["video_weights"] = model.video_weight_fc(video).squeeze(2)
    tensors = {"text": text, "video": video, "text_mask": text_mask, "video_mask": video_mask}
    arrays = {name: _arrays(x) for name, x in (tensors | weights).items()}
    found.add(DRL, sim=sim, interaction=interaction, **arrays, **truth)


# --- MMT ------------------------------------------------------------------------------------


def _trainers(module: ModuleType) -> list[type]:
    """Return the classes of this module that gather the embeddings."""
    known = getattr(module, "__dict__", {})
    kinds = [x for x in known.values() if issubclass(type(x), type)] if SHARDED in known else []
    return [x for x in kinds if GATHER in vars(x) and x.__module__ == module.__name__]


@contextmanager
def _mmt_hooks(module: ModuleType, found: Captured) -> Iterator[None]:
    masks: list[tuple[Any, Any]] = []

    def gather(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        gathered = original(*args, **kwargs)
        masks.append((gathered["text_weights"], gathered["query_masks"]))
        return gathered

    def mix(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(MIXED, args, strict=False)), **kwargs}
        parts = {name: _arrays(given[name]) for name in MIXED}  # reshaped in place by MMT
        sims = original(*args, **kwargs)
        weights = given["text_weights"]
        query_masks = next((mask for key, mask in masks if key is weights), None)
        if query_masks is not None:
            parts["query_masks"] = np.asarray(query_masks)
        found.add(MMT, **parts)
        return sims

    (trainer,) = _trainers(module)[:1] or (module,)  # without a trainer, no mask
    with _replaced(trainer, GATHER, gather), _replaced(module, SHARDED, mix):
        yield


def _arrays(given: Any) -> Any:
    """Copy to the CPU, by expert if given by expert."""
    if isinstance(given, torch.Tensor):
        return given.detach().float().cpu().numpy().copy()
    return {name: _arrays(x) for name, x in given.items()}


def _flat(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return arrays by name; experts as ``text_embds.rgb``."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = np.asarray(value)
    return found


_HOOKS: dict[str, Callable[..., Any]] = {
    "clip4clip": _matrix_hooks(_clip4clip(CLIP4Clip, 4)),
    "clip2video": _matrix_hooks(_clip4clip(CLIP2Video, 4)),
    "x-clip": _matrix_hooks(_clip4clip(XCLIP, 5)),
    "drl": _matrix_hooks(_drl),
    "emcl-net": _matrix_hooks(lambda found, _, sim, truth: found.add(EMCLNet, sim=sim, **truth)),
    "mmt": _mmt_hooks,
}
