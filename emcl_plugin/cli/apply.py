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

from emcl_plugin.cli import options as opt
from emcl_plugin.cli.inputs import Inputs, TruthFiles, read_source
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    import torch

    from emcl_plugin._internal.arrays import Array
    from emcl_plugin.bank.corrector import Corrector
    from emcl_plugin.cli.show import Progress
    from emcl_plugin.evaluation.metrics import Placement
    from emcl_plugin.ground_truth import GroundTruth

    Rows = list[tuple[str, str, Placement]]


@click.command(
    "apply",
    cls=opt.Sections,
    epilog="\b\nExamples:\n  emcl-rerank apply fitted --text q.npy\n"
    "  emcl-rerank apply fitted --text q.npy --top 10\n"
    "  emcl-rerank apply fitted --text q.npy --gt diagonal --output out.npy",
)
@click.argument("folder", metavar="DIR", type=opt.PATH)
@opt.source("--text Q.npy", "Queries that are texts.")
@opt.source("--video Q.npy", "Queries that are videos.")
@opt.file(
    "--output -o OUT",
    "File for the scores, queries x gallery. Default: scores.npy; with --top: top.csv.",
)
@opt.number("--top K", "Write only the K best items of each query, with their names. E.g. 10.")
@opt.file("--gt FILE", "Right item of every query, to measure the gain; as in the main command.")
@opt.force_option
@opt.trust_option
@opt.device_option
@opt.json_option
@opt.quiet_option
def apply_command(
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
    batch.
    """
    if (text is None) == (video is None):
        raise opt.wrong_usage("give the queries with either --text or --video")
    output = _named(output, top)
    started = time.perf_counter()

    from emcl_plugin.cli.show import Progress, warnings_as_notes
    from emcl_plugin.reranker import Reranker

    vectors = read_source(text if text is not None else str(video))
    queries = vectors.array
    corrector = Reranker.from_pretrained(folder, device=device).corrector_
    _check(output, queries, corrector, top, force=force)
    both = vectors.ids is not None and corrector.names
    known = Inputs(None, None, vectors.ids, corrector.names) if both else None
    shape = (len(queries), len(corrector))
    truth = None if gt is None else TruthFiles(gt=gt).read(shape, known)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        gate = float(corrector.gate(queries).mean())
        seen = corrector.seen(queries)
        _write(output, queries, corrector, top, progress, force=force)
        rows = [] if truth is None else _measured(corrector, queries, truth)
    facts = {
        "protocol": "bank",
        "queries": shape[0],
        "gallery": shape[1],
        "strength": corrector.strength,
        "likeness": gate,
        "seen_in_bank": seen,
        "output": str(output),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if not quiet:
        _summarise(facts, len(corrector.bank), rows)
    if as_json:
        click.echo(json.dumps({**facts, **_measured_to_dict(rows)}, indent=2))


def _named(output: Path | None, top: int | None) -> Path:
    """Return the output; a suffix that does not fit is wrong usage."""
    output = output or Path("scores.npy" if top is None else "top.csv")
    if output.suffix != (".npy" if top is None else ".csv"):
        what = "scores need an .npy" if top is None else "--top needs a .csv"
        raise opt.wrong_usage(f"{what} output, not {escaped(output.name)}")
    return output


def _check(
    output: Path, queries: Array, corrector: Corrector, top: int | None, *, force: bool
) -> None:
    """Check that the output can be written."""
    from emcl_plugin._internal.arrays import Kind
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import npy_size
    from emcl_plugin.io.write import checked_ids

    size = 0
    shape = (len(queries), len(corrector))
    kind = Kind.of(queries)
    if top is None:
        size = npy_size(shape, kind.dtype.itemsize)
    check_target(output, size, force=force)
    if top is not None:
        checked_ids(corrector.names or None, len(corrector), "gallery")


def _write(
    output: Path,
    queries: Array,
    corrector: Corrector,
    top: int | None,
    progress: Progress,
    *,
    force: bool,
) -> None:
    from emcl_plugin._internal.arrays import Kind
    from emcl_plugin.io.npy import write_npy

    kind, shape = Kind.of(queries), (len(queries), len(corrector))
    blocks = progress.rows("scoring", corrector.scores(queries), shape[0])
    if top is not None:
        _write_top(output, corrector, blocks, min(top, shape[1]), force=force)
        return
    parts = (kind.narrow(block.cpu()).numpy() for block in blocks)
    write_npy(output, shape, kind.numpy_dtype, parts, force=force)


def _write_top(
    path: Path, corrector: Corrector, blocks: Iterator[torch.Tensor], top: int, *, force: bool
) -> None:
    """Write a table of the best items of every query."""
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


def _summarise(facts: dict[str, Any], bank: int, rows: Rows) -> None:
    from emcl_plugin.cli.show import aligned, gate_words
    from emcl_plugin.report.tables import metrics_table

    seen, gate = facts["seen_in_bank"], facts["likeness"]
    overlap = f"{seen or 'no'} {'query is' if seen < 2 else 'queries are'} in the bank"
    lines = [
        ("", f"{facts['queries']} queries x {facts['gallery']} gallery items"),
        ("protocol", f"bank (correction learned from {bank} bank queries)"),
        ("applied", f"{100 * facts['strength']:.0f} % of the biases"),
        ("gate", gate_words(gate)),
        ("overlap", overlap),
        ("written", f"{escaped(facts['output'])}, {facts['seconds']:.1f} s in all"),
    ]
    click.echo(aligned(lines), err=True)
    if rows:
        click.echo(f"\n{metrics_table(rows)}", err=True)


def _measured_to_dict(rows: Rows) -> dict[str, Any]:
    from emcl_plugin.evaluation.metrics import MEASURES

    if not rows:
        return {}
    measured = {name: {m: found.metric(m) for m in MEASURES} for _, name, found in rows}
    return {"measured": measured}


def _measured(corrector: Corrector, queries: Array, truth: GroundTruth) -> Rows:
    """Return the rows of the metrics' table, before and after."""
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
