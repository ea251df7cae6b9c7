"""What the main command prints: a plan, or a summary for people and JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from emcl_plugin.cli.show import aligned, gains, summary
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.cli.config import RunConfig
    from emcl_plugin.cli.opened import Result
    from emcl_plugin.evaluation.metrics import Placement
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.pipeline.job import Job

    Rows = list[tuple[str, str, Placement]]


def tell_plan(job: Job, *, verbose: bool) -> None:
    """Print the plan of a run that is long, or where it was requested."""
    if verbose or job.plan.is_long:
        each = f" in each of {job.group.size} processes" if job.group.size > 1 else ""
        seconds = job.plan.seconds(job.device, job.dtype)
        click.echo(f"{job.plan}{each}; about {seconds:.0f} s", err=True)


def present_plan(job: Job, config: RunConfig) -> None:
    """Print what the run would do, how long it would take and what it would hold."""
    from emcl_plugin._internal.sizes import format_size

    plan = job.plan
    seconds = plan.seconds(job.device, job.dtype)
    if config.display.as_json:
        facts = plan.to_dict(seconds, job.memory)
        click.echo(json.dumps({**facts, **config.outputs.to_dict()}, indent=2))
        return
    each = f", in each of {job.group.size} processes" if job.group.size > 1 else ""
    lines = [
        ("plan", f"{plan.shape[0]} texts x {plan.shape[1]} videos{each}: {plan.way}"),
        ("time", f"about {seconds:.1f} s on {_device(job)} (evaluation not included)"),
        ("memory", f"{format_size(plan.held)} plus the embeddings, of {format_size(job.memory)}"),
        *(("would write", line) for line in config.outputs.shown(job)),
    ]
    click.echo(aligned(lines))


def present(result: Result, config: RunConfig, seconds: float) -> None:
    """Print the summary to standard error and JSON to standard output, as requested."""
    if not config.display.quiet:
        _summarise(result, config, seconds)
    if config.display.as_json:
        click.echo(json.dumps(_to_dict(result, config, seconds), indent=2))


def _summarise(result: Result, config: RunConfig, seconds: float) -> None:
    from emcl_plugin.bank.both_directions import Banked

    job, outputs = result.opened.job, config.outputs
    banked = result.found if isinstance(result.found, Banked) else None
    lines = [summary(result.report, banked, verbose=config.display.verbose)]
    if result.moved is not None:
        lines.append(f"  permutation  {_permutation(result.moved)}")
    first, *more = outputs.shown(job)
    lines.append(f"  written      {first}, {seconds:.1f} s in all")
    more += [escaped(path) for path in (outputs.report, outputs.plots) if path is not None]
    lines += [f"               {line}" for line in more]
    click.echo("\n".join(lines) + _measures(result, config), err=True)


def _measures(result: Result, config: RunConfig) -> str:
    """Return the tables of metrics, where there is ground truth."""
    from emcl_plugin.report.tables import metrics_table

    truth, evaluation = result.opened.truth, config.evaluation
    if truth is None:
        return ""
    words = ""
    if result.measured is not None:
        table = [
            (direction, row.name, dict(row.evaluation.directions)[direction])
            for direction in result.measured.gains()
            for row in result.measured.rows
        ]
        words = f"\n\n{metrics_table(table, evaluation.measures)}\n\n{gains(result.measured)}"
    elif config.scope.candidates is not None:
        table = _before_and_after(result, truth, evaluation.several)
        words = f"\n\n{metrics_table(table, evaluation.measures)}{_missed(result, truth)}"
    if evaluation.truth.gt is not None and evaluation.truth.query_mask is None:
        words += _unmeasured(truth, escaped(evaluation.truth.gt))
    return words


def _before_and_after(result: Result, truth: GroundTruth, several: str) -> Rows:
    """Return the rows of candidates; relevant items that are no candidates rank last."""
    from emcl_plugin.evaluation.compare import INPUT, OURS
    from emcl_plugin.evaluation.metrics import evaluate

    rows = [
        (direction, name, placement)
        for name, source in ((INPUT, result.found.base), (OURS, result.found.source))
        for direction, placement in evaluate(source, truth, several).directions
    ]
    return rows[::2] + rows[1::2]


def _missed(result: Result, truth: GroundTruth) -> str:
    """Return how many relevant pairs are not candidates, in words."""
    from emcl_plugin.scores.candidates import Candidates

    source = result.found.base
    assert isinstance(source, Candidates)
    count = len(truth.query) - source.holds(truth.query, truth.item)
    if not count:
        return ""
    share = 100 * count / len(truth.query)
    return (
        f"\n\n  {share:.2g} % of the relevant pairs are not candidates and rank last: R@K and MdR "
        "are exact,\n  MnR, MRR and mAP are not"
    )


def _unmeasured(truth: GroundTruth, name: str) -> str:
    """Return how many texts the ground truth leaves out, in words."""
    count, texts = truth.shape[0] - len(set(truth.query.tolist())), truth.shape[0]
    if not count:
        return ""
    return f"\n\n  not evaluated: {count:,} of {texts:,} texts, which have no video in {name}"


def _permutation(moved: float) -> str:
    if moved == 0:
        return "no rank changes when all items are shuffled"
    return f"{100 * moved:.2f} % of the ranks change when all items are shuffled (ties?)"


def _device(job: Job) -> str:
    return "CPU" if job.device.type == "cpu" else str(job.device)


def _to_dict(result: Result, config: RunConfig, seconds: float) -> dict[str, object]:
    from emcl_plugin.bank.both_directions import Banked

    out = {
        **result.report.to_dict(),
        **config.outputs.to_dict(),
        "seconds": round(seconds, 3),
        "notes": list(result.opened.inputs.notes),
    }
    if isinstance(result.found, Banked):
        out["likeness"], out["seen_in_bank"] = result.found.gates, result.found.seen
    if result.measured is not None:
        out["measured"] = result.measured.to_dict(config.evaluation.measures)
    if result.moved is not None:
        out["order_leak"] = result.moved
    if result.resumed is not None:
        out["resumed_rounds"] = result.resumed
    return out
