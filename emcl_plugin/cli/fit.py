"""`emcl-rerank fit`: learn from a bank, and save the corrector for queries to come."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli.inputs import read_banks, read_size, read_source, sides
from emcl_plugin.cli.method import bank_ncl, method_options, settings
from emcl_plugin.cli.options import bank_options, device_options, saved_options
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL


@click.command(
    "fit",
    epilog="\b\nExamples:\n  emcl-rerank fit --text-bank tb.npy --video v.npy --save fitted\n"
    "  emcl-rerank fit --text-bank tb.npy --video v.npy --names ids.txt --save fitted\n"
    "  emcl-rerank fit --video-bank vb.npy --text t.npy --save other-way",
)
@saved_options(required=True)
@bank_options
@method_options
@device_options
@click.option("--quiet", "-q", is_flag=True, help="No summary, no progress.")
@click.option("--verbose", "-v", is_flag=True, help="Also what was tried.")
@click.option("--json", "as_json", is_flag=True, help="A report on standard output.")
@click.pass_context
def fit_command(
    context: click.Context,
    /,
    text: str | None,
    video: str | None,
    text_bank: str | None,
    video_bank: str | None,
    metric: str,
    names: Path | None,
    save: Path,
    force: bool,
    device: str,
    memory: str | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **method: Any,
) -> None:
    """Learn from a bank how to correct queries that are not known yet, and save that.

    Give the gallery that will be searched (--video for text queries, --text for video queries)
    and a bank of queries: with --video a --text-bank. The bank of the gallery's own side, where
    there is one, joins in (dual-bank Sinkhorn). The queries to come are not needed: 'emcl-rerank
    apply' scores them, 'export' hands the gallery to a vector store, 'serve' answers over HTTP.
    """
    paths = sides(context, text, video, text_bank, video_bank)
    budget = read_size(context, memory)

    from emcl_plugin.bank.persistence import FILES
    from emcl_plugin.cli.show import Progress, bank_summary, warnings_as_notes
    from emcl_plugin.io.atomic import check_folder_target
    from emcl_plugin.io.truth import read_lines
    from emcl_plugin.reranker import Reranker

    emcl, ncl = reranker_settings(context, method)
    check_folder_target(save, 0, force=force, files=FILES)
    vectors = read_source(paths.gallery)
    gallery = vectors.array
    bank, other = read_banks(paths.bank, paths.gallery_bank)
    assert bank is not None
    called = list(vectors.ids or ())
    if names is not None:
        called = read_lines(names, len(gallery), "names")
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        reranker = Reranker(
            emcl=emcl,
            ncl=ncl,
            prior=method["prior"],
            guard=method["guard"],
            metric=metric,
            device=device,
            memory=budget,
        )
        reranker.fit(bank, gallery, gallery_bank=other, names=called, progress=progress.update)
        reranker.save_pretrained(save, force=force)
    report: Any = reranker.report_
    if not quiet:
        click.echo(bank_summary(report, save, verbose=verbose), err=True)
        folder = escaped(shlex.quote(str(save)))
        click.echo(f"\nNow try: emcl-rerank apply {folder} {paths.asks} q.npy", err=True)
    if as_json:
        click.echo(json.dumps({**report.to_dict(), "saved": str(save)}, indent=2))


def reranker_settings(
    context: click.Context, method: dict[str, Any]
) -> tuple[EMCL | str | None, NCL | str | None]:
    """EMCL and NCL from the options, "auto" where nothing was said."""
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL

    emcl, ncl = settings(context, features=True, **method)
    if ncl is not None and ncl != NCL():
        ncl = bank_ncl(ncl, method["prior"])
    return ("auto" if emcl == EMCL() else emcl), ("auto" if ncl == NCL() else ncl)
