"""`emcl-rerank apply`: score new queries with a saved corrector."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
    from emcl_plugin.evaluation.metrics import Placement
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.io.topk import Ranked


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
    output = output or Path("scores.npy" if top is None else "top.csv")
    opt.refuse({
        "give the queries with either --text or --video": (text is None) == (video is None),
        f"scores need an .npy output, not {escaped(output.name)}":
        top is None and output.suffix != ".npy",
        f"--top needs a .csv output, not {escaped(output.name)}":
        top is not None and output.suffix != ".csv",
    })  # fmt: skip
    started = time.perf_counter()

    from emcl_plugin.cli.show import Progress, warnings_as_notes
    from emcl_plugin.evaluation.metrics import MEASURES
    from emcl_plugin.reranker import Reranker

    vectors = read_source(text if text is not None else str(video))
    queries = vectors.array
    corrector = Reranker.from_pretrained(folder, device=device).corrector_
    write = _writer(output, queries, corrector, top, force=force)
    both = vectors.ids is not None and corrector.names
    known = Inputs(None, None, vectors.ids, corrector.names) if both else None
    shape = (len(queries), len(corrector))
    truth = None if gt is None else TruthFiles(gt=gt).read(shape, known)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        gate, seen = float(corrector.gate(queries).mean()), corrector.seen(queries)
        write(progress.rows("scoring", corrector.scores(queries), shape[0]))
        measured = {} if truth is None else _measured(corrector, queries, truth)
    facts: dict[str, Any] = {"protocol": "bank", "queries": shape[0], "gallery": shape[1]}
    facts |= {"strength": corrector.strength, "likeness": gate, "seen_in_bank": seen}
    facts |= {"output": str(output), "seconds": round(time.perf_counter() - started, 3)}
    if not quiet:
        _summarise(facts, len(corrector.bank), measured)
    if as_json:
        if measured:
            facts["measured"] = {
                name: {m: found.metric(m) for m in MEASURES} for name, found in measured.items()
            }
        click.echo(json.dumps(facts, indent=2))


def _writer(
    output: Path, queries: Array, corrector: Corrector, top: int | None, *, force: bool
) -> Callable[[Iterable[torch.Tensor]], None]:
    """Check that the output can be written, then return what writes blocks of scores."""
    from emcl_plugin._internal.arrays import Kind
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import npy_size, write_npy
    from emcl_plugin.io.topk import ranked
    from emcl_plugin.io.write import checked_ids

    kind, shape = Kind.of(queries), (len(queries), len(corrector))
    check_target(output, npy_size(shape, kind.dtype.itemsize) if top is None else 0, force=force)
    if top is not None:
        checked_ids(corrector.names or None, shape[1], "gallery")

    def write(blocks: Iterable[torch.Tensor]) -> None:
        if top is None:
            parts = (kind.narrow(block.cpu()).numpy() for block in blocks)
            write_npy(output, shape, kind.numpy_dtype, parts, force=force)
        else:
            _write_top(output, ranked(blocks, min(top, shape[1])), corrector.names, force=force)

    return write


def _write_top(path: Path, blocks: Iterable[Ranked], names: Sequence[str], *, force: bool) -> None:
    from emcl_plugin.io.atomic import atomic_writer

    with atomic_writer(path, force=force) as file:
        table = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(table)
        writer.writerow(("query", "rank", "item", "name", "score"))
        for start, *rows in blocks:
            best = zip(*(x.tolist() for x in rows), strict=True)
            for query, (scores, items) in enumerate(best, start):
                for rank, (score, item) in enumerate(zip(scores, items, strict=True), 1):
                    name = names[item] if names else ""
                    writer.writerow((query, rank, item, name, f"{score:.7g}"))
        table.detach()


def _summarise(facts: dict[str, Any], bank: int, measured: Mapping[str, Placement]) -> None:
    from emcl_plugin.cli.show import aligned, gate_words
    from emcl_plugin.report.tables import metrics_table

    seen = facts["seen_in_bank"]
    lines = [
        ("", f"{facts['queries']} queries x {facts['gallery']} gallery items"),
        ("protocol", f"bank (correction learned from {bank} bank queries)"),
        ("applied", f"{100 * facts['strength']:.0f} % of the biases"),
        ("gate", gate_words(facts["likeness"])),
        ("overlap", f"{seen or 'no'} {'query is' if seen < 2 else 'queries are'} in the bank"),
        ("written", f"{escaped(facts['output'])}, {facts['seconds']:.1f} s in all"),
    ]
    click.echo(aligned(lines), err=True)
    if measured:
        rows = [("queries", name, found) for name, found in measured.items()]
        click.echo(f"\n{metrics_table(rows)}", err=True)


def _measured(corrector: Corrector, queries: Array, truth: GroundTruth) -> dict[str, Placement]:
    from emcl_plugin.bank.corrector import Scores
    from emcl_plugin.evaluation.compare import INPUT, OURS
    from emcl_plugin.evaluation.metrics import place

    bare = replace(
        corrector, bias=0 * corrector.bias, change=corrector.change[:0],
        basis=corrector.basis[:, :0],
    )  # fmt: skip
    pairs = ((INPUT, bare), (OURS, corrector))
    return {name: place(Scores(of, queries), truth) for name, of in pairs}
