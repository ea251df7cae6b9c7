"""Where results go: a matrix, runs, or both; written together or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emcl_plugin.cli.options import wrong_usage
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.cli.show import Progress
    from emcl_plugin.io.members import Matrix
    from emcl_plugin.io.topk import Ranked
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.scores import Similarity

    IdPair = tuple[Sequence[str] | None, Sequence[str] | None]

TOP = 100


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The requested files.

    Attributes
    ----------
    matrix : Path or None
        None where only runs are requested.
    runs : mapping of str to Path
        By direction.
    report, plots : Path or None
        The page, and the folder of its figures.
    top : int
        Most results per query in a run.
    force : bool
        Whether existing files are replaced.
    """

    matrix: Path | None
    runs: Mapping[str, Path]
    report: Path | None
    plots: Path | None
    top: int
    force: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Outputs:
        """Take them from the options; unknown suffixes and equal names are wrong usage."""
        from emcl_plugin.io.write_matrices import SCORES
        from emcl_plugin.io.write_runs import RUNS, SIDES

        output, run, run_v2t, top = (options[k] for k in ("output", "run", "run_v2t", "top"))
        report, plots, resume = (options[name] for name in ("report", "plots", "resume"))
        if top is not None and run is None and run_v2t is None:
            raise wrong_usage("--top needs --run or --run-v2t")
        if output is None and run is None and run_v2t is None:
            output = Path("reranked.npy")
        _check_suffix("--output", output, SCORES)
        _check_suffix("--run", run, RUNS)
        _check_suffix("--run-v2t", run_v2t, RUNS)
        _check_distinct([output, run, run_v2t, report, plots, resume])
        pairs = zip(SIDES, (run, run_v2t), strict=True)
        return cls(
            matrix=output,
            runs={way: path for way, path in pairs if path is not None},
            report=report,
            plots=plots,
            top=top or TOP,
            force=options["force"],
        )

    @property
    def paths(self) -> list[Path]:
        """The matrix and the runs."""
        return [*([] if self.matrix is None else [self.matrix]), *self.runs.values()]

    @property
    def explained(self) -> bool:
        """Whether a page or its figures are requested."""
        return self.report is not None or self.plots is not None

    def shown(self, job: Job) -> list[str]:
        """Describe the matrix and the runs in a line each."""
        from emcl_plugin.io.write_runs import SIDES

        lines = []
        counts = dict(zip(("text", "video"), job.shape, strict=True))
        if self.matrix is not None:
            size = f"{job.shape[0]} x {job.shape[1]} {job.kind.numpy_dtype}"
            lines.append(f"{escaped(self.matrix)} ({size})")
        for direction, path in self.runs.items():
            query, item = SIDES[direction]
            lines.append(
                f"{escaped(path)} (the {min(self.top, counts[item])} best {item}s of each {query})"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the matrix and the runs, for JSON."""
        runs = {direction: str(path) for direction, path in self.runs.items()}
        matrix = None if self.matrix is None else str(self.matrix)
        return {"output": matrix, **({"runs": runs} if runs else {})}


def _check_suffix(option: str, path: Path | None, known: Collection[str]) -> None:
    if path is None or path.suffix.lower() in known or os.path.isdir(path):  # refused later
        return
    raise wrong_usage(f"{option} {escaped(path)}: unsupported file type; use {', '.join(known)}")


def _check_distinct(paths: Sequence[Path | None]) -> None:
    named = [path for path in paths if path is not None]
    files = [os.path.realpath(path) for path in named]
    for path, file in zip(named, files, strict=True):
        if files.count(file) > 1:
            raise wrong_usage(f"two outputs are the same file: {escaped(path)}")


class Writer:
    """Writes a source to the requested files, all of them at the end or none.

    Everything about the files is checked when the writer is made. Of several processes the first
    one writes, and the others send it their rows.
    """

    def __init__(self, outputs: Outputs, job: Job, ids: IdPair, *, force: bool) -> None:
        from emcl_plugin.io.write import prepare_run, prepare_scores

        self.outputs, self.job = outputs, job
        self._matrix, self._runs = None, {}
        if job.group.rank > 0:
            return
        dtype = job.kind.numpy_dtype
        if outputs.matrix is not None:
            self._matrix = prepare_scores(outputs.matrix, job.shape, dtype, *ids, force=force)
        self._runs = {
            way: prepare_run(path, job.shape, dtype, way, *ids, k=outputs.top, force=force)
            for way, path in outputs.runs.items()
        }

    def write(self, source: Similarity, progress: Progress) -> None:
        """Write the source, or send the rows of this process."""
        from emcl_plugin.io.atomic import atomic_writer, settle

        matrix, force = self.outputs.matrix, self.outputs.force
        sends = self.job.group.rank > 0
        with ExitStack() as files:  # all files get their names when it ends
            if matrix is not None:
                rows = self._rows(source, progress)
                if sends or self._matrix is None:
                    deque(rows, maxlen=0)
                else:
                    file = files.enter_context(atomic_writer(matrix, force=force))
                    self._matrix(file, rows)
                    settle(file)  # a disk that fails now fails before any file has its name
            for way, path in self.outputs.runs.items():
                best = self._best(source if way == "text -> video" else source.T, progress)
                if sends:
                    deque(best, maxlen=0)
                else:
                    file = files.enter_context(atomic_writer(path, force=force))
                    self._runs[way](file, best)
                    settle(file)

    def _rows(self, source: Similarity, progress: Progress) -> Iterator[Matrix]:
        own = (block.cpu().numpy() for block in self.job.blocks(source))
        return progress.rows("writing", self.job.group.in_order(own), self.job.shape[0])

    def _best(self, scores: Similarity, progress: Progress) -> Iterator[Ranked]:
        from emcl_plugin.io.topk import ranked
        from emcl_plugin.scores.candidates import Candidates

        kind = replace(self.job.kind, device=self.job.device)  # ranked where the scores are
        top = min(self.outputs.top, scores.shape[1])
        if isinstance(scores, Candidates):
            best, columns = scores.top(min(top, scores.fewest))
            yield 0, kind.narrow(best).cpu().numpy(), columns.cpu().numpy()
            return
        blocks = (kind.narrow(block) for _, _, block in scores.blocks())
        first, last = scores.own
        rows = progress.rows("ranking", blocks, last - first)
        yield from self.job.group.in_order(ranked(rows, top, first))
