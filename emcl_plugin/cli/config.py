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
class Machine(Group):
    """What a run computes on and with."""

    device: str
    memory: int | None


@dataclass(frozen=True, kw_only=True)
class Scope(Group):
    """Which scores are computed, in which precision, and whether a run can be resumed."""

    candidates: int | None
    index: str | None
    dtype: str
    resume: Path | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured against the ground truth."""

    truth: TruthFiles
    names: NameFiles
    measures: list[str]
    several: str
    check_order: bool


@dataclass(frozen=True, kw_only=True)
class Display(Group):
    """What is printed."""

    plan: bool
    as_json: bool
    quiet: bool
    verbose: bool


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run of the main command."""

    sources: Sources
    banks: Banks
    method: Method
    settings: Settings
    machine: Machine
    scope: Scope
    outputs: Outputs
    evaluation: Evaluation
    display: Display
    shown: dict[str, object]

    @classmethod
    def from_options(cls, context: click.Context, **options: Any) -> RunConfig:
        """Check the options of the command line; contradictions are wrong usage."""
        sources, banks = Sources.of(options), Banks.of(options)
        outputs, scope = Outputs.of(options), Scope.of(options)
        method = Method.of(options)
        sources.check()
        evaluation = Evaluation(
            truth=TruthFiles.of(options),
            names=NameFiles.of(options),
            measures=read_measures(options["measures"]),
            several=options["several"],
            check_order=options["check_leak"],
        )
        if banks:
            _check_banks(sources, scope, evaluation)
        if evaluation.truth.gt is None and sources.source is None and outputs.explained:
            raise wrong_usage(
                "--report and --plots need ground truth: --gt FILE, or --gt diagonal if row i "
                "matches row i"
            )
        if scope.candidates is None and scope.index is not None:
            raise wrong_usage("--index needs --candidates")
        if scope.candidates is not None:
            _check_candidates(sources, banks, outputs, evaluation, scope.candidates, options["top"])
        alone = ("candidates", "text_bank", "video_bank", "report", "plots", "check_leak")
        processes.check_alone({name: options[name] for name in alone}, sources.named)
        if scope.resume is not None and not method.normalises:
            raise wrong_usage("--resume stores NCL's iterations, and NCL is off")
        features = sources.text is not None or sources.source is not None
        return cls(
            sources=sources,
            banks=banks,
            method=method,
            settings=method.settings(features=features, metric=sources.metric),
            machine=Machine.of(options),
            scope=scope,
            outputs=outputs,
            evaluation=evaluation,
            display=Display.of(options),
            shown=_shown(context),
        )


def _check_banks(sources: Sources, scope: Scope, evaluation: Evaluation) -> None:
    """Banks hold embeddings and are compared with embeddings."""
    if sources.text is None or sources.sim is not None:
        raise wrong_usage(
            "--text-bank and --video-bank need embeddings: give --text and --video, without --sim"
        )
    if evaluation.check_order:
        raise wrong_usage("--check-leak is not needed with a bank: no text depends on another")
    if scope.resume is not None:
        raise wrong_usage("--resume does not go with banks")


def _check_candidates(
    sources: Sources,
    banks: Banks,
    outputs: Outputs,
    evaluation: Evaluation,
    candidates: int,
    top: int | None,
) -> None:
    """Candidates are of embeddings, and give runs."""
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
    if outputs.explained or evaluation.check_order:
        raise wrong_usage("--report, --plots and --check-leak do not go with --candidates")


def _shown(context: click.Context) -> dict[str, object]:
    """Return the options in use, given or by default, for the page."""
    values = (
        (param.opts[0], context.params.get(param.name or "")) for param in context.command.params
    )
    return {name: value for name, value in values if value is not None and value is not False}
