"""`emcl-rerank fit`: learn from a bank, and save the corrector for queries to come."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.cli.inputs import Banks, Sides, names_of
from emcl_plugin.cli.method import Method, bank_ncl, method_options
from emcl_plugin.errors import escaped


@click.command(
    "fit",
    cls=opt.Sections,
    epilog="\b\nExamples:\n  emcl-rerank fit --text-bank tb.npy --video v.npy --save fitted\n"
    "  emcl-rerank fit --text-bank tb.npy --video v.npy --names ids.txt --save fitted\n"
    "  emcl-rerank fit --video-bank vb.npy --text t.npy --save other-way",
)
@opt.saved_options(required=True)
@opt.bank_options
@method_options
@opt.device_options
@opt.quiet_option
@opt.flag("--verbose -v", "Also print the strengths tried.")
@opt.json_option
def fit_command(
    text: str | None,
    video: str | None,
    metric: str,
    names: Path | None,
    save: Path,
    force: bool,
    device: str,
    memory: int | None,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn from a bank how to correct queries that are not known yet, and save that.

    Give the gallery that will be searched (--video for text queries, --text for video queries)
    and a bank of queries: with --video a --text-bank. The bank of the gallery's own side, where
    there is one, joins in (dual-bank Sinkhorn). The queries to come are not needed: 'emcl-rerank
    apply' scores them, 'export' hands the gallery to a vector store, 'serve' answers over HTTP.
    """
    sides, method = Sides.of(text, video, Banks.of(options)), Method.of(options)
    quiet = options["quiet"]

    from emcl_plugin.bank.persistence import FILES
    from emcl_plugin.cli.show import Progress, bank_summary, warnings_as_notes
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.io.atomic import check_folder_target
    from emcl_plugin.ncl import NCL
    from emcl_plugin.reranker import Reranker

    settings = method.settings(features=True, metric=metric)
    emcl, ncl = settings.emcl, settings.ncl
    check_folder_target(save, 0, force=force, files=FILES)
    gallery, bank, other = sides.read()
    called = names_of(gallery, names)
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        reranker = Reranker(
            emcl="auto" if emcl == EMCL() else emcl,
            ncl="auto" if ncl == NCL() else bank_ncl(ncl, settings.prior),
            prior=settings.prior,
            guard=settings.guard,
            metric=metric,
            device=device,
            memory=memory,
        )
        rows = gallery.array
        reranker.fit(bank, rows, gallery_bank=other, names=called, progress=progress.update)
        reranker.save_pretrained(save, force=force)
    report: Any = reranker.report_
    if not quiet:
        click.echo(bank_summary(report, save, verbose=verbose), err=True)
        folder = escaped(shlex.quote(str(save)))
        click.echo(f"\nNow try: emcl-rerank apply {folder} {sides.asks} q.npy", err=True)
    if as_json:
        click.echo(json.dumps({**report.to_dict(), "saved": str(save)}, indent=2))
