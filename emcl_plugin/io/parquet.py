"""``.parquet`` and Arrow's ``.feather`` and ``.arrow``: a column of vectors and one of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emcl_plugin.io.members import (
    Matrix,
    check_claim,
    check_magic,
    check_ratio,
    library,
    parsing,
    pick,
    utf8_name,
)
from emcl_plugin.io.out_of_core import gather
from emcl_plugin.io.safetensor import json_list
from emcl_plugin.io.vectors import ID_NAMES, Ids, Vectors, as_ids, check_count


@contextmanager
def _opened(path: Path, **how: Any) -> Iterator[Any]:
    check_magic(path, b"PAR1", "a Parquet file")
    reader = library("pyarrow.parquet", path).ParquetFile
    with parsing(path, "Parquet"), utf8_name(path) as named, reader(named, **how) as file:
        yield file


def read_parquet(path: Path, key: str | None = None) -> Vectors:
    """Return the column of vectors, by name if there are several, and the column of ids."""
    with _opened(path) as file:
        schema = file.schema_arrow
        name = _vector_column(schema, key, path)
        numbers = sum(piece.num_values for piece in _pieces(file, name))
        check_ratio(8 * numbers, path.stat().st_size, path)
        batches = file.iter_batches(columns=[name])
        array = gather((_vectors(batch.column(0), name) for batch in batches), path)
        return _labelled(array, schema, _parquet_ids(path, schema), path)


def _pieces(file: Any, name: str) -> Iterator[Any]:
    """Yield the metadata of a column's chunks; pyarrow checks it when it reads a row of each."""
    counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    if min(counts, default=0) < 0 or sum(counts) != file.metadata.num_rows:
        raise ValueError(f"{file.metadata.num_rows} rows, but {sum(counts)} in its row groups")
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    for group in range(file.num_row_groups):
        next(file.iter_batches(1, row_groups=[group], columns=[name]), None)
        for i, path in enumerate(paths):
            if path == name or path.startswith(f"{name}."):
                yield file.metadata.row_group(group).column(i)


def read_ids(path: Path) -> Ids | None:
    """Return the column of ids of a table without vectors, or None."""
    with _opened(path) as file:
        return _parquet_ids(path, file.schema_arrow)


def _parquet_ids(path: Path, schema: Any) -> Ids | None:
    name = _id_column(schema)
    return None if name is None else _ids(_column(path, name))


def _column(path: Path, name: str) -> Any:
    """Read a column dictionary-encoded: a million rows may share one long text."""
    with _opened(path, read_dictionary=[name]) as file:
        size = sum(piece.total_uncompressed_size for piece in _pieces(file, name))
        check_claim(max(size, 8 * file.metadata.num_rows), path.stat().st_size, path)
        return file.read([name]).column(0)


def read_columns(path: Path, names: Collection[str]) -> dict[str, list[Any]]:
    """Return those of these columns that the table has, as Python lists."""
    with _opened(path) as file:
        there = file.schema_arrow.names
        for name in names:
            _check_once(name, there)
        found = {name: _entries(_column(path, name)) for name in names if name in there}
        if len({len(entries) for entries in found.values()}) > 1:
            raise ValueError("its columns are not equally long")
        return found


def read_arrow(path: Path, key: str | None = None) -> Vectors:
    """Do the same as :func:`read_parquet` for Arrow's file format."""
    check_magic(path, b"ARROW1", "an Arrow file")
    arrow, ipc = library("pyarrow", path), library("pyarrow.ipc", path)
    with parsing(path, "Arrow"), utf8_name(path) as named, arrow.memory_map(str(named)) as source:
        schema = ipc.open_file(source).schema
        name, id_name = _vector_column(schema, key, path), _id_column(schema)

        def column(wanted: str) -> Any:
            """Yield a column's batches; other columns are not decompressed."""
            options = ipc.IpcReadOptions(included_fields=[schema.get_field_index(wanted)])
            file = ipc.open_file(source, options=options)
            for i in range(file.num_record_batches):
                batch = file.get_batch(i).column(0)
                batch.validate(full=True)
                yield batch

        array = gather((_vectors(batch, name) for batch in column(name)), path)
        ids = None if id_name is None else _ids(arrow.chunked_array(column(id_name)))
        return _labelled(array, schema, ids, path)


# --- columns -------------------------------------------------------------------------------------


def _vector_column(schema: Any, key: str | None, path: Path) -> str:
    name = pick({field.name: 2 for field in schema if _is_list(field.type)}, key, path)
    _check_once(name, schema.names)
    return name


def _check_once(name: str, there: list[str]) -> None:
    if there.count(name) > 1:
        raise ValueError(f"several columns are called {name}")


def _id_column(schema: Any) -> str | None:
    """Return the first column of texts or integers with a name of :data:`ID_NAMES`."""
    from pyarrow import types

    def holds_ids(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))

    known = [name for name in ID_NAMES if schema.names.count(name) == 1]
    return next((name for name in known if holds_ids(schema.field(name).type)), None)


def _ids(column: Any) -> Ids | None:
    return None if column.null_count else as_ids(_entries(column))


def _entries(column: Any) -> list[Any]:
    """Return a list in which equal entries of a dictionary column are one object."""
    from pyarrow import types

    found: list[Any] = []
    if not types.is_dictionary(column.type):
        found += column.to_pylist()
        return found
    for part in column.chunks:
        words = part.dictionary.to_pylist()
        found += [None if i is None else words[i] for i in part.indices.to_pylist()]
    return found


def _labelled(array: Matrix, schema: Any, ids: Ids | None, path: Path) -> Vectors:
    """Add the ids of the rows, and those of the columns from the schema's metadata."""
    notes = {name.decode(): text.decode() for name, text in (schema.metadata or {}).items()}
    columns = as_ids(json_list(notes, "video_ids"))
    if ids is not None:
        check_count(ids, array, path)
    return Vectors(array, ids, columns if columns and len(columns) == array.shape[1] else None)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _vectors(column: Any, name: str) -> Matrix:
    """Return an (n, D) array of a column of n lists."""
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
    array: Matrix = values.to_numpy(zero_copy_only=False)
    return array.reshape(len(column), -1)
