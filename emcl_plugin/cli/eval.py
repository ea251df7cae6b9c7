"""`emcl-rerank eval`: measure scores as they are."""

from __future__ import annotations

import json
from typing import Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.cli.inputs import Sources, TruthFiles, read_measures


@click.command(
    "eval",
    cls=opt.Sections,
    epilog="\b\nExamples:\n  emcl-rerank eval --sim sims.npy\n"
    "  emcl-rerank eval --text t.npy --video v.npy --gt gt.csv --measures R@1,mAP@10,nDCG",
)
@opt.input_options
@opt.truth_options
@opt.measure_options
@opt.device_options
@opt.json_option
def evaluate_command(
    measures: str, several: str, device: str, memory: int | None, as_json: bool, **options: Any
) -> None:
    """Measure scores as they are: metrics and hubness of both directions.

    Scores are a similarity matrix (--sim) or the similarity of embeddings. A video's rank is
    that of its best caption; ties count by their average rank.
    """
    sources = Sources.of(options)
    sources.check()
    names = read_measures(measures)

    from emcl_plugin.cli.show import tell, warnings_as_notes
    from emcl_plugin.evaluation.hubness import hubness
    from emcl_plugin.evaluation.metrics import evaluate
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.settings import Resources, Settings
    from emcl_plugin.report.tables import metrics_table

    given = sources.read()
    tell(given.notes)
    with warnings_as_notes(quiet=False):
        feats = given.feats if given.sim is None else None
        resources = Resources(device=device, memory=memory)
        job = Job(given.sim, feats, Settings.of(metric=sources.metric), resources)
        right = TruthFiles.of(options).read(job.shape, given)
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
