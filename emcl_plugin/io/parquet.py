"""Vectors in ``.parquet`` and Arrow's ``.feather`` and ``.arrow``: a column of lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emcl_plugin.io.members import Matrix, check_claim, check_magic, library, parsing, pick


def read_parquet(path: Path, key: str | None = None) -> Matrix:
    """The column of vectors; by name, where there are several."""
    check_magic(path, b"PAR1", "a Parquet file")
    parquet = library("pyarrow.parquet", path)
    with parsing(path, "Parquet"):
        schema = parquet.read_schema(path)
        name = pick({field.name: 2 for field in schema if _is_list(field.type)}, key, path)
        check_claim(8 * _count(parquet.read_metadata(path), name), path.stat().st_size, path)
        return _vectors(parquet.read_table(path, columns=[name]).column(0), name)


def _count(metadata: Any, name: str) -> int:
    """Numbers in a column."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    columns = (group.column(i) for group in groups for i in range(group.num_columns))
    return sum(x.num_values for x in columns if x.path_in_schema.split(".")[0] == name)


def read_arrow(path: Path, key: str | None = None) -> Matrix:
    """As :func:`read_parquet`, of Arrow's file format."""
    check_magic(path, b"ARROW1", "an Arrow file")
    arrow, ipc = library("pyarrow", path), library("pyarrow.ipc", path)
    with parsing(path, "Arrow"), arrow.memory_map(str(path)) as file:
        table = ipc.open_file(file).read_all()
        name = pick({field.name: 2 for field in table.schema if _is_list(field.type)}, key, path)
        return _vectors(table.column(name), name)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _vectors(column: Any, name: str) -> Matrix:
    """(n, D) of a column of n lists."""
    from pyarrow import compute

    if column.null_count:
        raise ValueError(f"column {name}: {column.null_count} rows without a vector")
    lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"column {name}: vectors of lengths {sorted(lengths)[:5]}")
    values = compute.list_flatten(column)
    if values.null_count:
        raise ValueError(f"column {name}: {values.null_count} missing numbers")
    if str(values.type) not in ("halffloat", "float", "double"):
        raise ValueError(f"column {name} holds {values.type}")
    array: Matrix = values.to_numpy()
    return array.reshape(len(column), -1)
