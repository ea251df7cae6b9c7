"""Several processes, started by torchrun: who is who, and who speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from emcl_plugin.distributed.process_group import ProcessGroup

TIMEOUT = timedelta(hours=1)  # for a process that neither answers nor ends

INTERRUPTED = {
    False: "interrupted; nothing was written",
    True: "stopped, by hand or because another process of this job ended (torchrun says which); "
    "nothing was written",
}

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """How many processes torchrun, or whoever sets its variables, has started."""
    return int(os.environ["WORLD_SIZE"]) if _started() and not _wrong() else 1


def _started() -> bool:
    return all(name in os.environ for name in _TOLD)


def _wrong() -> bool:
    try:
        return not 0 <= int(os.environ["RANK"]) < int(os.environ["WORLD_SIZE"])
    except ValueError:
        return True


def check_environment(context: click.Context) -> None:
    """Wrong usage where the variables are there and are not those of a job."""
    if _started() and _wrong():
        raise click.UsageError(
            f"RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} are not those "
            "of a job of several processes: unset them, or start emcl-rerank with torchrun",
            context,
        )


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return count() == 1 or os.environ["RANK"] == "0"


def check_alone(context: click.Context, **options: object) -> None:
    """Wrong usage where an option is given that one process alone can work on."""
    named = [name.replace("_", "-") for name, value in options.items() if value]
    if named and count() > 1:
        raise click.UsageError(
            f"{', '.join(f'--{name}' for name in named)}: one process alone can do that; start "
            "emcl-rerank without torchrun",
            context,
        )


@contextmanager
def joined(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """The processes of this job, and the device of this one."""
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
