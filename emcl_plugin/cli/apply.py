"""`emcl-rerank apply`: score new queries with a saved corrector."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli.options import SOURCE, trust_option
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    import torch

    from emcl_plugin._internal.arrays import Array
    from emcl_plugin.bank.corrector import Corrector
    from emcl_plugin.evaluation.metrics import Placement
    from emcl_plugin.ground_truth import GroundTruth

_PATH = click.Path(path_type=Path)


@click.command(
    "apply",
    epilog="\b\nExamples:\n  emcl-rerank apply fitted --text q.npy\n"
    "  emcl-rerank apply fitted --text q.npy --top 10\n"
    "  emcl-rerank apply fitted --text q.npy --gt diagonal --output out.npy",
)
@click.argument("folder", metavar="DIR", type=_PATH)
@click.option("--text", type=SOURCE, metavar="Q.npy", help="Queries that are texts.")
@click.option("--video", type=SOURCE, metavar="Q.npy", help="Queries that are videos.")
@click.option(
    "--output",
    "-o",
    type=_PATH,
    metavar="OUT",
    help="Where the scores go, queries x gallery. Default: scores.npy, with --top: top.csv.",
)
@click.option(
    "--top", type=click.IntRange(min=1), metavar="K",
    help="Only the K best of each query, with their names. E.g. 10.",
)  # fmt: skip
@click.option(
    "--gt", type=_PATH, metavar="FILE",
    help="Right item of every query, to measure the gain: as for the main command.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing output.")
@trust_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--json", "as_json", is_flag=True, help="A report on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No summary, no progress.")
@click.pass_context
def apply_command(
    context: click.Context,
    /,
    folder: Path,
    text: str | None,
    video: str | None,
    output: Path | None,
    top: int | None,
    gt: Path | None,
    force: bool,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score queries with the corrector that was saved in DIR.

    Each query is scored by itself: its scores are the same, to the last bit, alone or in any
    company, today or tomorrow.
    """
    if (text is None) == (video is None):
        raise click.UsageError("give the queries: --text or --video, one of the two", context)
    wanted = ".npy" if top is None else ".csv"
    output = output or Path("scores.npy" if top is None else "top.csv")
    if output.suffix != wanted:
        what = "scores are written as .npy" if top is None else "--top writes a table, .csv"
        raise click.UsageError(f"{what}: name the output so, not {escaped(output.name)}", context)
    started = time.perf_counter()

    from emcl_plugin._internal.arrays import Kind
    from emcl_plugin.cli.inputs import Inputs, read_ground_truth, read_source
    from emcl_plugin.cli.show import Progress, warnings_as_notes
    from emcl_plugin.evaluation.metrics import MEASURES
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import npy_size, write_npy
    from emcl_plugin.io.write import checked_ids
    from emcl_plugin.report.tables import metrics_table
    from emcl_plugin.reranker import Reranker

    vectors = read_source(text if text is not None else str(video))
    queries = vectors.array
    corrector = Reranker.from_pretrained(folder, device=device).corrector_
    kind = Kind.of(queries)
    shape = (len(queries), len(corrector))
    size = npy_size(shape, kind.dtype.itemsize) if top is None else 0
    check_target(output, size, force=force)
    if top is not None:
        checked_ids(corrector.names or None, len(corrector), "gallery")
    both = vectors.ids is not None and corrector.names
    known = Inputs(None, None, vectors.ids, corrector.names) if both else None
    truth = None if gt is None else read_ground_truth(shape, gt, None, None, None, known)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        gate = float(corrector.gate(queries).mean())
        seen = corrector.seen(queries)
        blocks = progress.rows("scoring", corrector.scores(queries), shape[0])
        if top is None:
            parts = (kind.narrow(block.cpu()).numpy() for block in blocks)
            write_npy(output, shape, kind.numpy_dtype, parts, force=force)
        else:
            _write_top(output, corrector, blocks, min(top, shape[1]), force=force)
        rows = [] if truth is None else _measured(corrector, queries, truth)
    seconds = time.perf_counter() - started
    if not quiet:
        lines = [
            ("", f"{shape[0]} queries x {shape[1]} gallery items"),
            ("protocol", f"bank ({len(corrector.bank)} bank queries made the correction)"),
            ("applied", f"{100 * corrector.strength:.0f} % of the biases"),
            ("gate", f"{100 * gate:.0f} % of the queries are like the bank's, others left alone"),
            ("leak", f"{seen or 'none'} of the queries {'is' if seen == 1 else 'are'} in the bank"),
            ("written", f"{escaped(output)}, {seconds:.1f} s in all"),
        ]  # fmt: skip
        click.echo("\n".join(f"  {name:11} {value}" for name, value in lines), err=True)
        if rows:
            click.echo(f"\n{metrics_table(rows)}", err=True)
    if as_json:
        out: dict[str, Any] = {
            "protocol": "bank",
            "queries": shape[0],
            "gallery": shape[1],
            "strength": corrector.strength,
            "likeness": gate,
            "seen_in_bank": seen,
            "output": str(output),
            "seconds": round(seconds, 3),
        }
        if rows:
            out["measured"] = {
                name: {measure: found.metric(measure) for measure in MEASURES}
                for _, name, found in rows
            }
        click.echo(json.dumps(out, indent=2))


def _write_top(
    path: Path,
    corrector: Corrector,
    blocks: Iterator[torch.Tensor],
    top: int,
    *,
    force: bool,
) -> None:
    """A table of the best items of every query."""
    from emcl_plugin.io.atomic import atomic_writer
    from emcl_plugin.io.topk import best

    with atomic_writer(path, force=force) as file:
        table = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(table)
        writer.writerow(("query", "rank", "item", "name", "score"))
        query = 0
        for block in blocks:
            scores, items = (x.tolist() for x in best(block, top))
            for row in zip(scores, items, strict=True):
                for rank, (score, item) in enumerate(zip(*row, strict=True), 1):
                    name = corrector.names[item] if corrector.names else ""
                    writer.writerow((query, rank, item, name, f"{score:.7g}"))
                query += 1
        table.flush()
        table.detach()


def _measured(
    corrector: Corrector, queries: Array, truth: GroundTruth
) -> list[tuple[str, str, Placement]]:
    """Before and after, for the metrics' table."""
    from dataclasses import replace

    from emcl_plugin.bank.corrector import Scores
    from emcl_plugin.evaluation.compare import INPUT, OURS
    from emcl_plugin.evaluation.metrics import place

    bare = replace(
        corrector,
        bias=0 * corrector.bias,
        change=corrector.change[:0],
        basis=corrector.basis[:, :0],
    )
    return [
        ("queries", name, place(Scores(of, queries), truth))
        for name, of in ((INPUT, bare), (OURS, corrector))
    ]
