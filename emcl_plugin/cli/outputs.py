"""Where results go: a matrix, runs, or both; written together or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.cli.options import Group, wrong_usage
from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.cli.show import Progress
    from emcl_plugin.io.members import Matrix
    from emcl_plugin.io.topk import Ranked
    from emcl_plugin.io.write import IdPair
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.scores import Similarity

TOP = 100


@dataclass(frozen=True, kw_only=True)
class Outputs(Group):
    """The requested files."""

    output: Path | None
    run: Path | None
    run_v2t: Path | None
    report: Path | None
    plots: Path | None
    resume: Path | None
    top: int | None
    force: bool

    def check(self) -> None:
        """Refuse unknown suffixes and equal names."""
        from emcl_plugin.io.write_matrices import SCORES
        from emcl_plugin.io.write_runs import RUNS

        if self.top is not None and not self.runs:
            raise wrong_usage("--top needs --run or --run-v2t")
        _check_suffix("--output", self.output, SCORES)
        _check_suffix("--run", self.run, RUNS)
        _check_suffix("--run-v2t", self.run_v2t, RUNS)
        named = [*self.paths, *filter(None, (self.report, self.plots, self.resume))]
        files = [os.path.realpath(path) for path in named]
        for path, file in zip(named, files, strict=True):
            if files.count(file) > 1:
                raise wrong_usage(f"two outputs are the same file: {escaped(path)}")

    @property
    def matrix(self) -> Path | None:
        """The file of the matrix; None where only runs are requested."""
        return self.output if self.output is not None or self.runs else Path("reranked.npy")

    @property
    def runs(self) -> dict[str, Path]:
        """The files of runs, by direction."""
        named = zip(DIRECTIONS, (self.run, self.run_v2t), strict=True)
        return {direction: path for direction, path in named if path is not None}

    @property
    def paths(self) -> list[Path]:
        """The matrix and the runs."""
        return [*([] if self.matrix is None else [self.matrix]), *self.runs.values()]

    @property
    def best(self) -> int:
        """The number of results per query in a run."""
        return self.top or TOP

    @property
    def explained(self) -> bool:
        """Whether a page or its figures are requested."""
        return self.report is not None or self.plots is not None

    def shown(self, job: Job) -> list[str]:
        """Describe the matrix and the runs in a line each."""
        lines, (texts, videos) = [], job.shape
        if self.matrix is not None:
            lines.append(f"{escaped(self.matrix)} ({texts} x {videos} {job.kind.numpy_dtype})")
        if self.run is not None:
            count = min(self.best, videos)
            lines.append(f"{escaped(self.run)} (the {count} best videos of each text)")
        if self.run_v2t is not None:
            count = min(self.best, texts)
            lines.append(f"{escaped(self.run_v2t)} (the {count} best texts of each video)")
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


class Writer:
    """Writes a source to the requested files, all of them at the end or none.

    Everything about the files is checked when the writer is made. Of several processes the first
    one writes, and the others send it their rows.
    """

    def __init__(self, outputs: Outputs, job: Job, ids: IdPair, *, force: bool) -> None:
        from emcl_plugin.io.write import prepare_run, prepare_scores

        self.outputs, self.job = outputs, job
        self._writers: dict[Path, Callable[[BinaryIO, Iterable[Any]], None]] = {}
        if job.group.rank > 0:
            return
        given = (job.shape, job.kind.numpy_dtype, ids)
        if outputs.matrix is not None:
            self._writers[outputs.matrix] = prepare_scores(outputs.matrix, *given, force=force)
        for way, path in outputs.runs.items():
            self._writers[path] = prepare_run(
                path, *given, direction=way, k=outputs.best, force=force
            )

    def write(self, source: Similarity, progress: Progress) -> None:
        """Write the source, or send the rows of this process."""
        with ExitStack() as files:  # all files get their names when it ends
            if self.outputs.matrix is not None:
                self._put(files, self.outputs.matrix, self._rows(source, progress))
            for way, path in self.outputs.runs.items():
                scores = source if way == DIRECTIONS[0] else source.T
                self._put(files, path, self._best(scores, progress))

    def _put(self, files: ExitStack, path: Path, blocks: Iterator[Any]) -> None:
        from emcl_plugin.io.atomic import atomic_writer, settle

        if self.job.group.rank > 0:
            deque(blocks, maxlen=0)
            return
        file = files.enter_context(atomic_writer(path, force=self.outputs.force))
        self._writers[path](file, blocks)
        settle(file)  # a disk that fails now fails before any file has its name

    def _rows(self, source: Similarity, progress: Progress) -> Iterator[Matrix]:
        own = (block.cpu().numpy() for block in self.job.blocks(source))
        return progress.rows("writing", self.job.group.in_order(own), self.job.shape[0])

    def _best(self, scores: Similarity, progress: Progress) -> Iterator[Ranked]:
        from emcl_plugin.io.topk import ranked
        from emcl_plugin.scores.candidates import Candidates

        kind = replace(self.job.kind, device=self.job.device)  # ranked where the scores are
        top = min(self.outputs.best, scores.shape[1])
        if isinstance(scores, Candidates):
            best, columns = scores.top(min(top, scores.fewest))
            yield 0, kind.narrow(best).cpu().numpy(), columns.cpu().numpy()
            return
        blocks = (kind.narrow(block) for _, _, block in scores.blocks())
        first, last = scores.own
        rows = progress.rows("ranking", blocks, last - first)
        yield from self.job.group.in_order(ranked(rows, top, first))
