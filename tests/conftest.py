"""Settings that all tests share."""

import torch
from hypothesis import settings

from emcl_plugin.io import torch_file

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("ci")

if torch.__version__ < torch_file.SAFE_TORCH:  # the .pt files of the tests can be trusted
    torch_file.SAFE_TORCH = "2.4"
