"""Settings of NCL: the temperature, when to stop, the marginals and how the sums are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal import renamed
from emcl_plugin.errors import InputValueError


@renamed.field("rounds", "iterations")
@dataclass(frozen=True)
class NCL:
    """Settings of NCL. The defaults are free of scale: they fit any encoder's scores.

    Parameters
    ----------
    temperature : float, optional
        tau, in the units of the scores. Default: ``temperature_std`` times the standard
        deviation of all scores. A fixed tau does not carry over from one encoder to another.
    logit_scale : float, optional
        The same as ``temperature = 1 / logit_scale`` (CLIP models speak of the logit scale).
    temperature_std : float, default 0.15
        Within a point of the best temperature on each of 34 real sets.
    iterations : int, default 200
        At most this many; most sets need 15 to 80.
    tolerance : float, default 0.1
        Stop when no column sum is further than this, relatively, from its marginal. A tenth
        moves a score by 0.1 tau = 0.015 standard deviations at most, too little to matter.
    rho : float, default 1
        Relaxation of both updates; smaller is gentler.
    text_marginal, video_marginal : array of positive numbers, optional
        Mass that each text and each video should get. Default: uniform, 1 per text and
        n_text / n_video per video; the video marginal is rescaled to the texts' total.
    solver : {"auto", "stored", "blocks", "fused", "pot"}
        "stored" exponentiates once and iterates matrix-vector products, "blocks" recomputes
        the scores block by block in the log domain, "pot" calls POT's ``sinkhorn_log``.
        "auto" stores where the kernel fits into the memory budget. Where a GPU's memory does not
        hold the kernel after all, it is "blocks". "fused" is one Triton kernel for CUDA that
        recomputes the scores without ever writing them; it needs features in float32 that fit
        into a quarter of the budget, and is "blocks" for everything else.
    storage : {"scores", "bfloat16"}
        Numbers of a stored kernel: those of the scores, float32 mostly, or bfloat16, which takes
        half of that memory, so that scores need not be recomputed until there are twice as many.
        It is for memory: an iteration takes about as long. Every entry is then off by at most
        2^-8 of itself. Sums are made in the dtype of the scores, so that the result is exactly
        that of scores which differ from the given ones by at most 0.004 tau (0.0006 standard
        deviations by default): of its row and column sums each is off by at most 0.4 %, where
        ``tolerance`` allows 10, and one update changes a bias by 0.004 tau at most. Most of it
        averages out, as an entry is as likely rounded up as down.
    products : {"scores", "bfloat16"}
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
        for name in ("temperature", "logit_scale", "temperature_std"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputValueError(
                    f"the {name.replace('_', ' ')} must be a positive number",
                    f"{name}={value}",
                    "leave it out for 0.15 standard deviations of the scores",
                )
        if self.temperature is not None and self.logit_scale is not None:
            raise InputValueError(
                "NCL takes a temperature or a logit scale, not both",
                f"temperature={self.temperature}, logit_scale={self.logit_scale}",
                "keep one (temperature = 1 / logit_scale)",
            )
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputValueError(
                "NCL needs at least one iteration, as a whole number",
                f"iterations={self.iterations}",
                "leave it out for 200",
            )
        if not 0 <= self.tolerance < math.inf:
            raise InputValueError(
                "the tolerance must be finite and not negative",
                f"tolerance={self.tolerance}",
                "0.1 is usual",
            )
        if not 0 < self.rho <= 1:
            raise InputValueError(
                "rho must be above 0 and at most 1", f"rho={self.rho}", "1 is NCL, 0.8 is gentle"
            )
        if self.solver not in ("auto", "stored", "blocks", "fused", "pot"):
            raise InputValueError(
                "this solver is not known",
                f"solver={self.solver!r}",
                "auto, stored, blocks, fused, pot",
            )
        if self.storage not in ("scores", "bfloat16"):
            raise InputValueError(
                "a kernel cannot be stored like this",
                f"storage={self.storage!r}",
                "scores (in their own dtype) or bfloat16",
            )
        if self.products not in ("scores", "bfloat16"):
            raise InputValueError(
                "vectors cannot be multiplied like this",
                f"products={self.products!r}",
                "scores (in their own dtype) or bfloat16",
            )
        if self.storage != "scores" and self.solver not in ("auto", "stored"):
            raise InputValueError(
                f'solver="{self.solver}" stores no kernel',
                f"storage={self.storage!r}",
                "use another solver, or leave storage out",
            )
        if self.solver == "pot" and self.rho != 1:
            raise InputValueError(
                'solver="pot" has no relaxation', f"rho={self.rho}", "use another solver or rho=1"
            )

    def kernel_dtype(self, scores: torch.dtype) -> torch.dtype:
        """In what a kernel of scores of this dtype is stored."""
        return torch.bfloat16 if self.storage == "bfloat16" else scores

    def resolve_temperature(self, std: float) -> float:
        """tau for scores of this standard deviation, in their units."""
        if self.logit_scale is not None:
            return 1.0 / self.logit_scale
        if self.temperature is not None:
            return self.temperature
        return self.temperature_std * std
