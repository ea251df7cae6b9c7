"""The two directions of retrieval, by the names that reports and JSON give them."""

from __future__ import annotations

DIRECTIONS = ("text -> video", "video -> text")
