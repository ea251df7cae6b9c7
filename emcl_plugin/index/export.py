"""Export of a corrector's gallery for FAISS, NumPy, Parquet, LanceDB and Qdrant.

Each export is written to a temporary name and then renamed, so a target is complete or absent.
An item's id is its name, or its index if the gallery has no names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.errors import EmclError, InputFileError, InputValueError, ran_out_of_memory
from emcl_plugin.index.faiss import to_faiss
from emcl_plugin.index.mips import Vectors
from emcl_plugin.index.vectors import gallery_vectors, longest, require
from emcl_plugin.io.atomic import atomic_folder, atomic_writer, check_folder_target, check_target
from emcl_plugin.io.npy import write_npy
from emcl_plugin.io.write import checked_ids

TABLE = "gallery"
"""Name of the LanceDB table and of the Qdrant collection."""


@dataclass(frozen=True)
class Exported:
    """Description of an export.

    ``dimension`` is D + 1, for "cosine" and "l2" D + 2. ``phi`` is the upper bound of the vectors'
    lengths, which later items need, too; None for "ip".
    """

    path: Path
    to: str
    space: str
    count: int
    dimension: int
    phi: float | None


def export(
    corrector: Corrector,
    target: str | Path,
    to: str,
    *,
    factory: str = "Flat",
    space: str = "ip",
    phi: float | None = None,
    force: bool = False,
) -> Exported:
    """Write the gallery's exported vectors for a store.

    Parameters
    ----------
    corrector : Corrector
    target : path
        A file for "faiss" and "parquet", a folder for the others.
    to : {"faiss", "npy", "parquet", "lancedb", "qdrant"}
        "faiss" writes an index, and FILE.ids.txt next to it if the gallery has names; "npy"
        gallery.npy, and ids.txt if it has names; "parquet" the columns id and vector; "lancedb"
        a database with the table gallery (id, vector); "qdrant" an embedded database with the
        collection gallery (payload id).
    factory : str
        Index of "faiss", see :func:`~emcl_plugin.index.faiss.to_faiss`.
    space, phi
        As in :func:`~emcl_plugin.index.vectors.gallery_vectors`.
    force : bool
        Replace an earlier export. A folder with other files is never replaced.

    Raises
    ------
    InputFileError, InputValueError
        The target exists, or cannot be written. Unknown store, space or index; an item is longer
        than phi.
    MissingLibraryError
        The store's library is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> reranker = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(reranker.corrector_, f"{folder}/out", "npy")
    ...     np.load(done.path / "gallery.npy").shape, sorted(p.name for p in done.path.iterdir())
    ((945, 129), ['gallery.npy', 'ids.txt'])
    """
    target = Path(target)
    if to not in WRITERS:
        raise InputValueError("no such store", repr(to), f"use one of {', '.join(WRITERS)}")
    if factory != "Flat" and to != "faiss":
        received = f"factory={factory!r}, to={to!r}"
        raise InputValueError("an index factory is for FAISS only", received, "omit it")
    broken = [name for name in corrector.names if "\n" in name or "\r" in name]
    if broken and to in ("faiss", "npy"):
        problem = "a name holds a line break, and ids are written one per line"
        remedy = 'export to "parquet", "lancedb" or "qdrant", or fit with other names'
        raise InputValueError(problem, repr(broken[0]), remedy)
    checked_ids(corrector.names or None, len(corrector), "gallery")
    writer = WRITERS[to]
    if writer.library:
        require(writer.library)
    size = 4 * len(corrector) * (corrector.dimension + 1)
    if writer.folder is None:
        for path in (target, _ids_path(target)):
            check_target(path, size, force=force)
    else:
        check_folder_target(target, size, force=force, files=writer.folder)
    if phi is None and space != "ip":
        phi = longest(corrector)
    vectors = gallery_vectors(corrector, space, phi=phi)
    job = _Job(corrector, vectors, factory, space, phi)
    try:
        if writer.folder is None:
            writer.write(job, target, force)
        else:
            with atomic_folder(target, force=force, files=writer.folder) as part:
                writer.write(job, part, force)
    except (EmclError, MemoryError):
        raise
    except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
        if ran_out_of_memory(error):
            raise
        problem = f"the export to {to} failed; nothing was written"
        remedy = "free disk space, or choose another target"
        raise InputFileError(problem, f"{target}: {error}", remedy) from error
    count, dimension = vectors.shape
    return Exported(target, to, space, count, dimension, None if space == "ip" else phi)


# --- the stores ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    corrector: Corrector
    vectors: Vectors
    factory: str
    space: str
    phi: float | None

    @property
    def ids(self) -> list[str]:
        return list(self.corrector.names) or [str(i) for i in range(len(self.corrector))]

    @property
    def lines(self) -> bytes:
        return "".join(f"{name}\n" for name in self.ids).encode()

    def table(self) -> Any:
        """(id, vector) as an Arrow table."""
        arrow = require("pyarrow")
        flat = arrow.array(self.vectors.reshape(-1))
        rows = arrow.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return arrow.table({"id": arrow.array(self.ids, arrow.string()), "vector": rows})


def _faiss(job: _Job, path: Path, force: bool) -> None:
    faiss = require("faiss")
    index = to_faiss(job.corrector, job.factory, space=job.space, phi=job.phi)
    ids_path = _ids_path(path)
    with ExitStack() as stack:  # the ids are renamed first
        file = stack.enter_context(atomic_writer(path, force=force))
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        if job.corrector.names:
            stack.enter_context(atomic_writer(ids_path, force=force)).write(job.lines)
    if not job.corrector.names:
        ids_path.unlink(missing_ok=True)  # of an earlier export


def _npy(job: _Job, folder: Path, _: bool) -> None:
    write_npy(folder / "gallery.npy", job.vectors.shape, np.dtype(np.float32), [job.vectors])
    if job.corrector.names:
        (folder / "ids.txt").write_bytes(job.lines)


def _parquet(job: _Job, path: Path, force: bool) -> None:
    parquet = require("pyarrow.parquet")
    with atomic_writer(path, force=force) as file:
        parquet.write_table(job.table(), file)


def _lancedb(job: _Job, folder: Path, _: bool) -> None:
    require("lancedb").connect(str(folder)).create_table(TABLE, job.table())


def _qdrant(job: _Job, folder: Path, _: bool) -> None:
    qdrant = require("qdrant_client")
    distances = {"ip": "DOT", "cosine": "COSINE", "l2": "EUCLID"}
    distance = qdrant.models.Distance[distances[job.space]]
    client = qdrant.QdrantClient(path=str(folder))
    try:
        size = job.vectors.shape[1]
        params = qdrant.models.VectorParams(size=size, distance=distance)
        client.create_collection(TABLE, vectors_config=params)
        with suppress(AttributeError):  # otherwise every point waits for the disk
            points = client._client.collections[TABLE].storage.storage
            points.execute("PRAGMA synchronous = OFF")
        ids, payload = range(len(job.vectors)), ({"id": name} for name in job.ids)
        client.upload_collection(TABLE, job.vectors, payload, ids, wait=True)
    finally:
        client.close()


@dataclass(frozen=True)
class _Writer:
    """A store's writer, the library it needs and, if it writes a folder, all files in it."""

    write: Callable[[_Job, Path, bool], None]
    library: str = ""
    folder: tuple[str, ...] | None = None


_QDRANT = ("meta.json", ".lock", "collection/", f"collection/{TABLE}/")
WRITERS = {
    "faiss": _Writer(_faiss, "faiss"),
    "npy": _Writer(_npy, "", ("gallery.npy", "ids.txt")),
    "parquet": _Writer(_parquet, "pyarrow"),
    "lancedb": _Writer(_lancedb, "lancedb", (f"{TABLE}.lance/",)),
    "qdrant": _Writer(_qdrant, "qdrant_client", _QDRANT),
}


def _ids_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ids.txt")
