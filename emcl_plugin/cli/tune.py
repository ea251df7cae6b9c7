"""`emcl-rerank tune`: settings by cross-validation inside the bank, and a corrector with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.cli.inputs import Banks, Sides, TruthFiles, check_gallery, names_of, read_source

if TYPE_CHECKING:
    from emcl_plugin.cli.inputs import Matrix
    from emcl_plugin.tune import Tuning

_SHOWN = 8


def _seconds(context: click.Context, _: click.Parameter, given: str) -> float:
    """Return the seconds of a time such as 60s, 90, 1.5m or 2h."""
    del context
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h)?", given.strip().lower())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"] if found else 0.0
    if not found or seconds <= 0:
        raise click.BadParameter(f"{given!r} is not a time; use e.g. 60s, 5m or 1h")
    return seconds


@click.command(
    "tune",
    cls=opt.Sections,
    epilog="\b\nExamples:\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy --video v.npy --save tuned\n"
    "  emcl-rerank tune --text-bank tb.npy --video-bank vb.npy --bank-gt gt.npy --budget 5m",
)
@opt.bank_options
@opt.section(
    "Query banks",
    opt.file(
        "--bank-gt FILE",
        "Right video of each text in the bank, as --gt of the main command. Default: row i "
        "belongs to row i.",
    ),
)
@opt.saved_options(required=False)
@opt.section(
    "Search",
    opt.option("--budget TIME", "Maximum time, e.g. 30s, 5m.", default="60s", callback=_seconds),
    opt.number(
        "--cuts", "Maximum number of splits of the bank for NCL, and as many for EMCL.", default=10
    ),
    opt.number("--seed", "Seed of the splits.", kind=click.IntRange(min=0), default=0),
)
@opt.device_options
@opt.json_option
@opt.quiet_option
@opt.flag("--verbose -v", "Print the whole table.")
def tune_command(
    text: str | None,
    video: str | None,
    bank_gt: Path | None,
    names: Path | None,
    save: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Choose the settings of bank mode with the bank's own pairs, and save a corrector.

    The bank is split in two repeatedly: one half corrects the other, which has right answers.
    Settings other than the defaults are chosen only if they are better by more than chance. The
    queries to come are never seen. With --video (or --text, for the other direction) and --save
    the corrector is fitted with the chosen settings.
    """
    banks = Banks.of(options)
    _check_usage(text, video, banks, save)

    from emcl_plugin.bank.persistence import FILES
    from emcl_plugin.cli.show import Progress, bank_summary, warnings_as_notes
    from emcl_plugin.io.atomic import check_folder_target
    from emcl_plugin.reranker import Reranker
    from emcl_plugin.tune import NOTHING, tune

    if save is not None:
        check_folder_target(save, 0, force=force, files=FILES)
    queries, items = banks.read()
    assert queries is not None
    assert items is not None
    truth = TruthFiles(gt=bank_gt).read((len(queries), len(items)))
    if text is not None:
        queries, items, truth = items, queries, truth.T
    settings: dict[str, Any] = {name: options[name] for name in ("metric", "device", "memory")}
    search = {name: options[name] for name in ("budget", "cuts", "seed")}
    gallery, called = _gallery(text or video, names, items, settings["metric"])
    fitted = None
    with warnings_as_notes(quiet=quiet), Progress(enabled=not quiet) as progress:
        found = tune(queries, items, truth, progress=progress.update, **search, **settings)
        if gallery is not None and save is not None:
            prior = "off" if found.chosen is NOTHING else "auto"
            fitted = Reranker(found.chosen.emcl, found.chosen.ncl, prior, **settings)
            fitted.fit(queries, gallery, gallery_bank=items, names=called)
            fitted.save_pretrained(save, force=force)
    if not quiet:
        click.echo(_table(found, None if verbose else _SHOWN), err=True)
        if fitted is not None:
            report: Any = fitted.report_
            click.echo(f"\n{bank_summary(report, save)}", err=True)
    if as_json:
        saved = {} if fitted is None else {"saved": str(save)}
        click.echo(json.dumps({**found.to_dict(), **saved}, indent=2))


def _check_usage(text: str | None, video: str | None, banks: Banks, save: Path | None) -> None:
    if banks.text_bank is None or banks.video_bank is None:
        raise opt.wrong_usage(
            "tuning needs pairs: give --text-bank and --video-bank with matching rows, or --bank-gt"
        )
    if text is not None or video is not None:
        Sides.of(text, video, banks)
    elif save is not None:
        raise opt.wrong_usage("--save needs the gallery to search: --video or --text")


def _gallery(
    path: str | None, names: Path | None, bank: Matrix, metric: str
) -> tuple[Matrix | None, list[str]]:
    """Open the gallery, if there is one, and check it before the work on the bank."""
    if path is None:
        return None, []
    vectors = read_source(path)
    check_gallery(vectors.array, bank, metric)
    return vectors.array, names_of(vectors, names)


def _table(found: Tuning, most: int | None) -> str:
    from emcl_plugin.cli.show import tested

    lines = []
    for title, part in zip(("NCL", "EMCL, with the NCL above"), found.parts, strict=False):
        nothing, stands, *_ = part
        ranked = sorted(part, key=lambda trial: -trial.mrr)
        best = ranked if most is None else ranked[:most]
        shown = [t for t in ranked if t in best or t in (nothing, stands)]
        lines.append(f"  {title:26}     R@1      MRR        z")
        for trial in shown:
            mark, z = ("*", "") if trial is stands else (" ", f"{trial.z(stands):+9.1f}")
            lines.append(f"{mark} {trial.candidate.name:26}{trial.r1:8.1f}{trial.mrr:9.3f}{z}")
        left = len(part) - len(shown)
        lines.append(f"  ({left} more with --verbose)\n" if left else "")
    lines += [
        "  * reference; z: standard errors of the paired difference in MRR to it,",
        f"    3 needed; {found.cuts} splits of the bank, seed {found.seed}, {found.seconds:.0f} s",
        f"  chosen   {found.chosen.name}: {found.reason}",
    ]
    gain = found.against_nothing
    if gain is not None:
        words = f"{gain.gain:+.1f} over no correction, inside the bank, {tested(gain)}"
        lines.append(f"  gain     R@1 {words}")
    return "\n".join(lines)
