"""Several processes on one job: each goes through the rows of its own texts.

All else is small, one number per text or per video, and held by every process: after each pass
the processes exchange what they found, and go on with the same numbers. A process alone is a
group of one, in which every exchange gives back what it was given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from emcl_plugin.errors import EmclError, WorkerError

T = TypeVar("T")

_SUMMED = (torch.float32, torch.float64, torch.int64)  # by every backend; others go as bytes


class ProcessGroup:
    """The processes of a job and how its texts are split among them.

    Parameters
    ----------
    handle : torch.distributed.ProcessGroup, optional
        torch's own group. Default: this process alone.
    counts : sequence of int, optional
        How many texts each process has, in the order of their ranks. Default: evenly split.

    Examples
    --------
    >>> SINGLE_PROCESS.part(10), SINGLE_PROCESS.sum(torch.tensor([2.0])).tolist()
    ((0, 10), [2.0])
    """

    def __init__(self, handle: Any = None, counts: Sequence[int] | None = None) -> None:
        self.handle, self.counts = handle, counts
        self.rank, self.size = 0, 1
        if handle is not None:
            import torch.distributed

            self.rank = torch.distributed.get_rank(handle)
            self.size = torch.distributed.get_world_size(handle)

    def part(self, count: int) -> tuple[int, int]:
        """The first of ``count`` texts that is this process's, and the first that is not."""
        if self.counts is not None:
            first = sum(self.counts[: self.rank])
            return first, first + self.counts[self.rank]
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def beside(self, device: torch.device) -> int:
        """How many processes share this machine's memory, or the device's."""
        if device.type == "cuda" or self.size == 1:
            return 1
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def even(self) -> ProcessGroup:
        """The same processes, for other rows than the texts'."""
        return self if self.counts is None else ProcessGroup(self.handle)

    # --- exchanges: all processes call them in the same order ------------------------------------

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors."""
        return self._reduce(x, "SUM")

    def max(self, x: torch.Tensor) -> torch.Tensor:
        """The elementwise largest of all processes' tensors."""
        return self._reduce(x, "MAX")

    def min(self, x: torch.Tensor) -> torch.Tensor:
        """The elementwise smallest of all processes' tensors."""
        return self._reduce(x, "MIN")

    def any(self, x: torch.Tensor) -> torch.Tensor:
        """Whether it is true in any process."""
        return x if self.size == 1 else self.max(x.byte()).bool()

    def logsumexp(self, x: torch.Tensor) -> torch.Tensor:
        """log of the sum of exp(x) over all processes."""
        if self.size == 1:
            return x
        largest = self.max(x)
        return self.sum((x - largest).exp()).log() + largest

    def rows(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """One row per text, (count, ...), from every process's rows of its own texts."""
        if self.size == 1:
            return own
        start, stop = self.part(count)
        wide = own if own.dtype in _SUMMED else own.contiguous().view(torch.uint8)
        out = torch.zeros(count, *wide.shape[1:], dtype=wide.dtype, device=own.device)
        out[start:stop] = wide
        return self.sum(out).view(own.dtype)

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """The numbers of every process, in the order of their ranks."""
        out = torch.zeros(self.size, len(values), dtype=torch.float64)
        out[self.rank] = torch.tensor(values, dtype=torch.float64)
        found: list[list[float]] = self.sum(out).tolist()
        return found

    def told(self, what: T) -> T:
        """What the first process says."""
        if self.size == 1:
            return what
        box = [what]
        first = torch.distributed.get_global_rank(self.handle, 0)
        self._exchange(torch.distributed.broadcast_object_list, box, src=first)
        return box[0]

    def together(self, work: Callable[[], T]) -> T:
        """Do this, which holds no exchange, in every process; fails it in one, it fails in all.

        Raises
        ------
        EmclError
            Where it failed; ``told`` is set in all but the first process in which it did.
        WorkerError
            In the others.
        """
        if self.size == 1:
            return work()
        error: EmclError | None = None
        try:
            found = work()
        except EmclError as raised:
            error = raised
        told: list[str | None] = [None] * self.size
        said = None if error is None else str(error)
        self._exchange(torch.distributed.all_gather_object, told, said)
        failed = [(rank, message) for rank, message in enumerate(told) if message is not None]
        if not failed:
            return found
        rank, message = failed[0]
        if error is None:
            problem = f"process {rank} of {self.size} failed"
            error = WorkerError(problem, message.splitlines()[0], "see its message")
        error.told = self.rank != rank
        raise error

    def in_order(self, items: Iterable[T]) -> Iterator[T]:
        """In the first process the items of all, one after another; nothing in the others."""
        if self.rank == 0:
            yield from items
            for rank in range(1, self.size):
                while (received := self._receive(rank)) is not None:
                    yield received
            return
        for item in items:
            self._send(item)
        self._send(None)

    def _send(self, item: Any) -> None:
        first = torch.distributed.get_global_rank(self.handle, 0)
        self._exchange(torch.distributed.send_object_list, [item], dst=first)

    def _receive(self, rank: int) -> Any:
        box = [None]
        sender = torch.distributed.get_global_rank(self.handle, rank)
        self._exchange(torch.distributed.recv_object_list, box, src=sender)
        return box[0]

    def _reduce(self, x: torch.Tensor, how: str) -> torch.Tensor:
        if self.size == 1:
            return x
        nccl = torch.distributed.get_backend(self.handle) == "nccl"
        out = x.cuda() if nccl and not x.is_cuda else x.clone(memory_format=torch.contiguous_format)
        self._exchange(torch.distributed.all_reduce, out, getattr(torch.distributed.ReduceOp, how))
        return out.to(x.device)

    def _exchange(self, how: Callable[..., Any], *args: Any, **options: Any) -> None:
        try:
            how(*args, **options, group=self.handle)
        except RuntimeError as error:  # DistBackendError is one
            raise WorkerError(
                "another process of this job has ended or does not answer",
                re.sub(r"^\[.*?\] ", "", str(error).splitlines()[0])[:100],
                "look for its message",
            ) from error


SINGLE_PROCESS = ProcessGroup()
