"""Settings shared by all tests, and the option --all.

A plain ``pytest`` needs only the packages of ``.[test]`` and takes minutes. It leaves out tests
marked ``slow``, tests of ``DATABASES``, and the folders and modules in ``SLOW``, which take long
or need more packages, a browser, a GPU or data that do not ship with the package.
``pytest --all`` runs everything, with ``.[test-all]`` installed.
"""

import inspect
import os
import re
import sys
from functools import partialmethod
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from hypothesis import settings

from emcl_plugin.io import torch_file

TESTS = Path(__file__).parent
SLOW = [
    TESTS / name
    for name in (
        "bank/test_bank_real.py",
        "cli/test_faults.py",
        "io/test_fuzz_corpus.py",
        "ncl/test_fused_kernel.py",
        "report/test_page_seen.py",
        "repository",
        "service/test_service_described.py",
        "service/test_service_load.py",
        "test_cuda.py",
        "test_readme.py",
        "test_shared_data.py",
    )
]
DATABASES = re.compile("lancedb|qdrant")

sys.path.insert(0, str(TESTS / "repository"))  # campaigns

# one thread each, here and in processes that tests start: the arrays are small
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

if not torch.cuda.is_available():  # heeded when a kernel is first defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("ci")

if torch.__version__ < torch_file.SAFE_TORCH:  # the .pt files of the tests can be trusted
    torch_file.SAFE_TORCH = "2.4"

if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click 8.1, as 8.2 does it
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)
    Result.output = property(lambda result: result.stdout + result.stderr)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests, too")


def pytest_report_header(config):
    if not config.option.all:
        return "fast tests only; run all with: pip install '.[test-all]' && pytest --all"
    return None


def pytest_ignore_collect(collection_path, config):
    return True if collection_path in SLOW and not config.option.all else None


def pytest_collection_modifyitems(config, items):
    for item in items:
        folders = (item.path, *item.path.parents)
        if DATABASES.search(item.name) or any(path in SLOW for path in folders):
            item.add_marker("slow")
    if not config.option.all:
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
