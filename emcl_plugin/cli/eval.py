"""`emcl-rerank eval`: measure scores as they are."""

from __future__ import annotations

import json
from typing import Any

import click

from emcl_plugin.cli.inputs import (
    check_names,
    read_ground_truth,
    read_inputs,
    read_measures,
    read_size,
)
from emcl_plugin.cli.options import device_options, input_options, measure_options, truth_options


@click.command(
    "eval",
    epilog="\b\nExamples:\n  emcl-rerank eval --sim sims.npy\n"
    "  emcl-rerank eval --text t.npy --video v.npy --gt gt.csv --measures R@1,mAP@10,nDCG",
)
@input_options
@truth_options
@measure_options
@device_options
@click.option("--json", "as_json", is_flag=True, help="Metrics and hubness as JSON.")
@click.pass_context
def evaluate_command(
    context: click.Context,
    /,
    text: str | None,
    video: str | None,
    sim: str | None,
    source: tuple[str, str] | None,
    orientation: str,
    metric: str,
    measures: str,
    several: str,
    device: str,
    memory: str | None,
    as_json: bool,
    **truth: Any,
) -> None:
    """Measure scores as they are: metrics and hubness of both directions.

    Scores are a similarity matrix (--sim) or the similarity of embeddings. A video's rank is
    that of its best caption; ties count by their average rank.
    """
    check_names(context, text, video, sim, source)
    names = read_measures(context, measures)
    budget = read_size(context, memory)

    from emcl_plugin.cli.show import tell, warnings_as_notes
    from emcl_plugin.evaluation.hubness import hubness
    from emcl_plugin.evaluation.metrics import evaluate
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.settings import Resources, Settings
    from emcl_plugin.report.tables import metrics_table

    given = read_inputs(text, video, sim, source, orientation)
    tell(given.notes)
    with warnings_as_notes(quiet=False):
        feats = given.feats if given.sim is None else None
        resources = Resources(device=device, memory=budget)
        job = Job(given.sim, feats, Settings.of(metric=metric), resources)
        right = read_ground_truth(job.shape, **truth, given=given)
        scores = job.source()
        found = evaluate(scores, right, several)
        hubs = (hubness(scores), hubness(scores.T))
    if as_json:
        facts = found.to_dict(names)
        for (direction, _), hub in zip(found.directions, hubs, strict=True):
            facts[direction]["hubness"] = hub.to_dict()
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(metrics_table([(d, "", p) for d, p in found.directions], names))
    click.echo()
    for (direction, placement), hub in zip(found.directions, hubs, strict=True):
        left = placement.truth.shape[0] - len(placement.queries)
        click.echo(
            f"  {direction}  {len(placement.queries)} queries"
            + (f" ({left} without a right item left out)" if left else "")
            + f"; {hub.k}-occurrence skewness {hub.skewness:.1f}, "
            f"Robin Hood {hub.robin_hood:.2f}, never retrieved {100 * hub.anti_hub_share:.0f} %, "
            f"normalization error {hub.normalization_error:.2f}"
        )
