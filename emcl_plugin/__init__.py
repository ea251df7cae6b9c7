"""Training-free re-scoring for text-video retrieval: EMCL subspaces and NCL normalization."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from emcl_plugin.version import __version__

if TYPE_CHECKING:
    from emcl_plugin.bank import BankReport
    from emcl_plugin.corrector import Corrector
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.errors import EmclError, EmclWarning
    from emcl_plugin.front import RerankResult, rerank, rescore
    from emcl_plugin.ncl import NCL
    from emcl_plugin.outcome import Report
    from emcl_plugin.reranker import Reranker
    from emcl_plugin.top import TopResult, rerank_top

# Loaded on first use, so that `emcl-rerank --help` does not wait for torch.
_HOMES = {
    "BankReport": "bank",
    "Corrector": "corrector",
    "EMCL": "emcl",
    "NCL": "ncl",
    "EmclError": "errors",
    "EmclWarning": "errors",
    "Report": "outcome",
    "RerankResult": "front",
    "Reranker": "reranker",
    "rerank": "front",
    "rescore": "front",
    "TopResult": "top",
    "rerank_top": "top",
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
