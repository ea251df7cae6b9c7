"""What the main command prints: a plan, or a summary for people and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import click

from emcl_plugin._internal.sizes import format_size
from emcl_plugin.bank.both_directions import Banked
from emcl_plugin.cli.config import RunConfig
from emcl_plugin.cli.show import aligned, gains, summary
from emcl_plugin.errors import escaped
from emcl_plugin.evaluation.ablation import Ablation
from emcl_plugin.evaluation.compare import INPUT, OURS
from emcl_plugin.evaluation.metrics import by_direction, evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.correct import Correction
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.report import Report
from emcl_plugin.report.tables import metrics_table
from emcl_plugin.scores.candidates import Candidates


@dataclass(frozen=True)
class Result:
    """What a run found; its scores are written.

    ``moved`` is the share of queries whose rank a permutation of all items changes, and
    ``resumed`` the iterations that an earlier run did; None where not asked for.
    """

    job: Job
    notes: Sequence[str]
    truth: GroundTruth | None
    found: Correction | Banked
    report: Report
    measured: Ablation | None
    moved: float | None
    resumed: int | None


def tell_plan(job: Job, *, verbose: bool) -> None:
    """Print the plan of a run that is long, or where it was requested."""
    if verbose or job.plan.is_long:
        seconds = job.plan.seconds(job.device, job.dtype)
        click.echo(f"{job.plan}{_in_each(job)}; about {seconds:.0f} s", err=True)


def present_plan(job: Job, config: RunConfig) -> None:
    """Print what the run would do, how long it would take and what it would hold."""
    plan = job.plan
    seconds = plan.seconds(job.device, job.dtype)
    if config.as_json:
        facts = plan.to_dict(seconds, job.memory)
        click.echo(json.dumps({**facts, **config.outputs.to_dict()}, indent=2))
        return
    device = "CPU" if job.device.type == "cpu" else str(job.device)
    each = _in_each(job, ",")
    lines = [
        ("plan", f"{plan.shape[0]} texts x {plan.shape[1]} videos{each}: {plan.way}"),
        ("time", f"about {seconds:.1f} s on {device} (evaluation not included)"),
        ("memory", f"{format_size(plan.held)} plus the embeddings, of {format_size(job.memory)}"),
        *(("would write", line) for line in config.outputs.shown(job)),
    ]
    click.echo(aligned(lines))


def _in_each(job: Job, comma: str = "") -> str:
    return f"{comma} in each of {job.group.size} processes" if job.group.size > 1 else ""


def present(result: Result, config: RunConfig, seconds: float) -> None:
    """Print the summary to standard error and JSON to standard output, as requested."""
    if not config.quiet:
        _summarise(result, config, seconds)
    if config.as_json:
        click.echo(json.dumps(_to_dict(result, config, seconds), indent=2))


def _summarise(result: Result, config: RunConfig, seconds: float) -> None:
    outputs = config.outputs
    banked = result.found if isinstance(result.found, Banked) else None
    lines = [summary(result.report, banked, verbose=config.verbose)]
    if result.moved is not None:
        words = "no rank changes when all items are shuffled"
        if result.moved:
            share = f"{100 * result.moved:.2f} %"
            words = f"{share} of the ranks change when all items are shuffled (ties?)"
        lines.append(f"  permutation  {words}")
    first, *more = outputs.shown(result.job)
    lines.append(f"  written      {first}, {seconds:.1f} s in all")
    more += [escaped(path) for path in (outputs.report, outputs.plots) if path is not None]
    lines += [f"               {line}" for line in more]
    if result.truth is not None:
        lines += _measures(result, result.truth, config)
    click.echo("\n".join(lines), err=True)


def _measures(result: Result, truth: GroundTruth, config: RunConfig) -> list[str]:
    lines = []
    if result.measured is not None:
        table = by_direction({row.name: row.evaluation for row in result.measured.rows})
        lines += ["", metrics_table(table, config.measures), "", gains(result.measured)]
    elif isinstance(result.found.base, Candidates):
        sources = {INPUT: result.found.base, OURS: result.found.source}  # others rank last
        found = {name: evaluate(x, truth, config.several) for name, x in sources.items()}
        lines += ["", metrics_table(by_direction(found), config.measures)]
        lines += _missed(result.found.base, truth)
    count, texts = truth.shape[0] - len(set(truth.query.tolist())), truth.shape[0]
    if count and config.truth.gt is not None and config.truth.query_mask is None:
        name = escaped(config.truth.gt)
        lines += [
            "",
            f"  not evaluated: {count:,} of {texts:,} texts, which have no video in {name}",
        ]
    return lines


def _missed(source: Candidates, truth: GroundTruth) -> list[str]:
    """Return how many relevant pairs are not candidates, in words."""
    count = len(truth.query) - source.holds(truth.query, truth.item)
    if not count:
        return []
    share = 100 * count / len(truth.query)
    return [
        "",
        f"  {share:.2g} % of the relevant pairs are not candidates and rank last: R@K and MdR "
        "are exact,",
        "  MnR, MRR and mAP are not",
    ]


def _to_dict(result: Result, config: RunConfig, seconds: float) -> dict[str, object]:
    out = {
        **result.report.to_dict(),
        **config.outputs.to_dict(),
        "seconds": round(seconds, 3),
        "notes": list(result.notes),
    }
    if isinstance(result.found, Banked):
        out["likeness"], out["seen_in_bank"] = result.found.gates, result.found.seen
    if result.measured is not None:
        out["measured"] = result.measured.to_dict(config.measures)
    if result.moved is not None:
        out["order_leak"] = result.moved
    if result.resumed is not None:
        out["resumed_rounds"] = result.resumed
    return out
