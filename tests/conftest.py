"""Settings that all tests share."""

import inspect
import os
import sys
from functools import partialmethod
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from hypothesis import settings

from emcl_plugin.io import torch_file

sys.path.insert(0, str(Path(__file__).parent / "repository"))  # of campaigns

if not torch.cuda.is_available():  # heeded when a kernel is first defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("ci")

if torch.__version__ < torch_file.SAFE_TORCH:  # the .pt files of the tests can be trusted
    torch_file.SAFE_TORCH = "2.4"

if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click 8.1, as 8.2 does it
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)
    Result.output = property(lambda result: result.stdout + result.stderr)
