"""The main job on the command line: read, correct, write, tell."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import processes
from emcl_plugin.cli.inputs import (
    check_banks,
    check_names,
    known_ids,
    read_banks,
    read_ground_truth,
    read_inputs,
    read_measures,
    read_names,
    read_size,
)
from emcl_plugin.cli.method import bank_ncl, settings
from emcl_plugin.cli.outputs import Outputs, Writer, name_outputs, prepare_outputs
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.evaluation.ablation import Names
    from emcl_plugin.evaluation.metrics import Placement
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.pipeline.checkpoint import Checkpoint, SharedCheckpoint
    from emcl_plugin.pipeline.correct import Correction
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.scores import Similarity

DEFAULT = click.core.ParameterSource.DEFAULT


def run_rerank(
    context: click.Context,
    *,
    text: Path | None,
    video: Path | None,
    sim: Path | None,
    source: tuple[str, str] | None,
    orientation: str,
    text_bank: Path | None,
    video_bank: Path | None,
    metric: str,
    output: Path | None,
    run: Path | None,
    run_v2t: Path | None,
    top: int | None,
    force: bool,
    resume: Path | None,
    device: str,
    dtype: str,
    memory: str | None,
    plan: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    measures: str,
    several: str,
    gt: Path | None,
    text_ids: Path | None,
    video_ids: Path | None,
    query_mask: Path | None,
    report: Path | None,
    plots: Path | None,
    text_names: Path | None,
    video_names: Path | None,
    video_links: Path | None,
    check_leak: bool,
    candidates: int | None,
    index: str | None,
    **method: Any,
) -> None:
    """Re-score files, write the results, and with ground truth measure what it gained."""
    check_names(context, text, video, sim, source)
    banked = text_bank is not None or video_bank is not None
    if banked:
        check_banks(context, text, sim, check_leak)
    budget = read_size(context, memory)
    names = read_measures(context, measures)
    if gt is None and source is None and (report is not None or plots is not None):
        raise click.UsageError(
            "--report and --plots need the ground truth: --gt FILE, or --gt diagonal where row i "
            "belongs to row i",
            context,
        )
    outputs = name_outputs(context, output, run, run_v2t, top, others=(report, plots, resume))
    if resume is not None and banked:
        raise click.UsageError(
            "--resume keeps the iterations of a run without banks: leave it out", context
        )
    if candidates is None and index is not None:
        raise click.UsageError("--index is for --candidates: give both", context)
    if candidates is not None:
        _check_candidates(context, candidates, outputs, text is None or sim is not None, banked)
        if report is not None or plots is not None or check_leak:
            raise click.UsageError(
                "--report, --plots and --check-leak need all scores: leave --candidates out",
                context,
            )
    processes.check_alone(
        context,
        candidates=candidates,
        text_bank=text_bank,
        video_bank=video_bank,
        report=report,
        plots=plots,
        check_leak=check_leak,
    )
    if processes.count() > 1 and "-" in map(str, (text, video, sim, *(source or ()))):
        raise click.UsageError("one process alone can read standard input: name files", context)
    started = time.perf_counter()

    import torch

    from emcl_plugin.bank.both_directions import Banked, correct_by_banks
    from emcl_plugin.cli.show import (
        Progress,
        gains,
        summary,
        tell,
        warnings_as_notes,
    )
    from emcl_plugin.evaluation.ablation import ablation, permutation_check
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.settings import Resources, Settings
    from emcl_plugin.report.tables import metrics_table

    features = text is not None or source is not None
    emcl, ncl = settings(context, features=features, **method)
    if resume is not None and (ncl is None or method["prior"] == "off"):
        raise click.UsageError("--resume keeps NCL's iterations, and NCL is off", context)
    group, device = context.with_resource(processes.joined(device))
    quiet = quiet or group.rank > 0
    given = group.together(lambda: read_inputs(text, video, sim, source, orientation))
    if source is not None:  # only now it is known whether EMCL has something to work on
        settings(context, features=given.has_features, **method)
    if not quiet:
        tell(given.notes)

    def prepare() -> tuple[Job, GroundTruth | None, Names, Writer]:
        job = Job(
            given.sim,
            given.feats,
            Settings.of(emcl, ncl, method["prior"], method["guard"], metric),
            Resources(
                device=device,
                dtype=None if dtype == "auto" else getattr(torch, dtype),
                memory=budget,
                group=group,
            ),
            candidates=candidates,
            index=index or "Flat",
        )
        truth = None
        if gt is not None or given.truth is not None:
            truth = read_ground_truth(job.shape, gt, text_ids, video_ids, query_mask, given)
        if report is not None or plots is not None:
            from emcl_plugin.report.figure import require
            from emcl_plugin.report.plots import check_plots

            require()
        if plots is not None:
            check_plots(plots, force=force)
        ids = known_ids(given, job.shape, text_ids, video_ids)
        called = read_names(job.shape, ids, text_names, video_names, video_links)
        write = prepare_outputs(outputs, job, ids, force=force or plan)
        if report is not None:
            check_target(report, 0, force=force)
        return job, truth, called, write

    with warnings_as_notes(quiet=quiet):
        job, truth, called, write = group.together(prepare)
        if plan:
            if group.rank == 0:
                _tell_plan(job, outputs, as_json)
            return
        if not quiet and (verbose or job.plan.is_long):
            seconds = job.plan.seconds(job.device, job.dtype)
            each = f" in each of {group.size} processes" if group.size > 1 else ""
            click.echo(f"{job.plan}{each}; about {seconds:.0f} s", err=True)
        with Progress(enabled=not quiet) as progress:
            found: Correction | Banked
            with _kept(job, resume, outputs, quiet=quiet) as kept:
                if banked:
                    banks = read_banks(text_bank, video_bank)
                    gentle = ncl and bank_ncl(ncl, job.settings.prior)
                    found = correct_by_banks(
                        job, *banks, emcl=emcl, ncl=gentle, progress=progress.update
                    )
                    facts = found.report
                else:
                    found = job.correct(progress.update, journal=kept)
                    facts = job.report(found)
                write(found.source, progress)
            with _written(outputs):
                measured = leak = None
                if truth is not None and candidates is None:
                    measured = ablation(
                        job, found, truth, several=several, names=called, progress=progress.update
                    )
                if check_leak and not isinstance(found, Banked):
                    leak = permutation_check(job, found, truth)
        with _written(outputs):
            if measured is not None and report is not None:
                from emcl_plugin.report.page import write_report

                shown = _settings_shown(context)
                write_report(report, measured, settings=shown, features=job.features, force=force)
            if measured is not None and plots is not None:
                from emcl_plugin.report.plots import write_plots

                write_plots(plots, measured, features=job.features, force=force)
    seconds = time.perf_counter() - started
    if not quiet:
        by_bank = found if isinstance(found, Banked) else None
        click.echo(summary(facts, by_bank, verbose=verbose), err=True)
        if leak is not None:
            click.echo(f"  order        {_leak(leak)}", err=True)
        first, *more = outputs.shown(job)
        click.echo(f"  written      {first}, {seconds:.1f} s in all", err=True)
        for path in (*more, *filter(None, (report, plots))):
            click.echo(f"               {escaped(path)}", err=True)
        if truth is not None and candidates is not None:
            assert not isinstance(found, Banked)
            table = before_and_after(found, truth, several)
            click.echo(f"\n{metrics_table(table, names)}{missed(found.base, truth)}", err=True)
        if measured is not None:
            table = [
                (direction, row.name, dict(row.evaluation.directions)[direction])
                for direction in measured.gains()
                for row in measured.rows
            ]
            click.echo(f"\n{metrics_table(table, names)}\n\n{gains(measured)}", err=True)
        if gt is not None and query_mask is None and truth is not None:
            click.echo(unmeasured(truth, gt), nl=False, err=True)
    if as_json and group.rank == 0:
        out = {**facts.to_dict(), **outputs.to_dict(), "seconds": round(seconds, 3)}
        out["notes"] = list(given.notes)
        if isinstance(found, Banked):
            out["likeness"], out["seen_in_bank"] = found.gates, found.seen
        if measured is not None:
            out["measured"] = measured.to_dict(names)
        if leak is not None:
            out["order_leak"] = leak
        if kept is not None:
            out["resumed_rounds"] = kept.resumed
        click.echo(json.dumps(out, indent=2))


def _check_candidates(
    context: click.Context, candidates: int, outputs: Outputs, no_features: bool, banked: bool
) -> None:
    """Candidates are of embeddings, and give runs."""
    if no_features or banked:
        raise click.UsageError(
            "--candidates are searched among embeddings: give --text and --video, without --sim "
            "and without banks",
            context,
        )
    if outputs.matrix is not None or not outputs.runs:
        raise click.UsageError(
            "--candidates gives no matrix: name a run, e.g. --run best.csv, and no --output",
            context,
        )
    if outputs.top > candidates and context.get_parameter_source("top") is not DEFAULT:
        raise click.UsageError(
            f"--top {outputs.top} is more than --candidates {candidates}", context
        )


def _tell_plan(job: Job, outputs: Outputs, as_json: bool) -> None:
    """What the run would do, how long it would take and what it would hold."""
    from emcl_plugin._internal.sizes import format_size
    from emcl_plugin.cli.show import aligned

    plan = job.plan
    seconds = plan.seconds(job.device, job.dtype)
    if as_json:
        facts = plan.to_dict(seconds, job.memory)
        click.echo(json.dumps({**facts, **outputs.to_dict()}, indent=2))
        return
    each = f", in each of {job.group.size} processes" if job.group.size > 1 else ""
    lines = [
        ("plan", f"{plan.shape[0]} texts x {plan.shape[1]} videos{each}: {plan.way}"),
        ("time", f"about {seconds:.1f} s on {job.device}, without measuring"),
        ("memory", f"{format_size(plan.held)} beside the embeddings, of {format_size(job.memory)}"),
        *(("would write", line) for line in outputs.shown(job)),
    ]
    click.echo(aligned(lines))


def before_and_after(
    found: Correction, truth: GroundTruth, several: str
) -> list[tuple[str, str, Placement]]:
    """Rows of the metrics' table; right items that are no candidates stand last."""
    from emcl_plugin.evaluation.compare import INPUT, OURS
    from emcl_plugin.evaluation.metrics import evaluate

    rows = [
        (direction, name, placement)
        for name, source in ((INPUT, found.base), (OURS, found.source))
        for direction, placement in evaluate(source, truth, several).directions
    ]
    return rows[::2] + rows[1::2]


