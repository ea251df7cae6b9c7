"""Sinkhorn sums over inner products that never leave the GPU's registers.

(f) is that of :mod:`emcl_plugin.ncl.sinkhorn`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from emcl_plugin.errors import InputValueError


class FusedKernel:
    """Sweeps by two log-sum-exps, each a GPU kernel that reads only the vectors (n, d).

    Every score is computed twice per iteration and never written.
    """

    def __init__(
        self,
        text: torch.Tensor,
        video: torch.Tensor,
        tau: float,
        log_a: torch.Tensor,
        rho: float,
        log_w: torch.Tensor,
    ) -> None:
        from emcl_plugin.ncl.fused_lse import row_lse

        self.row_lse = row_lse
        self.text, self.video = map(_whole, (text, video))
        self.tau, self.log_a, self.rho, self.log_w = tau, log_a, rho, log_w
        self.centre = torch.zeros(len(video)).to(log_a)

    def absorb(self, g: torch.Tensor) -> None:
        """Do nothing: no kernel is stored."""

    def sweep(self, g: torch.Tensor, rho: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        rho = self.rho if rho is None else rho
        f = rho * (self.log_a - self.row_lse(self.text, self.video, g, 1 / self.tau))  # (f)
        return f, self.row_lse(self.video, self.text, f + self.log_w, 1 / self.tau)


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Pad with zeros to a multiple of 16 numbers, so that a GPU reads several at once."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % 16)).contiguous()


def require_triton(device: torch.device) -> None:
    """Raise if Triton or a GPU is missing."""
    if find_spec("triton") is None:
        problem, received = 'solver="fused" needs Triton', "a Python without it"
        advice = "pip install triton (it comes with torch for CUDA), or leave solver out"
    elif device.type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        problem, received = 'solver="fused" needs a GPU', f"device={str(device)!r}"
        advice = "leave solver out: it needs CUDA"
    else:
        return
    raise InputValueError(problem, received, advice)
