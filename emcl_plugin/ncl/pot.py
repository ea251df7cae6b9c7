"""The same problem solved by POT, for comparison."""

from __future__ import annotations

import warnings

import torch

from emcl_plugin.ncl.settings import NCL
from emcl_plugin.ncl.sinkhorn import Potentials
from emcl_plugin.scores import Similarity


def solve_with_pot(
    source: Similarity, tau: float, log_a: torch.Tensor, log_b: torch.Tensor, config: NCL
) -> Potentials:
    """Return potentials by POT's ``sinkhorn_log``: cost -S, regularisation tau."""
    import ot

    total = log_a.exp().sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours is raised from the error below
        plan, log = ot.bregman.sinkhorn_log(
            log_a.exp() / total,
            log_b.exp() / total,
            -source.dense(),
            reg=tau,
            numItermax=config.iterations,
            stopThr=config.tolerance * float(log_b.min().exp() / total),  # of the rarest column
            log=True,
        )
    plan = plan * total
    error = float((plan.sum(0) / log_b.exp() - 1).abs().max())
    f = log["log_u"] + total.log()
    return Potentials(f, log["log_v"], int(log["niter"]) + 1, error, error <= config.tolerance)
