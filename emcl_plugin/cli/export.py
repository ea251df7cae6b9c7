"""`emcl-rerank export`: a saved corrector's gallery for a vector store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.bank.corrector import Corrector
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
    click.FloatRange(min=0, min_open=True),
)
@opt.source("--queries Q.npy", "Queries to convert, queries x dimensions.")
@opt.file("--queries-output QV.npy", "File for the converted queries.")
@opt.flag("--force", "Replace an earlier export.")
@opt.trust_option
@opt.quiet_option
def export_command(folder: Path, force: bool, quiet: bool, **options: Any) -> None:
    """Write the corrected gallery of the corrector in DIR for a vector store.

    Items get one extra dimension, [M v, tau g], and so do queries, [M q, s]. Their inner product is
    the corrected score, so a store that ranks by it ranks as the corrector does. For stores that
    rank by cosine or Euclidean distance only, give --space.
    """
    wanted = _Wanted.of(options)
    wanted.check()

    from emcl_plugin.cli.inputs import read_source
    from emcl_plugin.cli.show import warnings_as_notes
    from emcl_plugin.index.vectors import query_vectors
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import write_npy
    from emcl_plugin.reranker import Reranker

    space, path = wanted.space, wanted.queries_output
    with warnings_as_notes(quiet=quiet):
        corrector = Reranker.from_pretrained(folder).corrector_
        lines = [
            f"  gallery      {len(corrector)} items of dimension {corrector.dimension}, protocol "
            f"bank ({len(corrector.bank)} bank queries)"
        ]
        converted = None
        if wanted.queries is not None and path is not None:
            converted = query_vectors(corrector, read_source(wanted.queries).array, space)
            check_target(path, converted.nbytes, force=force)
        lines += _export(corrector, wanted, force=force)
        if converted is not None and path is not None:
            shape = (converted.shape[0], converted.shape[1])
            write_npy(path, shape, converted.dtype, [converted], force=force)
            size = f"{shape[0]} x {shape[1]} float32"
            queries = f"{escaped(path)} ({size}, for the space {space})"
        else:
            queries = f"--queries Q.npy --queries-output QV.npy --space {space} converts them"
    if not quiet:
        click.echo("\n".join([*lines, f"  queries      {queries}"]), err=True)


@dataclass(frozen=True, kw_only=True)
class _Wanted(opt.Group):
    """What to write, and where."""

    to: str | None
    output: Path | None
    factory: str | None
    space: str
    phi: float | None
    queries: str | None
    queries_output: Path | None

    def check(self) -> None:
        """Refuse contradictions."""
        if (self.to is None) != (self.output is None):
            raise opt.wrong_usage("--to and --output need each other")
        if (self.queries is None) != (self.queries_output is None):
            raise opt.wrong_usage("--queries and --queries-output need each other")
        if self.to is None and self.queries is None:
            raise opt.wrong_usage("nothing to write: give --to and --output, or --queries")
        if self.factory is not None and self.to != "faiss":
            raise opt.wrong_usage("--factory needs --to faiss")
        if self.phi is not None and self.space == "ip":
            raise opt.wrong_usage("--phi needs --space cosine or l2")


def _export(corrector: Corrector, wanted: _Wanted, *, force: bool) -> list[str]:
    """Write the gallery, if requested, and describe it."""
    from emcl_plugin.index.export import export

    if wanted.to is None or wanted.output is None:
        return []
    factory = wanted.factory or "Flat"
    done = export(
        corrector,
        wanted.output,
        wanted.to,
        factory=factory,
        space=wanted.space,
        phi=wanted.phi,
        force=force,
    )
    kind = f"faiss {factory}" if wanted.to == "faiss" else wanted.to
    return [
        f"  written      {escaped(wanted.output)} "
        f"({kind}, {done.count} x {done.dimension} float32)",
        f"  space        {_space(done)}",
        f"  search       {_search(done)}",
    ]


def _space(done: Exported) -> str:
    if done.phi is None:
        return _RANKED_BY[done.space]
    return f"{_RANKED_BY[done.space]}, phi {done.phi:.8g} (later items need the same phi)"


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
