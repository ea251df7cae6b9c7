"""Settings of NCL: temperature, stopping rule, marginals and solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal import renamed
from emcl_plugin._internal.constraints import require

SOLVERS = ("auto", "stored", "blocks", "fused", "pot")


@renamed.field("rounds", "iterations")
@dataclass(frozen=True)
class NCL:
    """Settings of NCL. The defaults are free of scale and fit the scores of any encoder.

    Parameters
    ----------
    temperature : float, optional
        tau, in the units of the scores. Default: ``temperature_std`` times the standard
        deviation of all scores. A fixed tau does not carry over to another encoder.
    logit_scale : float, optional
        Another way to give ``temperature = 1 / logit_scale``, as CLIP models do.
    temperature_std : float, default 0.15
        Within a point of R@1 of the best temperature on each of 34 real sets.
    iterations : int, default 200
        Maximum number; stops early on convergence. Most sets need 15 to 80.
    tolerance : float, default 0.1
        Stop when the relative error of every column sum is below this. An error of a tenth
        moves a score by at most 0.1 tau = 0.015 standard deviations, too little to matter.
    rho : float, default 1
        Relaxation of both updates; smaller is gentler.
    text_marginal, video_marginal : array of positive numbers, optional
        Mass of each text and of each video. Default: 1 per text and n_text / n_video per
        video. The video marginal is rescaled to the texts' total.
    solver : {"auto", "stored", "blocks", "fused", "pot"}, default "auto"
        "stored" exponentiates once and iterates matrix-vector products. "blocks" recomputes
        the scores block by block in the log domain. "pot" calls POT's ``sinkhorn_log``.
        "auto" is "stored" where the kernel fits into the memory budget, and "blocks" otherwise
        or if a GPU runs out of memory. "fused" is a Triton kernel for CUDA that recomputes the
        scores without writing them. It needs float32 features that fit into a quarter of the
        budget, and is "blocks" otherwise.
    storage : {"scores", "bfloat16"}, default "scores"
        Precision of the stored kernel: the dtype of the scores, or bfloat16, which halves its
        memory. An iteration takes about as long. Each entry is then off by at most 2^-8 of
        itself; sums keep the dtype of the scores. Row and column sums are off by at most 0.4 %,
        where ``tolerance`` allows 10 %, and an iteration changes a bias by at most 0.004 tau
        more. Most of it averages out.
    products : {"scores", "bfloat16"}, default "scores"
        Precision for recomputing scores: the vectors' own, or bfloat16 where the device is faster
        with it. A score of unit vectors is then off by at most 0.006 (3 roundings of 2^-9; ten
        times less is usual), at random, in Sinkhorn's sums only: the returned scores are exact
        except for their biases.

    Examples
    --------
    >>> NCL(logit_scale=100.0).resolve_temperature(std=0.05)
    0.01
    """

    temperature: float | None = None
    logit_scale: float | None = None
    temperature_std: float = 0.15
    iterations: int = 200
    tolerance: float = 0.1
    rho: float = 1.0
    text_marginal: Sequence[float] | np.ndarray[Any, Any] | torch.Tensor | None = None
    video_marginal: Sequence[float] | np.ndarray[Any, Any] | torch.Tensor | None = None
    solver: str = "auto"
    storage: str = "scores"
    products: str = "scores"

    def __post_init__(self) -> None:
        tau, scale, solver = self.temperature, self.logit_scale, self.solver
        positive = {
            "temperature": tau,
            "logit_scale": scale,
            "temperature_std": self.temperature_std,
        }
        require(
            *(
                (value is None or 0 < value < math.inf,
                 f"the {name.replace('_', ' ')} must be a positive number", f"{name}={value}",
                 "leave it out for 0.15 standard deviations of the scores")
                for name, value in positive.items()
            ),
            (tau is None or scale is None, "NCL takes a temperature or a logit scale, not both",
             f"temperature={tau}, logit_scale={scale}",
             "keep one (temperature = 1 / logit_scale)"),
            (isinstance(self.iterations, int) and self.iterations >= 1,
             "NCL needs at least one iteration, as a whole number", f"iterations={self.iterations}",
             "leave it out for 200"),
            (0 <= self.tolerance < math.inf, "the tolerance must be finite and not negative",
             f"tolerance={self.tolerance}", "0.1 is usual"),
            (0 < self.rho <= 1, "rho must be above 0 and at most 1", f"rho={self.rho}",
             "1 is NCL, 0.8 is gentle"),
            (solver in SOLVERS, "this solver is not known", f"solver={solver!r}",
             ", ".join(SOLVERS)),
            *(
                (getattr(self, name) in ("scores", "bfloat16"), f"{what} is not known",
                 f"{name}={getattr(self, name)!r}", "scores (in their own dtype) or bfloat16")
                for name, what in (("storage", "this precision of the kernel"),
                                   ("products", "this precision of the products"))
            ),
            (self.storage == "scores" or solver in ("auto", "stored"),
             f'solver="{solver}" stores no kernel', f"storage={self.storage!r}",
             "use another solver, or leave storage out"),
            (solver != "pot" or self.rho == 1, 'solver="pot" has no relaxation', f"rho={self.rho}",
             "use another solver or rho=1"),
        )  # fmt: skip

    def kernel_dtype(self, scores: torch.dtype) -> torch.dtype:
        """Return the dtype of a stored kernel of scores of this dtype."""
        return torch.bfloat16 if self.storage == "bfloat16" else scores

    def resolve_temperature(self, std: float) -> float:
        """Return tau in the units of the scores, which have this standard deviation."""
        if self.logit_scale is not None:
            return 1.0 / self.logit_scale
        if self.temperature is not None:
            return self.temperature
        return self.temperature_std * std
