"""The main job on the command line: read, correct, write, tell."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.errors import EmclError, InputValueError
from emcl_plugin.sizes import parse_size

if TYPE_CHECKING:
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL


def run_rerank(
    context: click.Context,
    *,
    text: Path | None,
    video: Path | None,
    sim: Path | None,
    metric: str,
    output: Path,
    force: bool,
    device: str,
    dtype: str,
    memory: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **method: Any,
) -> None:
    """Re-score files and write the matrix."""
    if text is None and video is None and sim is None:
        raise click.UsageError(
            "there is nothing to re-score: give --text and --video, or --sim, or try "
            "'emcl-rerank demo'",
            context,
        )
    if (text is None) != (video is None):
        lone = "--text" if video is None else "--video"
        raise click.UsageError(f"{lone} alone is one side only: give both, or --sim", context)
    try:
        budget = None if memory is None else parse_size(memory)
    except EmclError as error:
        raise click.UsageError(str(error), context) from None
    started = time.perf_counter()

    import torch

    from emcl_plugin.cli.show import Progress, summary, warnings_as_notes
    from emcl_plugin.io.atomic import check_target
    from emcl_plugin.io.npy import npy_size, read_npy, write_npy
    from emcl_plugin.reranker import Job

    emcl, ncl = settings(context, features=text is not None, **method)
    feats = None
    if text is not None and video is not None:
        feats = (read_npy(text), read_npy(video))
    wanted = None if dtype == "auto" else getattr(torch, dtype)
    with warnings_as_notes(quiet=quiet):
        job = Job(
            None if sim is None else read_npy(sim),
            feats,
            emcl=emcl,
            ncl=ncl,
            guard=method["guard"],
            metric=metric,
            device=device,
            dtype=wanted,
            memory=budget,
        )
        size = npy_size(job.shape, job.kind.dtype.itemsize)
        check_target(output, size, force=force)
        plan = job.plan
        if not quiet and (verbose or plan.is_long):
            click.echo(f"{plan}; about {plan.seconds(job.device, job.dtype):.0f} s", err=True)
        with Progress(enabled=not quiet) as progress:
            report, blocks = job.run(progress.update)
            write_npy(
                output,
                job.shape,
                job.kind.numpy_dtype,
                (block.cpu().numpy() for block in progress.rows("writing", blocks, job.shape[0])),
                force=force,
            )
    seconds = time.perf_counter() - started
    if not quiet:
        click.echo(summary(report, verbose=verbose), err=True)
        shape = f"{job.shape[0]} x {job.shape[1]} {job.kind.numpy_dtype}"
        click.echo(f"  written      {output} ({shape}), {seconds:.1f} s in all", err=True)
    if as_json:
        facts = {**report.to_dict(), "output": str(output), "seconds": round(seconds, 3)}
        click.echo(json.dumps(facts, indent=2))


def settings(
    context: click.Context,
    *,
    features: bool,
    emcl: str,
    emcl_strength: float | None,
    subspaces: int | None,
    seed: int | None,
    ncl: str,
    temperature: float | None,
    rounds: int,
    guard: bool,
) -> tuple[EMCL | None, NCL | None]:
    """EMCL's and NCL's settings from the options; contradictions are wrong usage."""
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL

    del guard
    given = {
        "--emcl-strength": emcl_strength,
        "--subspaces": subspaces,
        "--seed": seed,
    }
    names = [name for name, value in given.items() if value is not None]
    if names and (emcl == "off" or not features):
        why = "--emcl off" if emcl == "off" else "no embeddings (--text, --video)"
        raise click.UsageError(f"{', '.join(names)} cannot work with {why}", context)
    if temperature is not None and ncl == "off":
        raise click.UsageError("--temperature cannot work with --ncl off", context)
    try:
        method = None
        if emcl != "off":
            method = EMCL() if emcl == "auto" else EMCL.preset(emcl)
            if subspaces is not None:
                method = replace(method, subspaces=subspaces)
            if emcl_strength is not None:
                method = replace(method, strength=emcl_strength, beta=None)
            if seed is not None:
                start = "gaussian" if emcl == "auto" else method.start
                method = replace(method, start=start, seed=seed)
        normalisation = None if ncl == "off" else NCL(temperature=temperature, rounds=rounds)
    except InputValueError as error:
        raise click.UsageError(str(error), context) from None
    return method, normalisation
