"""Process group: texts are split among processes, everything else is replicated.

Each process reads the rows of its own texts. After each pass, the processes exchange one number
per text or video and continue with the same values. A single process is a group of one, in
which every exchange returns its input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from emcl_plugin.errors import EmclError, WorkerError

T = TypeVar("T")

_SUMMED = (torch.float32, torch.float64, torch.int64)  # other dtypes are sent as bytes


class ProcessGroup:
    """Processes of a job and the split of the texts among them.

    ``handle`` is torch's group, by default this process alone; ``counts`` are the numbers of texts
    per rank, by default an even split.

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
        """Return the half-open range of this process among ``count`` texts."""
        if self.counts is not None:
            first = sum(self.counts[: self.rank])
            return first, first + self.counts[self.rank]
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def beside(self, device: torch.device) -> int:
        """Return how many processes share the memory of this machine or device."""
        if device.type == "cuda" or self.size == 1:
            return 1
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    def even(self) -> ProcessGroup:
        """Return the same processes with an even split."""
        return self if self.counts is None else ProcessGroup(self.handle)

    # --- collective operations: all processes call them in the same order ---

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes."""
        return self._reduce(x, "SUM")

    def max(self, x: torch.Tensor) -> torch.Tensor:
        """Return the elementwise maximum over all processes."""
        return self._reduce(x, "MAX")

    def min(self, x: torch.Tensor) -> torch.Tensor:
        """Return the elementwise minimum over all processes."""
        return self._reduce(x, "MIN")

    def any(self, x: torch.Tensor) -> torch.Tensor:
        """Return the elementwise OR over all processes."""
        return x if self.size == 1 else self.max(x.byte()).bool()

    def logsumexp(self, x: torch.Tensor) -> torch.Tensor:
        """Return log sum exp(x) over all processes."""
        if self.size == 1:
            return x
        largest = self.max(x)
        return self.sum((x - largest).exp()).log() + largest

    def rows(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """Gather the rows of all texts, (count, ...), from the rows of each process."""
        if self.size == 1:
            return own
        start, stop = self.part(count)
        wide = own if own.dtype in _SUMMED else own.contiguous().view(torch.uint8)
        out = torch.zeros(count, *wide.shape[1:], dtype=wide.dtype, device=own.device)
        out[start:stop] = wide
        return self.sum(out).view(own.dtype)

    def gather(self, values: Sequence[float]) -> list[list[float]]:
        """Gather the values of every process, ordered by rank."""
        out = torch.zeros(self.size, len(values), dtype=torch.float64)
        out[self.rank] = torch.tensor(values, dtype=torch.float64)
        found: list[list[float]] = self.sum(out).tolist()
        return found

    def told(self, what: T) -> T:
        """Broadcast a value from rank 0."""
        if self.size == 1:
            return what
        box = [what]
        first = torch.distributed.get_global_rank(self.handle, 0)
        self._exchange(torch.distributed.broadcast_object_list, box, src=first)
        return box[0]

    def together(self, work: Callable[[], T]) -> T:
        """Run ``work``, without collective operations, in every process; if one fails, all do.

        EmclError is raised where it failed, with ``told`` set in all but the first of these
        processes, and WorkerError in the others.
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
        """Yield the items of all processes in rank 0, ordered by rank; nothing elsewhere."""
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
            problem = "another process of this job has ended or does not answer"
            received = re.sub(r"^\[.*?\] ", "", str(error).splitlines()[0])[:100]
            raise WorkerError(problem, received, "look for its message") from error


SINGLE_PROCESS = ProcessGroup()
