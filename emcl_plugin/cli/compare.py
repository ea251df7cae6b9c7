"""`emcl-rerank compare`: every method on the same data, in one table."""

from __future__ import annotations

from typing import Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.cli.inputs import Banks, Inputs, Sources, TruthFiles, read_measures


@click.command(
    "compare",
    cls=opt.Sections,
    epilog="\b\nExamples:\n  emcl-rerank compare --demo\n"
    "  emcl-rerank compare --text t.npy --video v.npy --format markdown\n"
    "  emcl-rerank compare --sim sims.npy --gt gt.npy --methods input,csls,emcl_plugin",
)
@opt.input_options
@opt.truth_options
@opt.bank_options
@opt.section("Input", opt.flag("--demo", "Use the demo data that ship with the package."))
@opt.option("--methods LIST", "Comma-separated names. Default: all that can run.")
@opt.measure_options
@opt.option("--sort", "A measure (mean of directions), or none.", default="R@1")
@opt.choice("--format", ["text", "markdown", "latex", "csv", "json"], "Format of the table.")
@opt.device_options
@opt.quiet_option
def compare_command(
    demo: bool,
    methods: str | None,
    measures: str,
    several: str,
    sort: str,
    format: str,  # noqa: A002  the option's name
    device: str,
    memory: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare this package, its parts and the other training-free methods on the same data.

    A star marks the best value of a column. "beats" lists the letters of the methods that a method
    beats significantly in R@1 (paired randomisation test, p < 0.05). "skew" is the 10-occurrence
    skewness of the videos, "seconds" the time of correction and evaluation in both directions.
    Methods without the bank or embeddings that they need are skipped with a note.
    """
    sources = Sources.of(options)
    if not demo:
        sources.check()
    elif sources.named:
        raise opt.wrong_usage("--demo has its own data: omit the files")
    names = read_measures(measures)
    if sort != "none":
        read_measures(sort, "--sort")

    from emcl_plugin.cli.show import Progress, tell, warnings_as_notes
    from emcl_plugin.data.demo import load_demo
    from emcl_plugin.evaluation.compare import KNOWN, compare
    from emcl_plugin.report.tables import render, sort_rows

    chosen = None if methods is None else [name.strip() for name in methods.split(",")]
    if wrong := ", ".join(name for name in chosen or () if name not in KNOWN):
        raise opt.wrong_usage(f"--methods: unknown method {wrong}; use {', '.join(KNOWN)}")
    if demo:
        data = load_demo()
        given = Inputs(None, (data.text, data.video))
        banks: tuple[Any, Any] = data.text_bank, data.video_bank
    else:
        given, banks = sources.read(), Banks.of(options).read()
    if not quiet:
        tell(given.notes)
    right = TruthFiles.of(options).read(given.shape, given)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        rows, skipped = compare(
            given.sim,
            given.feats,
            truth=right,
            text_bank=banks[0],
            video_bank=banks[1],
            methods=chosen,
            several=several,
            metric=sources.metric,
            device=device,
            memory=memory,
            progress=progress.update,
        )
    click.echo(render(sort_rows(rows, sort), names, format))
    if not quiet:
        tell([f"{name} {why}" for name, why in skipped.items()])
