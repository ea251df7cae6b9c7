"""docs/licences.md lists what is needed; nothing is unknown, or copyleft without a note."""

from __future__ import annotations

import re

import licences
import pytest
from packaging.utils import canonicalize_name

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in licences.PAGE.read_text("utf-8").splitlines()
    if re.match(r"\| [a-z0-9-]+ \| (yes)? ?\|", line) and not line.startswith("| package")
]
NOT_LISTED = {"emcl-plugin", "faiss-gpu"}  # the latter has its words above the tables
DIRECT = {
    canonicalize_name(one.name) for extra in licences.wanted().values() for one in extra
} - NOT_LISTED


def test_direct_dependencies_are_listed():
    assert len(ROWS) > 60
    assert {name for name, own, *_ in ROWS if own == "yes"} == DIRECT


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_no_licence_is_unknown_or_copyleft_without_a_note(row):
    name, _, licence, note = row
    assert licence not in ("", "unknown")
    assert note == licences.NOTES.get(name, "")
    assert note or not licences.COPYLEFT.search(licence)


@pytest.mark.parametrize("name", ["click", "safetensors", "scipy", "pytest"])
def test_the_licence_is_what_the_package_says(name):
    (listed,) = [licence for row, _, licence, _ in ROWS if row == name]
    assert licences.licence(name) == listed
