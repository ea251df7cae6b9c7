"""Command-line support for torchrun: ranks, world size, output on rank 0 only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from emcl_plugin.cli.options import wrong_usage

if TYPE_CHECKING:
    from emcl_plugin.distributed.process_group import ProcessGroup

TIMEOUT = timedelta(hours=1)  # for a process that neither answers nor ends

INTERRUPTED = {
    False: "interrupted; nothing was written",
    True: "stopped by a signal, or because another process of this job ended (see torchrun's "
    "output); nothing was written",
}

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """Return the number of processes that torchrun, or whoever sets its variables, started."""
    return int(os.environ["WORLD_SIZE"]) if _started() and not _wrong() else 1


def _started() -> bool:
    return all(name in os.environ for name in _VARIABLES)


def _wrong() -> bool:
    try:
        return not 0 <= int(os.environ["RANK"]) < int(os.environ["WORLD_SIZE"])
    except ValueError:
        return True


def check_environment() -> None:
    """Refuse variables that cannot be those of a job."""
    if _started() and _wrong():
        raise wrong_usage(
            f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} do not "
            "describe a job: unset them, or start emcl-rerank with torchrun"
        )


def is_first() -> bool:
    """Return whether this process prints and writes."""
    return count() == 1 or os.environ["RANK"] == "0"


def check_alone(options: Mapping[str, object], files: Sequence[str]) -> None:
    """Refuse options and inputs that only a single process supports."""
    if count() == 1:
        return
    named = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if named:
        raise wrong_usage(
            f"{', '.join(named)} needs a single process: start emcl-rerank without torchrun"
        )
    if "-" in files:
        raise wrong_usage("several processes cannot read standard input: name files")


@contextmanager
def joined(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """Join the processes of this job; yield them, and the device of this one."""
    from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup

    if count() == 1:
        yield SINGLE_PROCESS, device
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if cuda and ":" not in device:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    group = ProcessGroup(distributed.group.WORLD)
    try:
        yield group, device
    finally:
        group.handle = None  # an error may hold the group until the end, where a live group aborts
        distributed.destroy_process_group()
