"""`Settings` of the method and `Resources` it runs on: validated once, then passed around."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from emcl_plugin._internal.arrays import Kind
from emcl_plugin._internal.sizes import format_size
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.evidence.prior import MODES
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.memory_plan import available

METRICS = ("cosine", "dot")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The method's settings.

    Attributes
    ----------
    emcl : EMCL or None
        None leaves EMCL out.
    ncl : NCL or None
        None leaves NCL out.
    prior : {"auto", "even", "gentle", "off"}
    guard : bool
    metric : {"cosine", "dot"}
        Similarity of features.
    """

    emcl: EMCL | None = field(default_factory=EMCL)
    ncl: NCL | None = field(default_factory=NCL)
    prior: str = "auto"
    guard: bool = True
    metric: str = "cosine"

    def __post_init__(self) -> None:
        if self.prior not in MODES:
            raise InputValueError("this prior is not known", repr(self.prior), ", ".join(MODES))
        if self.metric not in METRICS:
            raise InputValueError("the metric is not known", repr(self.metric), '"cosine" or "dot"')

    @classmethod
    def of(
        cls,
        emcl: EMCL | str | None = "auto",
        ncl: NCL | str | None = "auto",
        prior: str = "auto",
        guard: bool = True,
        metric: str = "cosine",
    ) -> Settings:
        """Build from the keyword arguments of :func:`emcl_plugin.rerank`.

        Raises
        ------
        InputTypeError, InputValueError
            An argument is not one of the values that :func:`emcl_plugin.rerank` lists.

        Examples
        --------
        >>> Settings.of("auto", None, "gentle").ncl is None
        True
        """
        return cls(
            emcl=_method(emcl, EMCL, "emcl"),
            ncl=_method(ncl, NCL, "ncl"),
            prior=prior,
            guard=guard,
            metric=metric,
        )

    def with_only(self, *, emcl: bool = False, ncl: bool = False) -> Settings:
        """Return these settings with only the parts named here (for ablations)."""
        return replace(self, emcl=self.emcl if emcl else None, ncl=self.ncl if ncl else None)

    @property
    def normalises(self) -> bool:
        """True if NCL runs."""
        return self.ncl is not None and self.prior != "off"


def _method(given: Any, kind: Any, name: str) -> Any:
    """Return the settings that "auto", None, a preset's name or an object stands for."""
    if given is None or isinstance(given, kind):
        return given
    if given == "auto":
        return kind()
    if kind is EMCL and isinstance(given, str):
        return EMCL.preset(given)
    raise InputTypeError(
        f"{name} must be 'auto', None or {kind.__name__}(...)",
        repr(given),
        f"from emcl_plugin import {kind.__name__}",
    )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where a run computes, within which memory, in which processes.

    Attributes
    ----------
    device : str, torch.device or None
        None: where the tensors are; for NumPy arrays CUDA if available.
    dtype : torch.dtype or None
        Of the result. None: that of the input.
    memory : int or None
        Budget in bytes. None: half of what is free.
    group : ProcessGroup
        Processes that share the work.
    """

    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    memory: int | None = None
    group: ProcessGroup = SINGLE_PROCESS

    def device_for(self, kind: Kind) -> torch.device:
        """Return the device for inputs of this kind.

        Raises
        ------
        InputValueError
            The device cannot be used.
        """
        if self.device is None and not kind.numpy:
            return kind.device
        if self.device is None or str(self.device) == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.ones(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise InputValueError(
                "this device cannot be used", f"{self.device!s}: {reason}", "use auto or cpu"
            ) from error
        return device

    def memory_on(self, device: torch.device) -> int:
        """Return the budget on this device, in bytes.

        Raises
        ------
        InputValueError
            It is below 1 MiB.
        """
        memory = self.memory
        if memory is None:
            memory = available(device) // (2 * self.group.beside(device))
        if memory < 1 << 20:
            raise InputValueError(
                "the memory budget is too small", format_size(memory), "give at least 1 MiB"
            )
        return memory
