"""Choice of the kernel: stored if it fits, otherwise recomputed; fused on request."""

from __future__ import annotations

import logging
from functools import partial

import torch

from emcl_plugin._internal.sizes import DEFAULT_MEMORY
from emcl_plugin.ncl.block_kernel import BlockKernel
from emcl_plugin.ncl.candidate_kernel import CandidateKernel
from emcl_plugin.ncl.fused_kernel import FusedKernel, require_triton
from emcl_plugin.ncl.settings import NCL
from emcl_plugin.ncl.shared_kernel import SharedKernel
from emcl_plugin.ncl.sinkhorn import Kernel
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.scores import Rows, Similarity
from emcl_plugin.scores.candidates import Candidates
from emcl_plugin.scores.memory import kernel_fits

logger = logging.getLogger(__name__)


def kernel_for(
    source: Similarity,
    config: NCL,
    tau: float,
    log_a: torch.Tensor,
    log_w: torch.Tensor,
    *,
    memory: int | None = None,
) -> tuple[str, Kernel]:
    """Return the solver's name and the kernel for these settings and this memory budget."""
    first, last = source.own
    solver, dtype = config.solver, config.kernel_dtype(source.dtype)
    if solver == "auto":
        budget = DEFAULT_MEMORY if memory is None else memory
        fits = kernel_fits((last - first, source.shape[1]), dtype, budget)
        solver = "stored" if fits else "blocks"
    given = tau, log_a[first:last], config.rho, log_w[first:last]
    own = source if source.group.size == 1 else Rows(source)
    kernel: Kernel | None = None
    if isinstance(source, Candidates):
        solver, kernel = "candidates", CandidateKernel(source, *given)
    elif solver == "fused":
        kernel = own.storing(partial(_fused, own, config.products, given))
    elif solver == "stored":
        kernel = own.storing(partial(StoredKernel, own, *given, dtype))
    if kernel is None:
        solver = "pot" if solver == "pot" else "blocks"  # with POT the kernel only computes masses
        kernel = BlockKernel(own.rough() if config.products == "bfloat16" else own, *given)
    logger.debug("NCL solver: %s (%s was requested)", solver, config.solver)
    if source.group.size > 1:
        kernel = SharedKernel(kernel, source.group, source.shape[0])
    return solver, kernel


def _fused(
    source: Similarity,
    products: str,
    given: tuple[float, torch.Tensor, float, torch.Tensor],
) -> Kernel | None:
    """Return None unless scores are products of float32 vectors in memory."""
    require_triton(source.device)
    vectors = source.vectors() if source.dtype == torch.float32 else None
    if vectors is None:
        return None
    text, video = (x.bfloat16() if products == "bfloat16" else x for x in vectors)
    return FusedKernel(text, video, *given)
