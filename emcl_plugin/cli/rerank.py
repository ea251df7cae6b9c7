"""The main command: parse the options, open the files, execute the run, present the result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import processes
from emcl_plugin.cli.config import RunConfig
from emcl_plugin.cli.opened import Opened, Result
from emcl_plugin.cli.outputs import Outputs, Writer
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from pathlib import Path

    from emcl_plugin.bank.both_directions import Banked
    from emcl_plugin.cli.inputs import Inputs
    from emcl_plugin.cli.show import Progress
    from emcl_plugin.distributed.process_group import ProcessGroup
    from emcl_plugin.evaluation.ablation import Ablation
    from emcl_plugin.pipeline.checkpoint import Checkpoint, SharedCheckpoint
    from emcl_plugin.pipeline.correct import Correction
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.report import Report


def run_rerank(context: click.Context, **options: Any) -> None:
    """Re-score files, write the results, and with ground truth measure the gain."""
    config = RunConfig.from_options(context, **options)
    started = time.perf_counter()

    from emcl_plugin.cli.present import present, present_plan, tell_plan
    from emcl_plugin.cli.show import warnings_as_notes

    with processes.joined(config.machine.device) as (group, device):
        quiet = config.display.quiet or group.rank > 0
        with warnings_as_notes(quiet=quiet):
            opened = open_run(config, group, device, quiet=quiet)
            if config.display.plan:
                if group.rank == 0:
                    present_plan(opened.job, config)
                return
            if not quiet:
                tell_plan(opened.job, verbose=config.display.verbose)
            result = execute(config, opened, quiet=quiet)
        if group.rank == 0:
            present(result, config, time.perf_counter() - started)


def open_run(config: RunConfig, group: ProcessGroup, device: str, *, quiet: bool) -> Opened:
    """Open the inputs and check the outputs: everything that can fail early fails here."""
    from emcl_plugin.cli.show import tell

    inputs = group.together(config.sources.read)
    if config.sources.source is not None:  # only now it is known whether there are embeddings
        config.method.check(features=inputs.has_features)
    if not quiet:
        tell(inputs.notes)
    return group.together(lambda: _open(config, inputs, group, device))


def _open(config: RunConfig, inputs: Inputs, group: ProcessGroup, device: str) -> Opened:
    import torch

    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.settings import Resources

    scope, evaluation = config.scope, config.evaluation
    job = Job(
        inputs.sim,
        inputs.feats,
        config.settings,
        Resources(
            device=device,
            dtype=None if scope.dtype == "auto" else getattr(torch, scope.dtype),
            memory=config.machine.memory,
            group=group,
        ),
        candidates=scope.candidates,
        index=scope.index or "Flat",
    )
    truth = None
    if evaluation.truth.gt is not None or inputs.truth is not None:
        truth = evaluation.truth.read(job.shape, inputs)
    _check_explanation(config.outputs)
    ids = evaluation.truth.ids(inputs, job.shape)
    names = evaluation.names.read(job.shape, ids)
    force = config.outputs.force or config.display.plan
    return Opened(inputs, job, truth, names, Writer(config.outputs, job, ids, force=force))


def _check_explanation(outputs: Outputs) -> None:
    """Check that the page and its figures can be made and written."""
    from emcl_plugin.io.atomic import check_target

    if outputs.explained:
        from emcl_plugin.report.figure import require
        from emcl_plugin.report.plots import check_plots

        require()
        if outputs.plots is not None:
            check_plots(outputs.plots, force=outputs.force)
    if outputs.report is not None:
        check_target(outputs.report, 0, force=outputs.force)


def execute(config: RunConfig, opened: Opened, *, quiet: bool) -> Result:
    """Correct the scores, write them, and measure the correction."""
    from emcl_plugin.cli.show import Progress

    job, outputs = opened.job, config.outputs
    with Progress(enabled=not quiet) as progress:
        with _checkpoint(job, config.scope.resume, outputs, quiet=quiet) as kept:
            found, report = _correct(config, job, kept, progress)
            opened.writer.write(found.source, progress)
        with _written(outputs):
            measured = _measure(config, opened, found, progress)
            moved = _permuted(config, opened, found)
    with _written(outputs):
        _explain(config, opened, measured)
    return Result(opened, found, report, measured, moved, kept.resumed if kept else None)


def _correct(
    config: RunConfig, job: Job, kept: Checkpoint | SharedCheckpoint | None, progress: Progress
) -> tuple[Correction | Banked, Report]:
    from emcl_plugin.bank.both_directions import correct_by_banks
    from emcl_plugin.cli.method import bank_ncl

    if not config.banks:
        found = job.correct(progress.update, journal=kept)
        return found, job.report(found)
    settings = config.settings
    ncl = bank_ncl(settings.ncl, settings.prior)
    banked = correct_by_banks(
        job, *config.banks.read(), emcl=settings.emcl, ncl=ncl, progress=progress.update
    )
    return banked, banked.report


def _measure(
    config: RunConfig, opened: Opened, found: Correction | Banked, progress: Progress
) -> Ablation | None:
    from emcl_plugin.evaluation.ablation import ablation

    if opened.truth is None or config.scope.candidates is not None:
        return None
    several = config.evaluation.several
    return ablation(
        opened.job, found, opened.truth, several=several, names=opened.names,
        progress=progress.update,
    )  # fmt: skip


def _permuted(config: RunConfig, opened: Opened, found: Correction | Banked) -> float | None:
    from emcl_plugin.evaluation.ablation import permutation_check
    from emcl_plugin.pipeline.correct import Correction

    if not config.evaluation.check_order or not isinstance(found, Correction):
        return None
    return permutation_check(opened.job, found, opened.truth)


def _explain(config: RunConfig, opened: Opened, measured: Ablation | None) -> None:
    """Write the page and its figures."""
    outputs, features = config.outputs, opened.job.features
    if measured is not None and outputs.report is not None:
        from emcl_plugin.report.page import write_report

        write_report(
            outputs.report, measured, settings=config.shown, features=features, force=outputs.force
        )
    if measured is not None and outputs.plots is not None:
        from emcl_plugin.report.plots import write_plots

        write_plots(outputs.plots, measured, features=features, force=outputs.force)


@contextmanager
def _checkpoint(
    job: Job, resume: Path | None, outputs: Outputs, *, quiet: bool
) -> Iterator[Checkpoint | SharedCheckpoint | None]:
    """Yield the checkpoint, if requested; an interruption says that it is there."""
    from emcl_plugin.cli.show import tell
    from emcl_plugin.io.seen import written
    from emcl_plugin.pipeline.checkpoint import journal

    try:
        with journal(job, resume) as kept:
            if kept is not None and kept.resumed and not quiet:
                tell([f"resuming from {escaped(resume)} after {kept.resumed} iterations"])
            yield kept
    except KeyboardInterrupt:
        if resume is None or not resume.exists() or set(outputs.paths) & set(written()):
            raise
        raise click.ClickException(
            f"interrupted; no result was written; the same command resumes from {escaped(resume)}"
        ) from None


@contextmanager
def _written(outputs: Outputs) -> Iterator[None]:
    """Say on an interruption that the results are written already."""
    try:
        yield
    except KeyboardInterrupt:
        names = ", ".join(map(escaped, outputs.paths))
        verb = "are" if len(outputs.paths) > 1 else "is"
        raise click.ClickException(f"interrupted while measuring; {names} {verb} written") from None
