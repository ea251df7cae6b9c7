"""Callback for PyTorch Lightning that re-scores every validation and test epoch.

``RerankCallback`` is created on first access, so that this module can be imported without
Lightning. It derives from ``lightning`` or ``pytorch_lightning``, whichever is loaded or installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emcl_plugin._internal.arrays import compute_dtype
from emcl_plugin.adapters.collect import Collected, Collector
from emcl_plugin.api import RerankResult
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.scores import Dense

KEYS = ("text", "video", "ids", "text_ids", "video_ids")
"""Keys of a step's mapping that are passed to :meth:`Collector.add`."""
HOMES = ("lightning.pytorch", "pytorch_lightning")


class RerankHooks:
    """The hooks of ``RerankCallback``, which adds Lightning's Callback as a base class.

    ``validation_step`` and ``test_step`` return a mapping with any of ``text``, ``video``, ``ids``,
    ``text_ids`` and ``video_ids``, as :meth:`Collector.add` takes them. After an epoch, ``adapter``
    is what all processes collected, ``result`` its re-scored matrix.

    Parameters
    ----------
    collector : Collector, optional
        Default: a new one.
    prefix : str, default "emcl"
        Prefix of the logged metrics: "emcl/R@1 text -> video" and "emcl/R@1 video -> text", and
        both with " before" for the retriever's own scores. Logged if the ground truth is known.
    **settings
        For :func:`emcl_plugin.rescore`.

    Examples
    --------
    ::

        from emcl_plugin.adapters.lightning import RerankCallback
        rerank = RerankCallback()
        lightning.Trainer(callbacks=[rerank]).validate(model, loader)
        print(rerank.result.scores)
    """

    def __init__(
        self, collector: Collector | None = None, *, prefix: str = "emcl", **settings: Any
    ) -> None:
        super().__init__()
        self.collector = Collector() if collector is None else collector
        self.prefix = prefix
        self.settings = settings
        self.adapter: Collected | None = None
        self.result: RerankResult[Any] | None = None

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Reset the collector."""
        del trainer, pl_module
        self.collector.reset()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *batch: Any
    ) -> None:
        """Collect the outputs of a step."""
        del pl_module, batch
        if trainer.sanity_checking or not isinstance(outputs, Mapping):
            return
        given = {key: outputs[key] for key in KEYS if key in outputs}
        if given:
            self.collector.add(**given)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Gather, re-score and log; all processes have the same values, so none are reduced."""
        if trainer.sanity_checking:
            return
        self.adapter = self.collector.finish()
        self.result = self.adapter.rescore(**self.settings)
        if self.adapter.ground_truth is not None:
            pl_module.log_dict(self._recalls(), rank_zero_only=True, sync_dist=False)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _recalls(self) -> dict[str, float]:
        assert self.adapter is not None
        assert self.result is not None
        own = self.adapter.rescore(**{**self.settings, "emcl": None, "ncl": None})
        found = {}
        for when, scores in ((" before", own.scores), ("", self.result.scores)):
            source = Dense(scores, dtype=compute_dtype(scores))
            for direction, placed in evaluate(source, self.adapter.ground_truth).directions:
                found[f"{self.prefix}/R@1 {direction}{when}"] = placed.metric("R@1")
        return found


if TYPE_CHECKING:
    RerankCallback = RerankHooks


def __getattr__(name: str) -> Any:
    if name != "RerankCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    about = {"__module__": __name__, "__doc__": RerankHooks.__doc__}
    globals()[name] = type(name, (RerankHooks, _callback()), about)
    return globals()[name]


def _callback() -> type:
    """Return Lightning's Callback, preferably of the package that is loaded."""
    for home in sorted(HOMES, key=lambda home: home not in sys.modules):
        try:
            kind: type = importlib.import_module(home).Callback
        except ImportError:
            continue
        return kind
    problem = "PyTorch Lightning is not installed"
    raise EmclError(problem, f"neither {' nor '.join(HOMES)}", "pip install lightning")
