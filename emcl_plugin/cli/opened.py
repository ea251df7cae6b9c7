"""A run of the main command, opened and finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emcl_plugin.bank.both_directions import Banked
    from emcl_plugin.cli.inputs import Inputs
    from emcl_plugin.cli.outputs import Writer
    from emcl_plugin.evaluation.ablation import Ablation, Names
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.pipeline.correct import Correction
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.pipeline.report import Report


@dataclass(frozen=True)
class Opened:
    """A run whose inputs are open and whose outputs are checked, before any work."""

    inputs: Inputs
    job: Job
    truth: GroundTruth | None
    names: Names
    writer: Writer


@dataclass(frozen=True)
class Result:
    """What a run found; its scores are written.

    ``moved`` is the share of queries whose rank a permutation of all items changes, and
    ``resumed`` the iterations that an earlier run did; None where not asked for.
    """

    opened: Opened
    found: Correction | Banked
    report: Report
    measured: Ablation | None
    moved: float | None
    resumed: int | None
