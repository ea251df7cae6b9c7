"""One correction, from checked inputs to row blocks and the report on it.

`rescore` collects the blocks into an array, the command line writes them to a file; both run
the same job.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, Kind, check_matrix, compute_dtype
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.sizes import format_size
from emcl_plugin.distributed.process_group import ALONE, World
from emcl_plugin.emcl import EMCL
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputValueError, MemoryBudgetError, RepeatedItemsWarning
from emcl_plugin.evidence.exact_duplicates import repeated
from emcl_plugin.evidence.prior import check_mode
from emcl_plugin.ncl import NCL, Journal
from emcl_plugin.pipeline.correct import Correction, correct
from emcl_plugin.pipeline.inputs import FeaturesPair, check_inputs, pick_device, settings_of
from emcl_plugin.pipeline.memory_plan import Estimate, available, estimate
from emcl_plugin.pipeline.report import Report
from emcl_plugin.scores import Dense, FeaturePair, Features, Scorer, Shard, Similarity
from emcl_plugin.scores.candidates import Candidates
from emcl_plugin.scores.candidates.search import search


class Job:
    """One correction: checked inputs, a plan, and the scores as row blocks.

    `rescore` collects the blocks into an array; the command line writes them to a file, so
    that a result larger than the memory never exists as a whole.
    """

    def __init__(
        self,
        sim: Array | Scorer | None,
        feats: FeaturesPair | None,
        *,
        emcl: EMCL | str | None = "auto",
        ncl: NCL | str | None = "auto",
        prior: str = "auto",
        guard: bool = True,
        metric: str = "cosine",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        memory: int | None = None,
        names: tuple[str, str] = ("text", "video"),
        candidates: int | None = None,
        index: str = "Flat",
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.emcl = settings_of(emcl, EMCL, "emcl")
        self.ncl = settings_of(ncl, NCL, "ncl")
        self.prior = check_mode(prior)
        self.guard = guard
        if metric not in ("cosine", "dot"):
            raise InputValueError("the metric is not known", repr(metric), '"cosine" or "dot"')
        self.metric = metric
        if world.counts is None or feats is None:
            arrays = check_inputs(sim, feats)
        else:  # the features are of all texts, sim of this process's
            arrays = check_inputs(None, feats) + ([] if sim is None else check_inputs(sim, None))
        main = (
            arrays
            if sim is None
            else [sim]
            if isinstance(sim, np.ndarray | torch.Tensor)
            else sim.arrays[:1]
        )
        self.kind = Kind.of(*main)
        self.device = pick_device(device, self.kind)
        self.dtype = compute_dtype(*arrays)
        if dtype is not None:
            self.kind = replace(self.kind, dtype=dtype)
            self.dtype = torch.promote_types(self.dtype, dtype)
        self.memory = available(self.device) // (2 * world.beside(self.device))
        if memory is not None:
            self.memory = memory
        if self.memory < 1 << 20:
            raise InputValueError(
                "the memory budget is too small", format_size(self.memory), "give at least 1 MiB"
            )
        common: dict[str, Any] = {
            "dtype": self.dtype,
            "device": self.device,
            "memory": self.memory,
        }
        self.given = sim
        if candidates is not None and (feats is None or sim is not None or candidates < 1):
            raise InputValueError(
                "candidates are searched among embeddings",
                f"candidates={candidates}" + ("" if sim is None else ", sim"),
                "pass feats without sim, and at least 1 candidate",
            )
        self.candidates, self.index = candidates, index
        self._searched: Candidates | None = None
        self.sim: Similarity | None = None
        if isinstance(sim, np.ndarray | torch.Tensor) and world.counts is not None:
            self.sim = Shard(sim, (sum(world.counts), int(sim.shape[1])), world, **common)
        elif isinstance(sim, np.ndarray | torch.Tensor):
            self.sim = Dense(sim, **common).among(world)
        elif sim is not None:
            self.sim = sim.open(**common).among(world)
        self.features: tuple[Features, Features] | None = None
        if feats is not None:
            self.features = (
                Features(feats[0], name=names[0], metric=metric, **common, world=world),
                Features(feats[1], name=names[1], metric=metric, **common),
            )
        if self.sim is not None:
            self.shape = self.sim.shape
        else:
            assert feats is not None
            self.shape = (int(feats[0].shape[0]), int(feats[1].shape[0]))
        if self.shape[0] < world.size:
            raise InputValueError(
                "there are more processes than texts",
                f"{world.size} processes, {self.shape[0]} texts",
                "start fewer processes",
            )

    @property
    def plan(self) -> Estimate:
        """What will be stored and what recomputed."""
        kernel = None
        if self.ncl is not None and self.prior != "off" and self.ncl.solver in ("auto", "stored"):
            kernel = self.ncl.kernel_dtype(self.dtype)
        return estimate(
            self._own_shape,
            self._products,
            self.dtype,
            self.memory,
            kernel=kernel,
            candidates=self.candidates,
            fused=self.ncl is not None and self.ncl.solver == "fused",
        )

    @cached_property
    def repeated(self) -> tuple[int, int]:
        """How many texts and videos are exact copies of others; 0 where there is only sim."""
        if self.features is None:
            return 0, 0
        return repeated(self.features[0]), repeated(self.features[1])

    @property
    def _own_shape(self) -> tuple[int, int]:
        first, last = self.world.part(self.shape[0])
        return last - first, self.shape[1]

    @property
    def has_features(self) -> bool:
        """Whether EMCL has something to work on."""
        return self.features is not None or isinstance(self.given, Experts)

    @property
    def _products(self) -> int:
        """Multiplications per score; 0 where scores are given."""
        if self.given is not None:
            return 0 if isinstance(self.given, np.ndarray | torch.Tensor) else self.given.products
        assert self.features is not None
        return self.features[0].shape[1]

    def search(self, progress: Progress | None = None) -> Candidates | None:
        """The pairs to look at, where these are not all."""
        if self.candidates is not None and self._searched is None:
            assert self.features is not None
            self._searched = search(
                *self.features,
                self.candidates,
                index=self.index,
                memory=self.memory,
                progress=progress,
            )
        return self._searched

    def source(self) -> Similarity:
        """The scores that came in, or the features' similarity."""
        found = self.search()
        if found is not None:
            return found
        if self.sim is not None:
            return self.sim
        assert self.features is not None
        return FeaturePair(*self.features, memory=self.memory)

    def bank(self, array: Array | None, name: str) -> Features | None:
        """Other items' embeddings, checked against this job's features and read like them."""
        if array is None:
            return None
        vectors = check_matrix(array, name)
        if self.features is None:
            raise InputValueError(
                f"{name} holds embeddings and has nothing to be compared with",
                f"sim, {name} {tuple(vectors.shape)}, no feats",
                "pass feats=(text, video) in place of sim",
            )
        own = self.features[0]
        if vectors.shape[1] != own.shape[1]:
            raise InputValueError(
                f"{name} has another dimension than the features",
                f"{tuple(vectors.shape)} against {own.shape}",
                "embed it with the same model",
            )
        return Features(
            vectors,
            name=name,
            metric=own.metric,
            dtype=self.dtype,
            device=self.device,
            memory=self.memory,
        )

    def require_dense(self) -> None:
        """Raise where the whole result does not fit into the memory."""
        rows, columns = self._own_shape
        need = rows * columns * self.kind.dtype.itemsize
        free = available(self.kind.device)
        if need > free:
            raise MemoryBudgetError(
                "the re-scored matrix does not fit into the memory",
                f"{rows} x {columns} scores, {format_size(need)}; {format_size(free)} are free",
                "use the command line, which writes it to a memory-mapped file block by block: "
                "emcl-rerank --text T.npy --video V.npy --output OUT.npy",
            )

    def run(
        self, progress: Progress | None = None, journal: Journal | None = None
    ) -> tuple[Report, Iterator[torch.Tensor]]:
        """The report, and the re-scored rows in order, in the dtype and kind that came in."""
        found = self.correct(progress, journal=journal)
        return self.report(found), self.blocks(found.source)

    @torch.no_grad()
    def correct(
        self,
        progress: Progress | None = None,
        *,
        emcl: bool = True,
        ncl: bool = True,
        prior: str | None = None,
        guard: bool | None = None,
        journal: Journal | None = None,
    ) -> Correction:
        """Run this job; ``emcl=False`` or ``ncl=False`` leaves that part out (for ablations).

        ``prior`` and ``guard`` replace the job's own. ``journal`` keeps the rounds.
        """
        prior = self.prior if prior is None else prior
        guard = self.guard if guard is None else guard
        for count, side in zip(self.repeated, ("texts", "videos"), strict=True):
            if count and (side == "videos" or prior == "even"):
                warnings.warn(
                    f"{count} of the {side} are exact copies of others; each copy counts as an "
                    "item of its own",
                    RepeatedItemsWarning,
                    stacklevel=5,
                )
        return correct(
            self.sim,
            self.features,
            emcl=self.emcl if emcl else None,
            ncl=self.ncl if ncl else None,
            prior=prior,
            guard=guard,
            memory=self.memory,
            plan=self.plan,
            candidates=self.search(progress),
            progress=progress,
            journal=journal,
        )

    def report(self, found: Correction) -> Report:
        """Everything about a correction but the scores."""
        return Report(
            shape=self.shape,
            protocol="transductive",
            score_std=found.score_std,
            emcl=found.emcl,
            biases=found.biases,
            probes=found.probes,
            prior=found.prior,
            guard=found.guard,
            hubs_before=found.before.hubs(),
            hubs_after=found.after.hubs(),
            repeated_texts=self.repeated[0],
            repeated_videos=self.repeated[1],
            coverage=found.coverage,
        )

    def collect(self, blocks: Iterator[torch.Tensor]) -> Array:
        """All blocks in one array of the kind that came in: this process's rows."""
        out = torch.empty(self._own_shape, dtype=self.kind.dtype, device=self.kind.device)
        start = 0
        for block in blocks:
            out[start : start + len(block)] = block
            start += len(block)
        return out.numpy() if self.kind.numpy else out

    @torch.no_grad()
    def blocks(self, source: Similarity) -> Iterator[torch.Tensor]:
        """The re-scored rows of this process's texts, in the dtype and kind that came in."""
        for _, _, block in source.blocks():
            yield self.kind.narrow(block)
