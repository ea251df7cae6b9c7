"""`emcl-rerank export`: a saved corrector's gallery for a vector store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emcl_plugin.cli.options import SOURCE, trust_option
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.index.export import Exported

_PATH = click.Path(path_type=Path)
_STORES = ("faiss", "npy", "parquet", "lancedb", "qdrant")
_RANKED_BY = {"ip": "inner product", "cosine": "cosine", "l2": "Euclidean distance"}


@click.command(
    "export",
    epilog="\b\nExamples:\n  emcl-rerank export fitted --to faiss --output gallery.faiss\n"
    "  emcl-rerank export fitted --to faiss --factory HNSW32 --output hnsw.faiss\n"
    "  emcl-rerank export fitted --to qdrant --space cosine --output qdrant\n"
    "  emcl-rerank export fitted --queries q.npy --queries-output qv.npy",
)
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--to", type=click.Choice(_STORES), help="What to write the gallery for.")
@click.option(
    "--output",
    "-o",
    type=_PATH,
    metavar="PATH",
    help="A file for faiss and parquet, a folder for the others.",
)
@click.option(
    "--factory",
    metavar="TEXT",
    help='FAISS\'s factory string, e.g. HNSW32 or "IVF64,Flat". Default: Flat, which is exact.',
)
@click.option(
    "--space",
    type=click.Choice(tuple(_RANKED_BY)),
    default="ip",
    show_default=True,
    help="What the store ranks by. ip, the inner product, wherever it can.",
)
@click.option(
    "--phi",
    type=click.FloatRange(min=0, min_open=True),
    metavar="LENGTH",
    help="With cosine and l2: longest vector to allow for, where items will be added. "
    "Default: the longest there is.",
)
@click.option(
    "--queries", type=SOURCE, metavar="Q.npy", help="Queries to convert, queries x dimensions."
)
@click.option(
    "--queries-output", type=_PATH, metavar="QV.npy", help="Where the converted queries go."
)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
@trust_option
@click.option("--quiet", "-q", is_flag=True, help="No summary.")
@click.pass_context
def export_command(
    context: click.Context,
    /,
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

    Each item has one vector of one dimension more, [M v, tau g], and each query one, [M q, s],
    whose inner product is the corrected score: a store that ranks by it ranks as the corrector
    does. For stores that know only cosine or Euclidean distance give --space.
    """
    _check(context, to, output, factory, space, phi, queries, queries_output)

    from emcl_plugin.cli.inputs import read_source
    from emcl_plugin.cli.show import warnings_as_notes
    from emcl_plugin.index.export import export
    from emcl_plugin.index.mips import query_vectors
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import write_npy
    from emcl_plugin.reranker import Reranker

    with warnings_as_notes(quiet=quiet):
        corrector = Reranker.from_pretrained(folder).corrector_
        lines = [
            f"  gallery      {len(corrector)} items of dimension {corrector.dimension}, protocol "
            f"bank ({len(corrector.bank)} bank queries)"
        ]
        converted = None
        if queries is not None and queries_output is not None:
            converted = query_vectors(corrector, read_source(queries).array, space)
            check_target(queries_output, converted.nbytes, force=force)
        if to is not None and output is not None:
            done = export(
                corrector,
                output,
                to,
                factory=factory or "Flat",
                space=space,
                phi=phi,
                force=force,
            )
            kind = f"{to} {factory or 'Flat'}" if to == "faiss" else to
            lines += [
                f"  written      {escaped(output)} "
                f"({kind}, {done.count} x {done.dimension} float32)",
                f"  space        {_space(done)}",
                f"  search       {_search(done)}",
            ]
        if converted is not None and queries_output is not None:
            shape = (converted.shape[0], converted.shape[1])
            write_npy(queries_output, shape, converted.dtype, [converted], force=force)
            size = f"{shape[0]} x {shape[1]} float32"
            where = f"{escaped(queries_output)} ({size}, for the space {space})"
            lines.append(f"  queries      {where}")
        else:
            lines.append(
                f"  queries      --queries Q.npy --queries-output QV.npy --space {space} converts "
                "them"
            )
    if not quiet:
        click.echo("\n".join(lines), err=True)


def _check(
    context: click.Context,
    to: str | None,
    output: Path | None,
    factory: str | None,
    space: str,
    phi: float | None,
    queries: str | None,
    queries_output: Path | None,
) -> None:
    """Contradictions are wrong usage."""
    problem = None
    if (to is None) != (output is None):
        problem = "--to and --output go together: what to write, and where"
    elif (queries is None) != (queries_output is None):
        problem = "--queries and --queries-output go together"
    elif to is None and queries is None:
        problem = "there is nothing to write: give --to and --output, or --queries"
    elif factory is not None and to != "faiss":
        problem = "--factory is an index of --to faiss"
    elif phi is not None and space == "ip":
        problem = "--phi is for --space cosine and --space l2"
    if problem is not None:
        raise click.UsageError(problem, context)


def _space(done: Exported) -> str:
    if done.phi is None:
        return _RANKED_BY[done.space]
    return f"{_RANKED_BY[done.space]}, phi {done.phi:.8g} (keep it: items to come need the same)"


def _search(done: Exported) -> str:
    """One line of Python that asks the store, with converted queries Q (one query, q)."""
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
