"""`emcl-rerank compare`: every method on the same data, in one table."""

from __future__ import annotations

from typing import Any

import click

from emcl_plugin.cli.inputs import (
    check_names,
    read_banks,
    read_ground_truth,
    read_inputs,
    read_measures,
    read_size,
)
from emcl_plugin.cli.options import (
    bank_options,
    device_options,
    input_options,
    measure_options,
    truth_options,
)


@click.command(
    "compare",
    epilog="\b\nExamples:\n  emcl-rerank compare --demo\n"
    "  emcl-rerank compare --text t.npy --video v.npy --format markdown\n"
    "  emcl-rerank compare --sim sims.npy --gt gt.npy --methods input,csls,emcl_plugin",
)
@input_options
@truth_options
@bank_options
@click.option("--demo", is_flag=True, help="On the demo data that ship with the package.")
@click.option("--methods", metavar="LIST", help="Comma-separated names. Default: all that can run.")
@measure_options
@click.option(
    "--sort", default="R@1", show_default=True, help="A measure (mean of directions), or none."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "latex", "csv", "json"]),
    default="text",
    show_default=True,
    help="How the table is printed.",
)
@device_options
@click.option("--quiet", "-q", is_flag=True, help="The table only.")
@click.pass_context
def compare_command(
    context: click.Context,
    /,
    text: str | None,
    video: str | None,
    sim: str | None,
    source: tuple[str, str] | None,
    orientation: str,
    metric: str,
    text_bank: str | None,
    video_bank: str | None,
    demo: bool,
    methods: str | None,
    measures: str,
    several: str,
    sort: str,
    form: str,
    device: str,
    memory: str | None,
    quiet: bool,
    **truth: Any,
) -> None:
    """Compare this package, its parts and the other training-free methods on the same data.

    A star marks the best of a column. "beats" lists the letters of the methods that one beats
    significantly in R@1 (paired randomisation test, p < 0.05). "skew" is the 10-occurrence
    skewness of the videos, "seconds" is correction and evaluation of both directions. A method
    that needs a bank or embeddings that are not given is named and left out.
    """
    if not demo:
        check_names(context, text, video, sim, source)
    elif (text, video, sim, source) != (None, None, None, None):
        raise click.UsageError("--demo brings its own data: leave the files out", context)
    names = read_measures(context, measures)
    if sort != "none":
        read_measures(context, sort, "--sort")
    budget = read_size(context, memory)

    from emcl_plugin.cli.show import Progress, tell, warnings_as_notes
    from emcl_plugin.evaluation.compare import KNOWN, compare
    from emcl_plugin.report.tables import render, sort_rows

    chosen = None if methods is None else [name.strip() for name in methods.split(",")]
    wrong = [name for name in chosen or () if name not in KNOWN]
    if wrong:
        raise click.UsageError(
            f"--methods: {', '.join(wrong) or 'nothing'} is not known; use {', '.join(KNOWN)}",
            context,
        )
    if demo:
        from emcl_plugin.cli.inputs import Inputs
        from emcl_plugin.data.demo import load_demo

        data = load_demo()
        given = Inputs(None, (data.text, data.video))
        banks: tuple[Any, Any] = (data.text_bank, data.video_bank)
    else:
        given = read_inputs(text, video, sim, source, orientation)
        banks = read_banks(text_bank, video_bank)
    if not quiet:
        tell(given.notes)
    right = read_ground_truth(given.shape, **truth, given=given)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        rows, skipped = compare(
            given.sim,
            given.feats,
            truth=right,
            text_bank=banks[0],
            video_bank=banks[1],
            methods=chosen,
            several=several,
            metric=metric,
            device=device,
            memory=budget,
            progress=progress.update,
        )
    click.echo(render(sort_rows(rows, sort), names, form))
    if not quiet:
        for name, why in skipped.items():
            click.echo(f"Note: {name} {why}", err=True)
