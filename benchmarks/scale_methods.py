"""What `scale.py` measures: ours in every mode, other people's solvers, other corrections.

A method is first prepared (modules imported, its input made) and then run; only the run counts.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ITERATIONS = 20
CANDIDATES = 100

Potentials = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """Unit vectors (n, d) of texts, videos and other texts; tau is 0.15 standard deviations."""

    text: torch.Tensor
    video: torch.Tensor
    bank: torch.Tensor
    tau: float

    @classmethod
    def load(cls, folder: Path, device: str) -> Problem:
        names = ("text", "video", "bank")
        sides = [torch.from_numpy(np.load(folder / f"{x}.npy")).to(device) for x in names]
        return cls(*sides, tau=float((folder / "tau.txt").read_text()))

    def first(self, count: int) -> Problem:
        return Problem(self.text[:count], self.video[:count], self.bank[:count], self.tau)

    @property
    def size(self) -> int:
        return len(self.text)

    @cached_property
    def scores(self) -> torch.Tensor:
        return self.text @ self.video.T


class Watch:
    """Counts Sinkhorn iterations and notes when the search was over, through `progress`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.iterations, self.search_s = 0, 0.0
        self.started = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        del done, total
        if stage == "sinkhorn":
            self.iterations += 1
        elif stage.startswith("search"):
            self.search_s = time.perf_counter() - self.started


Run = Callable[[], Any]


# --- whole methods: from embeddings to scores or best videos ------------------------------------


def product(problem: Problem, watch: Watch) -> Run:
    del watch
    return lambda: problem.text @ problem.video.T


def dense(problem: Problem, watch: Watch, budget: Callable[[int], int]) -> Run:
    from emcl_plugin import rescore

    memory = budget(problem.size)
    sides = problem.text, problem.video
    return lambda: rescore(None, sides, memory=memory, progress=watch).scores


def candidates(problem: Problem, watch: Watch) -> Run:
    from emcl_plugin import rerank_top

    k = min(CANDIDATES, problem.size)
    sides = problem.text, problem.video
    return lambda: rerank_top(sides, min(10, k), candidates=k, progress=watch).videos[:, 0]


def peer(problem: Problem, watch: Watch, name: str) -> Run:
    from emcl_plugin.baselines import METHODS as BASELINES
    from emcl_plugin.baselines import Direction
    from emcl_plugin.scores import FeaturePair, Features

    del watch

    def run() -> torch.Tensor:
        given = (problem.text, problem.video, problem.bank)
        text, video, bank = (Features(x, device=x.device) for x in given)
        direction = Direction(FeaturePair(text, video), text, video, query_bank=bank)
        return BASELINES[name].correct(direction).dense()

    return run


def stored_budget(size: int) -> int:
    """Bytes with which kernel and scores are stored."""
    return max(1 << 30, 16 * size * size)


def block_budget(size: int) -> int:
    """One and a half times the score matrix, of which the kernel may take half: too little."""
    return max(1 << 20, 6 * size * size)


# --- Sinkhorn alone: 20 iterations, the same scores, temperature and marginals ------------------


def ours(problem: Problem, watch: Watch, solver: str, products: str = "scores") -> Run:
    from emcl_plugin.ncl import NCL, fit_biases
    from emcl_plugin.scores import Dense, FeaturePair, Features, Similarity

    del watch
    tau = problem.tau
    config = NCL(
        temperature=tau, iterations=ITERATIONS, tolerance=0.0, solver=solver, products=products
    )
    source: Similarity
    if solver == "stored":
        source = Dense(problem.scores, device=problem.scores.device)
    else:
        device = problem.text.device
        sides = (Features(x, metric="dot", device=device) for x in (problem.text, problem.video))
        source = FeaturePair(*sides)

    def run() -> Potentials:
        found = fit_biases(source, config, std=tau / 0.15)
        return found.text / tau, found.video / tau

    return run


def pot(problem: Problem, watch: Watch, log: bool, numpy: bool) -> Run:
    import ot

    del watch
    scores = problem.scores.cpu().numpy() if numpy else problem.scores
    marginal = problem.scores.new_full((problem.size,), 1 / problem.size)
    uniform = marginal.cpu().numpy() if numpy else marginal
    solve = ot.bregman.sinkhorn_log if log else ot.bregman.sinkhorn
    settings = {"reg": problem.tau, "numItermax": ITERATIONS, "stopThr": 0.0, "warn": False}
    cost = -scores

    names = ("log_u", "log_v") if log else ("u", "v")

    def run() -> Potentials:
        _, found = solve(uniform, uniform, cost, log=True, **settings)
        f, g = (torch.as_tensor(found[name]).to(problem.text.device) for name in names)
        f, g = (f, g) if log else (f.log(), g.log())
        return f + math.log(problem.size), g

    return run


def geomloss(problem: Problem, watch: Watch, backend: str) -> Run:
    """Half the squared distance of unit vectors is 1 - S. The temperature falls to tau in 20 steps;
    both sides are updated at once and averaged.
    """
    from geomloss import SamplesLoss

    if backend == "online":
        import pykeops

        sys.path.append(pykeops.get_build_folder())  # where it will look for what it compiles

    del watch
    blur, diameter = math.sqrt(problem.tau), 2.0
    scaling = (blur / diameter) ** (1 / (ITERATIONS - 2.5))  # 18 steps, one before and one after
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, diameter=diameter, scaling=scaling, debias=False,
        potentials=True, backend=backend,
    )  # fmt: skip
    return lambda: _of_distance(problem, *loss(problem.text, problem.video))


