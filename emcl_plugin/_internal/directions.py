"""Names of the two retrieval directions, in reports and JSON."""

from __future__ import annotations

DIRECTIONS = ("text -> video", "video -> text")
