"""Fixtures shared by the tests of bank mode."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from saved import V1


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the small corrector that is checked in, to be spoilt."""
    return Path(shutil.copytree(V1, tmp_path / "saved"))