def flash(problem: Problem, watch: Watch) -> Run:
    from flash_sinkhorn import SamplesLoss

    del watch
    loss = SamplesLoss(
        "sinkhorn", backend="alternating", use_epsilon_scaling=False, eps=problem.tau,
        n_iters=ITERATIONS, half_cost=True, potentials=True, allow_tf32=False,
    )  # fmt: skip
    return lambda: _of_distance(problem, *loss(problem.text, problem.video))


def _of_distance(problem: Problem, f: torch.Tensor, g: torch.Tensor) -> Potentials:
    """Potentials of the cost 1 - S with respect to the product of the marginals."""
    f, g = f.flatten() / problem.tau, g.flatten() / problem.tau
    return f - 1 / problem.tau - math.log(problem.size), g


# --- EMCL's bases --------------------------------------------------------------------------------


def fit(problem: Problem, watch: Watch) -> Run:
    from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
    from emcl_plugin.scores import Features

    del watch
    sides = [Features(x, metric="dot", device=x.device) for x in (problem.text, problem.video)]
    return lambda: fit_subspaces(second_moments(*sides), EMCL(iterations=10))


def loop(problem: Problem, watch: Watch) -> Run:
    from core_speed import plain_loop

    del watch
    rows = torch.cat([problem.text, problem.video])
    return lambda: plain_loop(rows, 32, 10, 0.3)


@dataclass(frozen=True)
class Method:
    """One line of the tables.

    Attributes
    ----------
    group : str
        "whole", "solver" or "subspaces".
    title : str
        What it is, in words.
    prepare : callable
        From a problem and a watch to what is run.
    order : str
        A solver's: the side that it updates first, or "annealed"; "" where it is not known.
    needs : tuple of str
        Modules that are no dependency of the package.
    cuda : bool
        Whether it runs on CUDA only.
    budget : callable, optional
        Memory budget by size, where `--plan` can be asked.
    candidates : int, optional
    """

    group: str
    title: str
    prepare: Callable[[Problem, Watch], Run]
    order: str = ""
    needs: tuple[str, ...] = ()
    cuda: bool = False
    budget: Callable[[int], int] | None = None
    candidates: int | None = None

    def missing(self, device: str) -> str:
        """Why it cannot run here; empty where it can."""
        if self.cuda and not device.startswith("cuda"):
            return "runs on CUDA only"
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else ""


METHODS = {
    "product": Method("whole", "one product, the input", product),
    "dense-stored": Method(
        "whole", "ours, kernel stored", partial(dense, budget=stored_budget), budget=stored_budget
    ),
    "dense-blocks": Method(
        "whole", "ours, blocks recomputed", partial(dense, budget=block_budget), budget=block_budget
    ),
    "candidates": Method(
        "whole", f"ours, {CANDIDATES} candidates", candidates, budget=lambda _: 4 << 30,
        candidates=CANDIDATES,
    ),
    "qb-norm": Method("whole", "QB-Norm (DIS), one direction", partial(peer, name="dis")),
    "nnn": Method("whole", "NNN, one direction", partial(peer, name="nnn")),
    "sinkhorn-stored": Method(
        "solver", "our Sinkhorn, kernel stored", partial(ours, solver="stored"), "text"
    ),
    "sinkhorn-blocks": Method(
        "solver", "our Sinkhorn, blocks recomputed", partial(ours, solver="blocks"), "text"
    ),
    "sinkhorn-fused": Method(
        "solver", "our Sinkhorn, fused", partial(ours, solver="fused"), "text", ("triton",), True
    ),
    "sinkhorn-fused-bf16": Method(
        "solver", "our Sinkhorn, fused, bfloat16",
        partial(ours, solver="fused", products="bfloat16"), "text", ("triton",), True,
    ),
    "pot-torch": Method(
        "solver", "POT sinkhorn, torch", partial(pot, log=False, numpy=False), "video"
    ),
    "pot-numpy": Method(
        "solver", "POT sinkhorn, numpy", partial(pot, log=False, numpy=True), "video"
    ),
    "pot-log-torch": Method(
        "solver", "POT sinkhorn_log, torch", partial(pot, log=True, numpy=False), "video"
    ),
    "pot-log-numpy": Method(
        "solver", "POT sinkhorn_log, numpy", partial(pot, log=True, numpy=True), "video"
    ),
    "geomloss": Method(
        "solver", "GeomLoss, tensorized", partial(geomloss, backend="tensorized"), "annealed",
        ("geomloss",),
    ),
    "geomloss-keops": Method(
        "solver", "GeomLoss, online (KeOps)", partial(geomloss, backend="online"), "annealed",
        ("geomloss", "pykeops"),
    ),
    "flash-sinkhorn": Method(
        "solver", "FlashSinkhorn", flash, needs=("flash_sinkhorn",), cuda=True
    ),
    "emcl-fit": Method("subspaces", "EMCL fit from second moments", fit),
    "emcl-loop": Method("subspaces", "EMCL's plain loop over the rows", loop),
}  # fmt: skip
