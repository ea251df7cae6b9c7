"""Marginals: the mass of every text and every video, checked and with equal totals."""

from __future__ import annotations

from typing import Any

import torch

from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.ncl.settings import NCL
from emcl_plugin.scores import Similarity


def log_marginals(
    config: NCL, source: Similarity, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log a (n_text,) and log b (n_video,) with equal totals; texts count by weight."""
    n_text, n_video = source.shape
    a = _marginal(config.text_marginal, n_text, "text_marginal", source)
    b = _marginal(config.video_marginal, n_video, "video_marginal", source)
    total = a.sum() if weights is None else (a * weights).sum()
    return a.log(), (b * (total / b.sum())).log()


def _marginal(given: Any, size: int, name: str, source: Similarity) -> torch.Tensor:
    if given is None:
        return torch.ones(size, dtype=source.dtype, device=source.device)
    try:
        masses = torch.as_tensor(given, dtype=source.dtype, device=source.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{name} is not a list of numbers",
            f"{type(given).__name__}: {error}",
            "pass one positive number per item",
        ) from error
    if masses.shape != (size,):
        raise InputValueError(
            f"{name} must hold one number per item",
            f"shape {tuple(masses.shape)} for {size} items",
            "leave it out for a uniform marginal",
        )
    bad = ~(torch.isfinite(masses) & (masses > 0))
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise InputValueError(
            f"{name} must be positive",
            f"{name}[{first}] = {float(masses[first])}",
            "leave out items that should get no mass at all",
        )
    return masses
