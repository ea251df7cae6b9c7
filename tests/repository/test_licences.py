"""docs/licences.md lists every dependency; no licence is unknown, or copyleft without a note."""

from __future__ import annotations

import re

import licences
import pytest
from packaging.utils import canonicalize_name

ROWS = {
    cells[0]: cells[1:]
    for line in licences.PAGE.read_text("utf-8").splitlines()
    if re.match(r"\| [a-z0-9-]+ \| (yes)? ?\|", line)
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
DIRECT = {canonicalize_name(one.name) for extra in licences.wanted().values() for one in extra}


def test_direct_dependencies_are_listed():
    listed = {name for name, (own, *_) in ROWS.items() if own == "yes"}
    assert listed == DIRECT - {"emcl-plugin", "faiss-gpu"}  # the page's introduction has the latter


@pytest.mark.parametrize("name", ROWS)
def test_no_licence_is_unknown_or_copyleft_without_a_note(name):
    _, licence, note = ROWS[name]
    assert licence not in ("", "unknown")
    assert note == licences.NOTES.get(name, "")
    assert note or not licences.COPYLEFT.search(licence)


@pytest.mark.parametrize("name", ["click", "safetensors", "scipy", "pytest"])
def test_the_licence_is_what_the_package_says(name):
    assert licences.licence(name) == ROWS[name][1]
