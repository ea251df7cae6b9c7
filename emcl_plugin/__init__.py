"""Training-free re-scoring for text-video retrieval: EMCL subspaces and NCL normalization."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from emcl_plugin._internal.moved import keep_old_names
from emcl_plugin.version import __version__

if TYPE_CHECKING:
    from emcl_plugin.api import RerankResult, TopResult, rerank, rerank_top, rescore
    from emcl_plugin.bank import BankReport
    from emcl_plugin.bank.corrector import Corrector
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.errors import EmclError, EmclWarning
    from emcl_plugin.ncl import NCL
    from emcl_plugin.pipeline.report import Report
    from emcl_plugin.reranker import Reranker

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Loaded on first use, so that `emcl-rerank --help` does not wait for torch.
_HOMES = {
    "BankReport": "bank",
    "Corrector": "bank.corrector",
    "EMCL": "emcl",
    "NCL": "ncl",
    "EmclError": "errors",
    "EmclWarning": "errors",
    "Report": "pipeline.report",
    "RerankResult": "api",
    "Reranker": "reranker",
    "rerank": "api",
    "rescore": "api",
    "TopResult": "api",
    "rerank_top": "api",
}

__all__ = [
    "EMCL",
    "NCL",
    "BankReport",
    "Corrector",
    "EmclError",
    "EmclWarning",
    "Report",
    "RerankResult",
    "Reranker",
    "TopResult",
    "__version__",
    "rerank",
    "rerank_top",
    "rescore",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


keep_old_names()
