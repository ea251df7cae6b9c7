"""`emcl-rerank export`: a saved corrector's gallery for a vector store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.index.export import Exported

_STORES = ("faiss", "npy", "parquet", "lancedb", "qdrant")
_RANKED_BY = {"ip": "inner product", "cosine": "cosine", "l2": "Euclidean distance"}


@click.command(
    "export",
    cls=opt.Sections,
    epilog="\b\nExamples:\n  emcl-rerank export fitted --to faiss --output gallery.faiss\n"
    "  emcl-rerank export fitted --to faiss --factory HNSW32 --output hnsw.faiss\n"
    "  emcl-rerank export fitted --to qdrant --space cosine --output qdrant\n"
    "  emcl-rerank export fitted --queries q.npy --queries-output qv.npy",
)
@click.argument("folder", metavar="DIR", type=opt.PATH)
@opt.option("--to", "Store to write the gallery for.", click.Choice(_STORES))
@opt.file("--output -o PATH", "A file for faiss and parquet, a folder for the others.")
@opt.option(
    "--factory TEXT", 'FAISS factory string, e.g. HNSW32 or "IVF64,Flat". Default: Flat (exact).'
)
@opt.choice(
    "--space", tuple(_RANKED_BY), "What the store ranks by; ip, the inner product, if it can."
)
@opt.number(
    "--phi LENGTH",
    "With cosine and l2, where items will be added: length of the longest vector to expect. "
    "Default: that of the longest vector now.",
    kind=click.FloatRange(min=0, min_open=True),
)
@opt.source("--queries Q.npy", "Queries to convert, queries x dimensions.")
@opt.file("--queries-output QV.npy", "File for the converted queries.")
@opt.flag("--force", "Replace an earlier export.")
@opt.trust_option
@opt.quiet_option
def export_command(
    folder: Path,
    to: str | None,
    output: Path | None,
    factory: str | None,
    space: str,
    phi: float | None,
    queries: str | None,
    queries_output: Path | None,
    force: bool,
    quiet: bool,
) -> None:
    """Write the corrected gallery of the corrector in DIR for a vector store.

    Items get one extra dimension, [M v, tau g], and so do queries, [M q, s]. Their inner product is
    the corrected score, so a store that ranks by it ranks as the corrector does. For stores that
    rank by cosine or Euclidean distance only, give --space.
    """
    both = "--queries and --queries-output need each other"
    contradictions = {
        "--to and --output need each other": (to is None) != (output is None),
        both: (queries is None) != (queries_output is None),
        "nothing to write: give --to and --output, or --queries": to is None and queries is None,
        "--factory needs --to faiss": factory is not None and to != "faiss",
        "--phi needs --space cosine or l2": phi is not None and space == "ip",
    }
    opt.refuse(contradictions)

    from emcl_plugin.cli.inputs import read_source
    from emcl_plugin.cli.show import warnings_as_notes
    from emcl_plugin.index.export import export
    from emcl_plugin.index.vectors import query_vectors
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import write_npy
    from emcl_plugin.reranker import Reranker

    words = f"--queries Q.npy --queries-output QV.npy --space {space} converts them"
    with warnings_as_notes(quiet=quiet):
        corrector = Reranker.from_pretrained(folder).corrector_
        lines = [
            f"  gallery      {len(corrector)} items of dimension {corrector.dimension}, protocol "
            f"bank ({len(corrector.bank)} bank queries)"
        ]
        if queries is not None and queries_output is not None:
            converted = query_vectors(corrector, read_source(queries).array, space)
            check_target(queries_output, converted.nbytes, force=force)
        if to is not None and output is not None:
            how: dict[str, Any] = {"factory": factory or "Flat", "space": space, "phi": phi}
            lines += _described(export(corrector, output, to, **how, force=force), factory)
        if queries is not None and queries_output is not None:
            shape = (converted.shape[0], converted.shape[1])
            write_npy(queries_output, shape, converted.dtype, [converted], force=force)
            size = f"{shape[0]} x {shape[1]} float32"
            words = f"{escaped(queries_output)} ({size}, for the space {space})"
    if not quiet:
        click.echo("\n".join([*lines, f"  queries      {words}"]), err=True)


def _described(done: Exported, factory: str | None) -> list[str]:
    kind = f"faiss {factory or 'Flat'}" if done.to == "faiss" else done.to
    phi = "" if done.phi is None else f", phi {done.phi:.8g} (later items need the same phi)"
    return [
        f"  written      {escaped(done.path)} ({kind}, {done.count} x {done.dimension} float32)",
        f"  space        {_RANKED_BY[done.space]}{phi}",
        f"  search       {_search(done)}",
    ]


def _search(done: Exported) -> str:
    """Return a line of Python that searches the store with converted queries Q (one: q)."""
    metric = "dot" if done.space == "ip" else done.space
    path, file = (
        escaped(json.dumps(str(name), ensure_ascii=False))  # a text of Python's, too
        for name in (done.path, done.path / "gallery.npy")
    )
    best = "np.square(x - q).sum(1), smallest" if done.space == "l2" else "x @ q, largest"
    return {
        "faiss": f"faiss.read_index({path}).search(Q, 10)",
        "npy": f"x = np.load({file}); by {best} first",
        "parquet": f"columns id and vector; by {_RANKED_BY[done.space]}",
        "lancedb": f'lancedb.connect({path}).open_table("gallery").search(q)'
        f'.distance_type("{metric}").limit(10)',
        "qdrant": f'QdrantClient(path={path}).query_points("gallery", query=q, limit=10)',
    }[done.to]
