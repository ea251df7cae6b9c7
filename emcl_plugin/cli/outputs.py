"""Where results go: a matrix, runs, or both; written together or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from emcl_plugin.errors import escaped

if TYPE_CHECKING:
    from emcl_plugin.cli.show import Progress
    from emcl_plugin.io.members import Matrix
    from emcl_plugin.io.topk import Ranked
    from emcl_plugin.pipeline.job import Job
    from emcl_plugin.scores import Similarity

TOP = 100

Writer: TypeAlias = "Callable[[Similarity, Progress], None]"


@dataclass(frozen=True)
class Outputs:
    """The files that are asked for.

    Attributes
    ----------
    matrix : Path or None
        None where only runs are asked for.
    runs : mapping of str to Path
        By direction.
    top : int
        How many answers of a query a run lists at most.
    """

    matrix: Path | None
    runs: Mapping[str, Path]
    top: int

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [*([] if self.matrix is None else [self.matrix]), *self.runs.values()]

    def shown(self, job: Job) -> list[str]:
        """A line on each, for people."""
        from emcl_plugin.io.write_runs import SIDES

        lines = []
        counts = dict(zip(("text", "video"), job.shape, strict=True))
        if self.matrix is not None:
            size = f"{job.shape[0]} x {job.shape[1]} {job.kind.numpy_dtype}"
            lines.append(f"{escaped(self.matrix)} ({size})")
        for direction, path in self.runs.items():
            query, item = SIDES[direction]
            lines.append(
                f"{escaped(path)} (the {min(self.top, counts[item])} best {item}s of every {query})"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The files, for JSON."""
        runs = {direction: str(path) for direction, path in self.runs.items()}
        matrix = None if self.matrix is None else str(self.matrix)
        return {"output": matrix, **({"runs": runs} if runs else {})}


def name_outputs(
    context: click.Context,
    output: Path | None,
    run: Path | None,
    run_v2t: Path | None,
    top: int | None,
    others: Iterable[Path | None],
) -> Outputs:
    """The outputs that the options name; unknown kinds and two of one name are wrong usage."""
    from emcl_plugin.io.write_matrices import SCORES
    from emcl_plugin.io.write_runs import RUNS, SIDES

    if top is not None and run is None and run_v2t is None:
        raise click.UsageError("--top is for --run and --run-v2t: name one of them", context)
    if output is None and run is None and run_v2t is None:
        output = Path("reranked.npy")
    for option, path, known in (
        ("--output", output, SCORES),
        ("--run", run, RUNS),
        ("--run-v2t", run_v2t, RUNS),
    ):
        if path is not None:
            _check_suffix(context, option, path, known)
    named = [path for path in (output, run, run_v2t, *others) if path is not None]
    files = [os.path.realpath(path) for path in named]
    for path, file in zip(named, files, strict=True):
        if files.count(file) > 1:
            raise click.UsageError(f"two outputs are the same file: {escaped(path)}", context)
    pairs = zip(SIDES, (run, run_v2t), strict=True)
    return Outputs(output, {way: path for way, path in pairs if path is not None}, top or TOP)


def _check_suffix(context: click.Context, option: str, path: Path, known: Collection[str]) -> None:
    folder = os.path.isdir(path)  # which is told as one, later
    if path.suffix.lower() not in known and not folder:
        raise click.UsageError(
            f"{option} {escaped(path)}: files of this kind cannot be written, only "
            f"{', '.join(known)}",
            context,
        )


def prepare_outputs(
    outputs: Outputs,
    job: Job,
    ids: tuple[Sequence[str] | None, Sequence[str] | None],
    *,
    force: bool,
) -> Writer:
    """What will write a source; all that must fail fails now.

    Of several processes the first one writes, and the others send it what they have.
    """
    from emcl_plugin.io.atomic import atomic_writer, settle
    from emcl_plugin.io.topk import ranked
    from emcl_plugin.io.write import prepare_run, prepare_scores
    from emcl_plugin.scores.candidates import Candidates

    group = job.group
    kind = replace(job.kind, device=job.device)  # the best are found where the scores are

    def rows_of(source: Similarity, progress: Progress) -> Iterator[Matrix]:
        own = (block.cpu().numpy() for block in job.blocks(source))
        return progress.rows("writing", group.in_order(own), job.shape[0])

    def best_of(scores: Similarity, progress: Progress) -> Iterator[Ranked]:
        top = min(outputs.top, scores.shape[1])
        if isinstance(scores, Candidates):
            best, columns = scores.top(min(top, scores.fewest))
            yield 0, kind.narrow(best).cpu().numpy(), columns.cpu().numpy()
            return
        blocks = (kind.narrow(block) for _, _, block in scores.blocks())
        first, last = scores.own
        rows = progress.rows("ranking", blocks, last - first)
        yield from group.in_order(ranked(rows, top, first))

    def turned(source: Similarity, way: str) -> Similarity:
        return source if way == "text -> video" else source.T

    if group.rank > 0:

        def send(source: Similarity, progress: Progress) -> None:
            if outputs.matrix is not None:
                deque(rows_of(source, progress), maxlen=0)
            for way in outputs.runs:
                deque(best_of(turned(source, way), progress), maxlen=0)

        return send

    dtype = job.kind.numpy_dtype
    write_matrix = None
    if outputs.matrix is not None:
        write_matrix = prepare_scores(outputs.matrix, job.shape, dtype, *ids, force=force)
    write_runs = {
        way: prepare_run(path, job.shape, dtype, way, *ids, k=outputs.top, force=force)
        for way, path in outputs.runs.items()
    }

    def write(source: Similarity, progress: Progress) -> None:
        with ExitStack() as files:  # put into their places at its end, all of them
            if write_matrix is not None and outputs.matrix is not None:
                file = files.enter_context(atomic_writer(outputs.matrix, force=force))
                write_matrix(file, rows_of(source, progress))
                settle(file)  # a disk that fails now fails before anything has its name
            for way, path in outputs.runs.items():
                file = files.enter_context(atomic_writer(path, force=force))
                write_runs[way](file, best_of(turned(source, way), progress))
                settle(file)

    return write
