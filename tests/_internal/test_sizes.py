"""Parsing and formatting of sizes in bytes."""

import pytest

from emcl_plugin._internal.sizes import format_size, parse_size
from emcl_plugin.errors import InputValueError


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("512m", 512 << 20), ("1.5 GiB", 3 << 29), ("2097152", 2 << 20),
     ("1T", 1 << 40)],
)  # fmt: skip
def test_sizes_are_parsed(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-4G", "4X", "4 G B", "12", "1K", "nan"])
def test_invalid_sizes_are_refused(text):
    with pytest.raises(InputValueError, match="for example 4G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(17, "17 B"), (1 << 20, "1.0 MiB"), (5e9, "4.7 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_formatted(size, text):
    assert format_size(size) == text
