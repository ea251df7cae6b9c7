"""What one run of the main command is to do: its options, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import processes
from emcl_plugin.cli.inputs import Banks, NameFiles, Sources, TruthFiles, read_measures
from emcl_plugin.cli.method import Method
from emcl_plugin.cli.options import Group, wrong_usage
from emcl_plugin.cli.outputs import Outputs

if TYPE_CHECKING:
    from pathlib import Path

    from emcl_plugin.pipeline.settings import Settings


@dataclass(frozen=True, kw_only=True)
class RunConfig(Group):
    """One run of the main command; ``shown`` are the options in use, for the page."""

    sources: Sources
    banks: Banks
    method: Method
    settings: Settings
    outputs: Outputs
    truth: TruthFiles
    names: NameFiles
    shown: dict[str, object]
    candidates: int | None
    index: str | None
    dtype: str
    resume: Path | None
    device: str
    memory: int | None
    measures: list[str]
    several: str
    check_leak: bool
    plan: bool
    as_json: bool
    quiet: bool
    verbose: bool

    @classmethod
    def from_options(cls, context: click.Context, **options: Any) -> RunConfig:
        """Check the options of the command line; contradictions are wrong usage."""
        sources, banks, outputs = Sources.of(options), Banks.of(options), Outputs.of(options)
        method, truth = Method.of(options), TruthFiles.of(options)
        sources.check()
        outputs.check()
        measures = read_measures(options["measures"])
        if banks:
            _check_banks(sources, options)
        if truth.gt is None and sources.source is None and outputs.explained:
            raise wrong_usage(
                "--report and --plots need ground truth: --gt FILE, or --gt diagonal if row i "
                "matches row i"
            )
        if options["candidates"] is not None:
            _check_candidates(sources, banks, outputs, options)
        elif options["index"] is not None:
            raise wrong_usage("--index needs --candidates")
        alone = ("candidates", "text_bank", "video_bank", "report", "plots", "check_leak")
        processes.check_alone({name: options[name] for name in alone}, sources.named)
        if options["resume"] is not None and not method.normalises:
            raise wrong_usage("--resume stores NCL's iterations, and NCL is off")
        features = sources.text is not None or sources.source is not None
        own = {
            "sources": sources,
            "banks": banks,
            "method": method,
            "settings": method.settings(features=features, metric=sources.metric),
            "outputs": outputs,
            "truth": truth,
            "names": NameFiles.of(options),
            "measures": measures,
            "shown": _shown(context),
        }
        return cls.of({**options, **own})


def _check_banks(sources: Sources, options: dict[str, Any]) -> None:
    """Banks hold embeddings and are compared with embeddings."""
    if sources.text is None or sources.sim is not None:
        raise wrong_usage(
            "--text-bank and --video-bank need embeddings: give --text and --video, without --sim"
        )
    if options["check_leak"]:
        raise wrong_usage("--check-leak is not needed with a bank: no text depends on another")
    if options["resume"] is not None:
        raise wrong_usage("--resume does not go with banks")


def _check_candidates(
    sources: Sources, banks: Banks, outputs: Outputs, options: dict[str, Any]
) -> None:
    """Candidates are of embeddings, and give runs."""
    candidates, top = options["candidates"], options["top"]
    if sources.text is None or sources.sim is not None or banks:
        raise wrong_usage(
            "--candidates needs embeddings: give --text and --video, without --sim and banks"
        )
    if outputs.matrix is not None or not outputs.runs:
        raise wrong_usage(
            "--candidates writes no matrix: give --run, e.g. --run best.csv, and no --output"
        )
    if top is not None and top > candidates:
        raise wrong_usage(f"--top {top} exceeds --candidates {candidates}")
    if outputs.explained or options["check_leak"]:
        raise wrong_usage("--report, --plots and --check-leak do not go with --candidates")


def _shown(context: click.Context) -> dict[str, object]:
    """Return the options in use, given or by default, for the page."""
    values = (
        (param.opts[0], context.params.get(param.name or "")) for param in context.command.params
    )
    return {name: value for name, value in values if value is not None and value is not False}
