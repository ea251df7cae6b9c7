"""Every link in the documentation to a file, or to a heading of one, leads to what is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = (ROOT / "docs" / "command_line.md", ROOT / "docs" / "auto_examples" / "index.rst")
"""What the site's build writes, so that it may not be there yet."""
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path not in MADE),
]
FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


@cache
def text(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """What the headings can be linked by, on GitHub and on the site."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(text(page)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{s}-{i}" if i else s for s, last in found.items() for i in range(last + 1)}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target, anchor in LINK.findall(CODE.sub("", text(page))):
        other = (page.parent / target).resolve() if target else page
        if other in MADE:
            continue
        if not other.is_file() or (anchor and anchor not in anchors(other)):
            found.append(f"{target}#{anchor}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    assert sum(bool(LINK.search(text(page))) for page in PAGES) > len(PAGES) / 2
    (tmp_path / "other.md").write_text("# One, `tau` < 2 of *it*\n\n```sh\n# two\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](b.md) [a](#nowhere) [a](other.md#two) [a](other.md#one-tau--2-of-it) "
        "[a](https://example.org/b.md#c) `[a](b.md)`\n```text\n[a](b.md)\n```\n"
    )
    assert broken(page) == ["b.md#", "#nowhere", "other.md#two"]
