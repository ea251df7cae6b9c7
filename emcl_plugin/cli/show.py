"""The summary, notes and progress display of the commands, all on standard error."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.bank import BankReport
    from emcl_plugin.bank.both_directions import Banked
    from emcl_plugin.evaluation.ablation import Ablation
    from emcl_plugin.evaluation.significance import Comparison
    from emcl_plugin.evidence.mutual_neighbours import Hubs
    from emcl_plugin.pipeline.report import Report

    Lines = list[tuple[str, str]]

Block = TypeVar("Block", bound=Sized)


def summary(report: Report, found: Banked | None = None, *, verbose: bool = False) -> str:
    """Return the run in a few aligned lines; ``found`` if banks corrected it."""
    n_text, n_video = report.shape
    lines = [("", f"{n_text} texts x {n_video} videos")]
    hubs = _hubs(report.hubs_before, report.hubs_after, n_text)
    if report.banks:
        lines.append(("protocol", "bank (correction learned from other items)"))
        for way, bank in report.banks.items():
            lines += [(way, ""), *((f"  {name}", text) for name, text in bank.facts(verbose))]
        lines.append(("hubs", hubs))
        if found is not None and len(found.gates) == 1:  # with two banks there is no gate
            ((direction, gate),) = found.gates.items()
            lines.append(("gate", gate_words(gate, f"{direction.partition(' ')[0]}s")))
        return aligned(lines)
    lines += [
        ("protocol", f"{report.protocol} (biases computed from all texts together)"),
        ("NCL", _ncl(report)),
        *_prior(report),
        *_emcl(report, verbose),
    ]
    seen = report.coverage
    if seen is not None:
        lines.append(
            (
                "candidates",
                f"{seen.pairs} pairs, {100 * seen.share:.3g} % of all; they contain "
                f"{100 * seen.recall:.1f} % of the ten best videos of {seen.texts} sampled texts "
                f"and leave out {100 * seen.left_out:.2g} % of the mass",
            )
        )
    if not report.guard.applied:
        hubs = _hubs(report.hubs_before, None, n_text)
    return aligned([*lines, ("guard", report.guard.reason), ("hubs", hubs)])


def _ncl(report: Report) -> str:
    biases = report.biases
    if biases is None:
        return "off"
    share = biases.temperature / report.score_std
    state = "converged"
    if not biases.converged:
        state = f"NOT converged (error {biases.error:.2g}; raise --iterations)"
    return (
        f"temperature {biases.temperature:.4g} ({share:.3g} standard deviations of the scores), "
        f"{biases.iterations} iteration{'s' if biases.iterations != 1 else ''}, {state}"
        + ("" if report.guard.applied else ", not applied")
    )


def _prior(report: Report) -> Lines:
    prior, n_text = report.prior, report.shape[0]
    if prior is None:
        return []
    words = f"{prior.mode}: {prior.reason}"
    if prior.mode == "auto":
        words = f"{prior.reason}; equal-share assumption applied at {100 * prior.even:.0f} %"
        if prior.text_rho < 1:
            words += f"; biases of texts at {100 * prior.text_rho:.0f} % (several per video)"
    lines = [("prior", words)]
    if prior.queries < n_text - 0.5:
        count = f"{n_text} texts count as {prior.queries:.0f}"
        lines.append(("", f"near-duplicates merged: {count}"))
    return lines


def _emcl(report: Report, verbose: bool) -> Lines:
    emcl = report.emcl
    if emcl is None:
        return [("EMCL", "off")]
    lines = emcl.lines(verbose)
    if verbose:
        for strength, agreement in emcl.tried:
            share = f"{100 * agreement:.1f} % mutual nearest neighbours"
            lines.append(("", f"strength {strength:+.2f}: {share}"))
    return lines


def aligned(lines: Lines) -> str:
    """Lay out names in one column and their texts in the next."""
    width = max(len(name) for name, _ in lines) + 4
    return "\n".join(f"  {name:{width}} {text}" for name, text in lines)


def bank_summary(report: BankReport, saved: Path | None = None, *, verbose: bool = False) -> str:
    """Return a fit on a bank in a few aligned lines, and where it was saved."""
    hubs = _hubs(report.hubs_before, report.hubs_after, report.bank, "bank queries", "item")
    lines = [
        ("", f"{report.bank} bank queries x {report.gallery} gallery items"),
        ("protocol", "bank (correction learned from these queries, for others)"),
        *report.facts(verbose)[1:],
        ("hubs", hubs),
    ]
    if saved is not None:
        lines.append(("written", escaped(saved)))
    return aligned(lines)


def gate_words(gate: float, queries: str = "queries") -> str:
    """Return the mean of the gate over the queries in words."""
    return f"{100 * gate:.0f} % of the {queries} resemble the bank and are corrected"


def _hubs(
    before: Hubs, after: Hubs | None, count: int, queries: str = "texts", item: str = "video"
) -> str:
    largest, never = f"{before.largest}", f"{100 * before.never:.0f} %"
    if after is not None:
        largest += f" -> {after.largest}"
        never += f" -> {100 * after.never:.0f} %"
    return (
        f"most frequent top-1 {item}: {largest} of {count} {queries}; {item}s that are nobody's "
        f"top-1: {never}"
    )


def gains(ablation: Ablation) -> str:
    """Return the gain in R@1 with interval and test, one line per direction."""
    lines = []
    for direction, gain in ablation.gains().items():
        words = f"{gain.gain:+.1f}, {tested(gain)}" if gain.changed else "+0.0: no query changed"
        lines.append(f"  {direction}  R@1 {words}")
    return "\n".join(lines)


def tested(gain: Comparison) -> str:
    """Return the interval and the test of a gain in words."""
    words = "significant" if gain.significant else "not significant"
    if gain.too_small:
        words = f"too few queries: {gain.queries} can show a gain of {gain.detectable:.1f} or more"
    interval = f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}"
    return f"{interval}, p = {gain.p_value:.2g}: {words}"


def tell(notes: Sequence[str]) -> None:
    """Print notes, such as assumptions about the input, one line each."""
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)  # not click, which writes past a bar of rich


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
                tell([str(message)])

        warnings.showwarning = show
        yield


class Progress:
    """A bar on standard error, shown if the run takes over a second and a person is watching."""

    _PATIENCE = 1.0

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def update(self, stage: str, done: int, total: int) -> None:
        """Draw the state of one stage."""
        if not self.enabled or time.monotonic() - self._started < self._PATIENCE:
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
        count = f"iteration {done}" if stage == "sinkhorn" else f"{100 * done // total} %"
        (task,) = self._bar.task_ids or [self._bar.add_task("", count="")]
        self._bar.update(
            task, description=stage, completed=done, total=total, count=count, refresh=True
        )

    def rows(self, stage: str, blocks: Iterator[Block], total: int) -> Iterator[Block]:
        """Pass blocks of rows on, counting them."""
        done = 0
        for block in blocks:
            yield block
            done += len(block)
            self.update(stage, done, total)
        self._clear()

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Any:
    """Return a bar without colours, which disappears when it stops."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        "  {task.description:10}",
        progress.BarColumn(bar_width=30),
        "{task.fields[count]}",
        console=Console(stderr=True, color_system=None),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
    )
