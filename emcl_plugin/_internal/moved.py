"""Old module names, which work for one minor version with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from emcl_plugin._internal.warn import renamed

PACKAGE = "emcl_plugin."
MOVED = {
    "compare": "evaluation.compare",
    "corrector": "bank.corrector",
    "demo": "data.demo",
    "experts": "emcl.experts",
    "export": "index.export",
    "front": "api",
    "guard": "evidence.guard",
    "hubness": "evaluation.hubness",
    "job": "pipeline.job",
    "metrics": "evaluation.metrics",
    "outcome": "pipeline.report",
    "prior": "evidence.prior",
    "serving": "index.faiss",
    "significance": "evaluation.significance",
    "similarity": "scores",
    "spaces": "index.vectors",
    "study": "evaluation.ablation",
    "tokens": "scores.tokens",
    "top": "api",
    "truth": "ground_truth",
}
"""From names documented in 0.1 to new names; removed in 0.2."""


class _Alias(Loader):
    def exec_module(self, module: ModuleType) -> None:
        new = importlib.import_module(PACKAGE + MOVED[module.__name__.removeprefix(PACKAGE)])
        vars(module)["__getattr__"] = partial(getattr, new)


class _Finder(MetaPathFinder):
    """Find old names, after all other finders have failed."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        old = name.removeprefix(PACKAGE)
        if old == name or old not in MOVED:
            return None
        renamed(name, PACKAGE + MOVED[old])
        return ModuleSpec(name, _Alias())


def keep_old_names() -> None:
    """Install the finder of old names."""
    sys.meta_path.append(_Finder())
