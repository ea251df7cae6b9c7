"""What a type checker infers: NumPy in, NumPy out; torch in, torch out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import emcl_plugin

SOURCE = """
from typing import Any
import numpy as np
import torch
from emcl_plugin import Reranker, rerank, rerank_top, rescore
Numpy = np.ndarray[Any, Any]

def numpy(x: Numpy) -> list[Numpy]:
    top = rerank_top((x, x), k=2)
    return [rerank(x), rerank(None, (x, x)), rerank(feats=(x, x), prior="even"),
            rescore(x, (x, x)).scores, top.scores, top.videos,
            Reranker().fit(x, x).transform(x), *Reranker().fit(x, x).search(x)]

def tensors(x: torch.Tensor) -> list[torch.Tensor]:
    top = rerank_top((x, x), k=2)
    return [rerank(x), rerank(None, (x, x)), rerank(feats=(x, x), prior="even"),
            rescore(x, (x, x)).scores, top.scores, top.videos,
            Reranker().fit(x, x).transform(x), *Reranker().fit(x, x).search(x)]

def wrong(x: Numpy) -> torch.Tensor:
    return rerank(x)
"""


@pytest.mark.slow
def test_the_kind_of_array_is_that_of_the_input(tmp_path):
    pytest.importorskip("mypy")
    file = tmp_path / "typed.py"
    file.write_text(SOURCE)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(file)]
    root = Path(emcl_plugin.__file__).parents[1]
    place = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}  # found there anyway
    environment = {**os.environ, **place}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    last = SOURCE.count("\n")
    assert len(errors) == 1, done.stdout
    assert f"typed.py:{last}: error: " in errors[0]
