"""What one run of the main command is to do: its options, typed and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli import processes
from emcl_plugin.cli.inputs import Banks, NameFiles, Sources, TruthFiles, read_measures
from emcl_plugin.cli.method import Method
from emcl_plugin.cli.options import Group, refuse, wrong_usage
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
        refuse(_contradictions(sources, banks, outputs, options))
        alone = ("candidates", "text_bank", "video_bank", "report", "plots", "check_leak")
        processes.check_alone({name: options[name] for name in alone}, sources.named)
        if options["resume"] is not None and not method.normalises:
            raise wrong_usage("--resume stores NCL's iterations, and NCL is off")
        features = sources.text is not None or sources.source is not None
        settings = method.settings(features=features, metric=sources.metric)
        own: dict[str, Any] = {"sources": sources, "banks": banks, "outputs": outputs}
        own |= {"truth": truth, "names": NameFiles.of(options), "measures": measures}
        own |= {"method": method, "settings": settings, "shown": _shown(context)}
        return cls.of({**options, **own})


def _contradictions(
    sources: Sources, banks: Banks, outputs: Outputs, options: dict[str, Any]
) -> dict[str, object]:
    """Return every contradiction between options of different groups, and whether it holds."""
    candidates, leak, top = options["candidates"], options["check_leak"], options["top"]
    embedded = sources.text is not None and sources.sim is None
    few = candidates is not None
    return {
        "--text-bank and --video-bank need embeddings: give --text and --video, without --sim":
        banks and not embedded,
        "--check-leak is not needed with a bank: no text depends on another": banks and leak,
        "--resume does not go with banks": banks and options["resume"] is not None,
        "--report and --plots need ground truth: --gt FILE, or --gt diagonal if row i matches "
        "row i": options["gt"] is None and sources.source is None and outputs.explained,
        "--candidates needs embeddings: give --text and --video, without --sim and banks":
        few and (banks or not embedded),
        "--candidates writes no matrix: give --run, e.g. --run best.csv, and no --output":
        few and (outputs.matrix is not None or not outputs.runs),
        f"--top {top} exceeds --candidates {candidates}": few and (top or 0) > candidates,
        "--report, --plots and --check-leak do not go with --candidates":
        few and (outputs.explained or leak),
        "--index needs --candidates": not few and options["index"] is not None,
    }  # fmt: skip


def _shown(context: click.Context) -> dict[str, object]:
    values = (
        (param.opts[0], context.params.get(param.name or "")) for param in context.command.params
    )
    return {name: value for name, value in values if value is not None and value is not False}
