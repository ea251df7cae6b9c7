"""What a person sees: the summary, notes, tables and progress bars. All on standard error."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.bank import BankReport
    from emcl_plugin.bank.both_directions import Banked
    from emcl_plugin.evaluation.ablation import Ablation
    from emcl_plugin.evidence.mutual_neighbours import Hubs
    from emcl_plugin.pipeline.report import Report

Block = TypeVar("Block", bound=Sized)


def summary(report: Report, found: Banked | None = None, *, verbose: bool = False) -> str:
    """The run in a few aligned lines; ``found`` where it was corrected by banks."""
    n_text, n_video = report.shape
    lines = [("", f"{n_text} texts x {n_video} videos")]
    if report.banks:
        gates = [] if found is None else _gates(found)
        return aligned([*lines, *_banks(report, verbose), *gates])
    lines.append(
        ("protocol", f"{report.protocol} (the biases were computed from all the texts at once)")
    )
    biases = report.biases
    if biases is None:
        lines.append(("NCL", "off"))
    else:
        share = biases.temperature / report.score_std
        lines.append(
            (
                "NCL",
                f"temperature {biases.temperature:.4g} ({share:.3g} standard deviations of the "
                f"scores), {biases.iterations} iteration{'s' if biases.iterations != 1 else ''}, "
                + ("" if report.guard.applied else "tried, ")
                + ("converged" if biases.converged else f"NOT converged ({biases.error:.2g})"),
            )
        )
    prior = report.prior
    if prior is not None:
        words = {"auto": f"{100 * prior.even:.0f} % even"}.get(prior.mode, prior.mode)
        lines.append(("prior", f"{words}: {prior.reason}"))
        if prior.queries < n_text - 0.5:
            lines.append(("", f"near-equal texts count once: {n_text} as {prior.queries:.0f}"))
    if report.emcl is None:
        lines.append(("EMCL", "off"))
    else:
        lines.append(("EMCL", f"strength {report.emcl.strength:g}: {report.emcl.reason}"))
        if verbose:
            lines.append(("", f"{report.emcl.effective_rank:.1f} distinct subspaces"))
            for strength, agreement in report.emcl.tried:
                lines.append(("", f"strength {strength:+.2f}: agreement {100 * agreement:.1f} %"))
    seen = report.coverage
    if seen is not None:
        lines.append(
            (
                "candidates",
                f"{seen.pairs} pairs, {100 * seen.share:.3g} % of all; {seen.texts} texts scored "
                f"in full have {100 * seen.recall:.1f} % of their ten best videos among them, "
                f"and {100 * seen.left_out:.2g} % of their mass elsewhere",
            )
        )
    lines.append(("guard", report.guard.reason))
    if report.guard.applied:
        lines.append(("hubs", _change(report.hubs_before, report.hubs_after, n_text)))
    else:
        lines.append(("hubs", _hubs(report.hubs_before, n_text)))
    return aligned(lines)


def aligned(lines: list[tuple[str, str]]) -> str:
    """Names in one column, what they say in the next."""
    width = max(len(name) for name, _ in lines) + 4
    return "\n".join(f"  {name:{width}} {text}" for name, text in lines)


def _banks(report: Report, verbose: bool) -> list[tuple[str, str]]:
    """What each direction's bank taught."""
    lines = [("protocol", "bank (the correction was learnt from other items, not from these)")]
    for direction, bank in report.banks.items():
        lines += [(direction, ""), *((f"  {name}", value) for name, value in bank.facts(verbose))]
    n_text = report.shape[0]
    lines.append(("hubs", _change(report.hubs_before, report.hubs_after, n_text)))
    return lines


def bank_summary(report: BankReport, saved: Path | None = None, *, verbose: bool = False) -> str:
    """A fit on a bank in a few aligned lines, and where it was saved."""
    lines = [
        ("", f"{report.bank} bank queries x {report.gallery} gallery items"),
        ("protocol", "bank (the correction was learnt from other items than will be scored)"),
        *report.facts(verbose)[1:],
        ("hubs", _change(report.hubs_before, report.hubs_after, report.bank, "bank queries")),
    ]
    if saved is not None:
        lines.append(("written", escaped(saved)))
    return aligned(lines)


def _gates(found: Banked) -> list[tuple[str, str]]:
    """How like the bank's the queries are; with two banks it was not asked of each."""
    if len(found.gates) > 1:
        return []
    ((direction, gate),) = found.gates.items()
    what = direction.partition(" ")[0] + "s"
    return [
        ("gate", f"{100 * gate:.0f} % of the {what} are like the bank's; the others are left alone")
    ]


def _change(before: Hubs, after: Hubs, n_text: int, who: str = "texts") -> str:
    what = "videos" if who == "texts" else "gallery"
    return (
        f"the commonest top result serves {before.largest} -> {after.largest} of {n_text} {who}; "
        f"never a top result: {100 * before.never:.0f} -> {100 * after.never:.0f} % of the {what}"
    )


def _hubs(hubs: Hubs, n_text: int) -> str:
    return (
        f"the commonest top result serves {hubs.largest} of {n_text} texts; "
        f"never a top result: {100 * hubs.never:.0f} % of the videos"
    )


def gains(ablation: Ablation) -> str:
    """R@1 after against before, with interval and test, a line per direction."""
    lines = []
    for direction, gain in ablation.gains().items():
        words = "significant" if gain.significant else "could be chance"
        if not gain.changed:
            lines.append(f"  {direction}  R@1 +0.0: no query changed")
            continue
        if gain.too_small:
            words = (
                f"too few queries to tell: a gain of {gain.detectable:.1f} or more would show "
                f"with {gain.queries}"
            )
        lines.append(
            f"  {direction}  R@1 {gain.gain:+.1f}, 95 % interval {gain.low:+.1f} to "
            f"{gain.high:+.1f}, p = {gain.p_value:.2g}: {words}"
        )
    return "\n".join(lines)


def tell(notes: Sequence[str]) -> None:
    """What was decided about the input and could be otherwise, a line each."""
    for note in notes:
        click.echo(f"Note: {note}", err=True)


@contextmanager
def warnings_as_notes(*, quiet: bool) -> Iterator[None]:
    """Show this package's warnings as one-line notes instead of Python's format."""
    from emcl_plugin.errors import EmclWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", EmclWarning)

        shown = set()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            if not quiet and str(message) not in shown:
                shown.add(str(message))
                clear = "\r\033[K" if _draws() else ""  # a bar may be on the line
                click.echo(f"{clear}Note: {message}", err=True)

        warnings.showwarning = show
        yield


def _draws() -> bool:
    """Whether standard error is a terminal on which a line can be drawn anew."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Progress:
    """A bar on standard error, once a run takes over a second and if someone is watching."""

    _PATIENCE = 1.0
    _WIDTH = 30

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled and _draws()
        self._started = time.monotonic()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def update(self, stage: str, done: int, total: int) -> None:
        """Draw the state of one stage."""
        if not self.enabled or time.monotonic() - self._started < self._PATIENCE:
            return
        filled = self._WIDTH * done // total
        bar = "#" * filled + "-" * (self._WIDTH - filled)
        count = f"iteration {done}" if stage == "sinkhorn" else f"{100 * done // total} %"
        click.echo(f"\r\033[K  {stage:10} [{bar}] {count}", nl=False, err=True)
        self._shown = True

    def rows(self, stage: str, blocks: Iterator[Block], total: int) -> Iterator[Block]:
        """Pass blocks of rows on, counting them."""
        done = 0
        for block in blocks:
            yield block
            done += len(block)
            self.update(stage, done, total)
        self._clear()

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)
            self._shown = False
