"""The version of the package, in a place that everything else may import."""

from __future__ import annotations

__version__ = "0.1.0"
