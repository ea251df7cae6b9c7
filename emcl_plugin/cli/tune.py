"""`emcl-rerank tune`: settings by cross-validation inside the bank, and a corrector with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli.inputs import read_banks, read_size, read_source, sides
from emcl_plugin.cli.options import bank_options, device_options, saved_options

if TYPE_CHECKING:
    from emcl_plugin.tune import Tuning

_PATH = click.Path(path_type=Path)
_SHOWN = 8


def _seconds(context: click.Context, _: click.Parameter, given: str) -> float:
    """A time such as 60s, 90, 1.5m or 2h."""
    del context
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h)?", given.strip().lower())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"] if found else 0.0
    if not found or seconds <= 0:
        raise click.BadParameter(f"{given!r} is not a time; 60s, 5m and 1h are")
    return seconds


@click.command(
    "tune",
    epilog="\b\nExamples:\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy --video v.npy --save tuned\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy --bank-gt gt.npy --budget 5m",
)
@bank_options
@click.option(
    "--bank-gt", type=_PATH, metavar="FILE",
    help="Which video of the bank belongs to which text, as --gt of the main command. Default: "
    "row i belongs to row i.",
)  # fmt: skip
@saved_options(required=False)
@click.option(
    "--budget", callback=_seconds, default="60s", show_default=True, metavar="TIME",
    help="Most time to take, e.g. 30s, 5m.",
)  # fmt: skip
@click.option(
    "--cuts", type=click.IntRange(min=1), default=10, show_default=True,
    help="Most cuts of the bank for NCL, and as many for EMCL.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the cuts."
)
@device_options
@click.option("--json", "as_json", is_flag=True, help="Everything tried, on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No table, no progress.")
@click.option("--verbose", "-v", is_flag=True, help="The whole table.")
@click.pass_context
def tune_command(
    context: click.Context,
    /,
    text_bank: str | None,
    video_bank: str | None,
    bank_gt: Path | None,
    text: str | None,
    video: str | None,
    names: Path | None,
    metric: str,
    save: Path | None,
    force: bool,
    budget: float,
    cuts: int,
    seed: int,
    device: str,
    memory: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Choose the settings of bank mode with the bank's own pairs, and save a corrector.

    The bank is cut in two again and again: one half corrects the other, which has right answers.
    Something else than the defaults is chosen only where it is better by more than chance. The
    queries to come are never seen. With --video (or --text, for the other direction) and --save
    the corrector is fitted with what was chosen.
    """
    if text_bank is None or video_bank is None:
        raise click.UsageError(
            "tuning needs pairs: give --text-bank and --video-bank, whose row i belongs to row i "
            "(or --bank-gt)",
            context,
        )
    if text is not None or video is not None:
        sides(context, text, video, text_bank, video_bank)
    elif save is not None:
        raise click.UsageError(
            "--save needs the gallery that will be searched: --video, or --text", context
        )
    limit = read_size(context, memory)

    from emcl_plugin.bank.persistence import FILES
    from emcl_plugin.cli.inputs import check_gallery, read_ground_truth
    from emcl_plugin.cli.show import Progress, bank_summary, warnings_as_notes
    from emcl_plugin.io.atomic import check_folder_target
    from emcl_plugin.io.truth import read_lines
    from emcl_plugin.reranker import Reranker
    from emcl_plugin.tune import NOTHING, tune

    if save is not None:
        check_folder_target(save, 0, force=force, files=FILES)
    texts, videos = read_banks(text_bank, video_bank)
    assert texts is not None
    assert videos is not None
    truth = read_ground_truth((len(texts), len(videos)), bank_gt, None, None, None)
    queries, items, gallery = texts, videos, video
    if text is not None:
        queries, items, gallery, truth = videos, texts, text, truth.T
    vectors = None if gallery is None else read_source(gallery)
    rows = None if vectors is None else vectors.array
    if rows is not None:
        check_gallery(rows, items, metric)
    called = [] if vectors is None else list(vectors.ids or ())
    if names is not None and rows is not None:
        called = read_lines(names, len(rows), "names")
    options: dict[str, Any] = {"metric": metric, "device": device, "memory": limit}
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        found = tune(
            queries, items, truth, budget=budget, cuts=cuts, seed=seed,
            progress=progress.update, **options,
        )  # fmt: skip
        fitted = None
        if rows is not None and save is not None:
            prior = "off" if found.chosen is NOTHING else "auto"
            fitted = Reranker(found.chosen.emcl, found.chosen.ncl, prior, **options)
            fitted.fit(queries, rows, gallery_bank=items, names=called)
            fitted.save_pretrained(save, force=force)
    if not quiet:
        click.echo(_table(found, None if verbose else _SHOWN), err=True)
        if fitted is not None:
            click.echo(f"\n{bank_summary(fitted.report_, save)}", err=True)  # type: ignore[arg-type]
    if as_json:
        saved = {} if fitted is None else {"saved": str(save)}
        click.echo(json.dumps({**found.to_dict(), **saved}, indent=2))


def _table(found: Tuning, most: int | None) -> str:
    """What was tried, best first, and what came of it."""
    lines = []
    for title, part in zip(("NCL", "EMCL, with the NCL above"), found.parts, strict=False):
        nothing, stands, *_ = part
        ranked = sorted(part, key=lambda trial: -trial.mrr)
        shown = [
            t for k, t in enumerate(ranked) if most is None or k < most or t in (nothing, stands)
        ]
        lines.append(f"  {title:26}     R@1      MRR        z")
        for trial in shown:
            mark = "*" if trial is stands else " "
            z = "" if trial is stands else f"{trial.z(stands):+9.1f}"
            lines.append(f"{mark} {trial.candidate.name:26}{trial.r1:8.1f}{trial.mrr:9.3f}{z}")
        left = len(part) - len(shown)
        lines.append(f"  ({left} more with --verbose)\n" if left else "")
    lines.append("  * what stood before; z: standard errors of the paired difference to it in MRR,")
    lines.append(
        f"    3 needed; {found.cuts} cuts of the bank, seed {found.seed}, {found.seconds:.0f} s"
    )
    lines.append(f"  chosen   {found.chosen.name}: {found.reason}")
    gain = found.against_nothing
    if gain is not None:
        words = "significant" if gain.significant else "could be chance"
        lines.append(
            f"  gain     R@1 {gain.gain:+.1f} over nothing inside the bank, 95 % interval "
            f"{gain.low:+.1f} to {gain.high:+.1f}, p = {gain.p_value:.2g}: {words}"
        )
    return "\n".join(lines)
