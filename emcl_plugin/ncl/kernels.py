"""Which kernel serves a source: stored where it fits, recomputed where not."""

from __future__ import annotations

from functools import partial

import torch

from emcl_plugin.candidates import Candidates
from emcl_plugin.ncl.block_kernel import BlockKernel
from emcl_plugin.ncl.candidate_kernel import CandidateKernel
from emcl_plugin.ncl.settings import NCL
from emcl_plugin.ncl.shared_kernel import SharedKernel
from emcl_plugin.ncl.sinkhorn import Kernel
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.plan import kernel_fits
from emcl_plugin.similarity import Rows, Similarity
from emcl_plugin.sizes import DEFAULT_MEMORY


def kernel_for(
    source: Similarity,
    config: NCL,
    tau: float,
    log_a: torch.Tensor,
    log_w: torch.Tensor,
    *,
    memory: int | None = None,
) -> tuple[str, Kernel]:
    """The kernel that these settings and this memory lead to, and the name of its solver."""
    first, last = source.own
    solver, dtype = config.solver, config.kernel_dtype(source.dtype)
    if solver == "auto":
        budget = DEFAULT_MEMORY if memory is None else memory
        fits = kernel_fits((last - first, source.shape[1]), dtype, budget)
        solver = "stored" if fits else "blocks"
    given = tau, log_a[first:last], config.rho, log_w[first:last]
    own = source if source.world.size == 1 else Rows(source)
    kernel: Kernel
    if isinstance(source, Candidates):
        solver, kernel = "candidates", CandidateKernel(source, *given)
    else:
        stored = None
        if solver == "stored":
            stored = own.storing(partial(StoredKernel, own, *given, dtype))
            solver = "blocks" if stored is None else "stored"
        if stored is None and config.products == "bfloat16":
            own = own.rough()
        kernel = stored or BlockKernel(own, *given)
    if source.world.size > 1:
        kernel = SharedKernel(kernel, source.world, source.shape[0])
    return solver, kernel
