"""docs/reliability.md names tests that are there, and shows the counts that were kept."""

from __future__ import annotations

import pytest
import reliability


@pytest.mark.parametrize(("section", "promise", "holders"), reliability.promises())
def test_a_promise_names_what_holds_it(section, promise, holders):
    assert section
    assert promise
    assert holders
    assert [holder for holder in holders if not reliability.exists(holder)] == []


def test_the_page_shows_the_counts_that_were_kept():
    assert reliability.page() == reliability.PAGE.read_text(encoding="utf-8"), (
        "python tests/repository/reliability.py update"
    )


def test_nothing_was_lost():
    kept = reliability.results()
    assert {result["campaign"] for result in kept} == {"tests", *reliability.FULL}
    for result in kept:
        for row in result["rows"]:
            assert row["tried"] > 0, row
            assert row["losses"] == 0, row