def unmeasured(truth: GroundTruth, path: Path) -> str:
    """How many texts the ground truth says nothing of, in words."""
    count, texts = truth.shape[0] - len(set(truth.query.tolist())), truth.shape[0]
    if not count:
        return ""
    named = escaped(path)
    return f"\n  not measured: {count:,} of the {texts:,} texts, which have no video in {named}\n"


def missed(source: Similarity, truth: GroundTruth) -> str:
    """How many right pairs are no candidates, in words."""
    from emcl_plugin.scores.candidates import Candidates

    assert isinstance(source, Candidates)
    count = len(truth.query) - source.holds(truth.query, truth.item)
    if not count:
        return ""
    share = 100 * count / len(truth.query)
    return (
        f"\n\n  {share:.2g} % of the right pairs are no candidates and count as last: R@K and MdR "
        "are exact,\n  MnR, MRR and mAP are not"
    )


@contextmanager
def _kept(
    job: Job, resume: Path | None, outputs: Outputs, *, quiet: bool
) -> Iterator[Checkpoint | SharedCheckpoint | None]:
    """The checkpoint, if there is to be one; an interruption says that it is there."""
    from emcl_plugin.cli.show import tell
    from emcl_plugin.io.seen import written
    from emcl_plugin.pipeline.checkpoint import journal

    try:
        with journal(job, resume) as kept:
            if kept is not None and kept.resumed and not quiet:
                resumed = f"{kept.resumed} iterations are done, the run goes on"
                tell([f"{resumed} from {escaped(resume)}"])
            yield kept
    except KeyboardInterrupt:
        if resume is None or not resume.exists() or set(outputs.paths) & set(written()):
            raise
        raise click.ClickException(
            f"interrupted; no result was written, the same command goes on from {escaped(resume)}"
        ) from None


@contextmanager
def _written(outputs: Outputs) -> Iterator[None]:
    """Once the results are there, an interruption does not say that nothing was written."""
    try:
        yield
    except KeyboardInterrupt:
        names = ", ".join(map(escaped, outputs.paths))
        verb = "are" if len(outputs.paths) > 1 else "is"
        raise click.ClickException(f"interrupted while measuring; {names} {verb} written") from None


def _leak(leak: float) -> str:
    if leak == 0:
        return "shuffling all items changes no rank"
    return f"shuffling all items changes the rank of {100 * leak:.2f} % of the queries (ties?)"


def _settings_shown(context: click.Context) -> dict[str, object]:
    """The options, given or by default, for the page."""
    return {
        f"--{name.replace('_', '-')}": value
        for name, value in context.params.items()
        if value is not None and value is not False
    }
