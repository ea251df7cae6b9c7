"""Every example in a docstring of the installed package runs as shown."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import emcl_plugin

MODULES = [
    module.name
    for module in pkgutil.walk_packages(emcl_plugin.__path__, "emcl_plugin.")
    if not module.name.endswith(("__main__", "fused_lse"))
]
if find_spec("triton"):
    MODULES.append("emcl_plugin.ncl.fused_lse")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(len(finder.find(importlib.import_module(name))) for name in MODULES)
    assert count >= 30
