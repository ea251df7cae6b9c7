"""The main command: open the files, execute the run, present the result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import torch

from emcl_plugin.bank.both_directions import Banked, correct_by_banks
from emcl_plugin.cli import present, processes
from emcl_plugin.cli.config import RunConfig
from emcl_plugin.cli.inputs import Inputs
from emcl_plugin.cli.method import bank_ncl
from emcl_plugin.cli.outputs import Outputs, Writer
from emcl_plugin.cli.show import Progress, tell, warnings_as_notes
from emcl_plugin.distributed.process_group import ProcessGroup
from emcl_plugin.errors import escaped
from emcl_plugin.evaluation.ablation import Ablation, Names, ablation, permutation_check
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.io.atomic import check_target
from emcl_plugin.io.seen import written
from emcl_plugin.pipeline.checkpoint import Checkpoint, SharedCheckpoint, journal
from emcl_plugin.pipeline.correct import Correction
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.report import Report
from emcl_plugin.pipeline.settings import Resources


@dataclass(frozen=True)
class Opened:
    """A run whose inputs are open and whose outputs are checked, before any work."""

    inputs: Inputs
    job: Job
    truth: GroundTruth | None
    names: Names
    writer: Writer


def run_rerank(config: RunConfig) -> None:
    """Re-score files, write the results, and with ground truth measure the gain."""
    started = time.perf_counter()
    with processes.joined(config.device) as (group, device):
        quiet = config.quiet or group.rank > 0
        with warnings_as_notes(quiet=quiet):
            opened = _open(config, group, device, quiet=quiet)
            if config.plan:
                if group.rank == 0:
                    present.present_plan(opened.job, config)
                return
            if not quiet:
                present.tell_plan(opened.job, verbose=config.verbose)
            result = _execute(config, opened, quiet=quiet)
        if group.rank == 0:
            present.present(result, config, time.perf_counter() - started)


def _open(config: RunConfig, group: ProcessGroup, device: str, *, quiet: bool) -> Opened:
    """Open the inputs and check the outputs: everything that can fail early fails here."""
    inputs = group.together(config.sources.read)
    if config.sources.source is not None:  # only now it is known whether there are embeddings
        config.method.check(features=inputs.has_features)
    if not quiet:
        tell(inputs.notes)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    resources = Resources(device=device, dtype=dtype, memory=config.memory, group=group)

    def opened() -> Opened:
        few: dict[str, Any] = {"candidates": config.candidates, "index": config.index or "Flat"}
        job = Job(inputs.sim, inputs.feats, config.settings, resources, **few)
        truth = None
        if config.truth.gt is not None or inputs.truth is not None:
            truth = config.truth.read(job.shape, inputs)
        _check_explanation(config.outputs)
        ids = config.truth.ids(inputs, job.shape)
        names = config.names.read(job.shape, ids)
        force = config.outputs.force or config.plan
        return Opened(inputs, job, truth, names, Writer(config.outputs, job, ids, force=force))

    return group.together(opened)


def _check_explanation(outputs: Outputs) -> None:
    if outputs.explained:
        from emcl_plugin.report.figure import require
        from emcl_plugin.report.plots import check_plots

        require()
        if outputs.plots is not None:
            check_plots(outputs.plots, force=outputs.force)
    if outputs.report is not None:
        check_target(outputs.report, 0, force=outputs.force)


def _execute(config: RunConfig, opened: Opened, *, quiet: bool) -> present.Result:
    """Correct the scores, write them, and measure the correction."""
    job, outputs, moved, measured = opened.job, config.outputs, None, None
    with Progress(enabled=not quiet) as progress:
        with _checkpoint(config, job, quiet=quiet) as kept:
            found, report = _correct(config, job, kept, progress)
            opened.writer.write(found.source, progress)
        with _interrupted_measuring(outputs):
            if opened.truth is not None and config.candidates is None:
                how: dict[str, Any] = {"several": config.several, "names": opened.names}
                measured = ablation(job, found, opened.truth, **how, progress=progress.update)
            if config.check_leak and isinstance(found, Correction):
                moved = permutation_check(job, found, opened.truth)
    if measured is not None:
        with _interrupted_measuring(outputs):
            _explain(config, job, measured)
    resumed = kept.resumed if kept else None
    return present.Result(
        job, opened.inputs.notes, opened.truth, found, report, measured, moved, resumed
    )


def _correct(
    config: RunConfig, job: Job, kept: Checkpoint | SharedCheckpoint | None, progress: Progress
) -> tuple[Correction | Banked, Report]:
    if not config.banks:
        found = job.correct(progress.update, journal=kept)
        return found, job.report(found)
    settings = config.settings
    ncl = bank_ncl(settings.ncl, settings.prior)
    banked = correct_by_banks(
        job, *config.banks.read(), emcl=settings.emcl, ncl=ncl, progress=progress.update
    )
    return banked, banked.report


def _explain(config: RunConfig, job: Job, measured: Ablation) -> None:
    outputs = config.outputs
    if outputs.report is not None:
        from emcl_plugin.report.page import write_report

        write_report(
            outputs.report, measured, settings=config.shown, features=job.features,
            force=outputs.force,
        )  # fmt: skip
    if outputs.plots is not None:
        from emcl_plugin.report.plots import write_plots

        write_plots(outputs.plots, measured, features=job.features, force=outputs.force)


@contextmanager
def _checkpoint(
    config: RunConfig, job: Job, *, quiet: bool
) -> Iterator[Checkpoint | SharedCheckpoint | None]:
    """Yield the checkpoint, if requested; an interruption says that it is there."""
    resume = config.resume
    try:
        with journal(job, resume) as kept:
            if kept is not None and kept.resumed and not quiet:
                tell([f"resuming from {escaped(resume)} after {kept.resumed} iterations"])
            yield kept
    except KeyboardInterrupt:
        if resume is None or not resume.exists() or set(config.outputs.paths) & set(written()):
            raise
        raise click.ClickException(
            f"interrupted; no result was written; the same command resumes from {escaped(resume)}"
        ) from None


@contextmanager
def _interrupted_measuring(outputs: Outputs) -> Iterator[None]:
    """Say on an interruption that the results are written already."""
    try:
        yield
    except KeyboardInterrupt:
        names = ", ".join(map(escaped, outputs.paths))
        verb = "are" if len(outputs.paths) > 1 else "is"
        raise click.ClickException(f"interrupted while measuring; {names} {verb} written") from None
