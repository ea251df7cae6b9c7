"""`Job`: one correction, from checked inputs to row blocks and a report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, Kind, check_matrix, compute_dtype
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.sizes import format_size
from emcl_plugin._internal.warn import warn
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputValueError, MemoryBudgetError, RepeatedItemsWarning
from emcl_plugin.evidence.exact_duplicates import repeated
from emcl_plugin.ncl import Journal
from emcl_plugin.pipeline.correct import Correction, correct
from emcl_plugin.pipeline.inputs import FeaturesPair, check_inputs
from emcl_plugin.pipeline.memory_plan import Estimate, available, estimate
from emcl_plugin.pipeline.report import Report
from emcl_plugin.pipeline.settings import Resources, Settings
from emcl_plugin.scores import Dense, FeaturePair, Features, Scorer, Shard, Similarity
from emcl_plugin.scores.candidates import Candidates
from emcl_plugin.scores.candidates.search import search

logger = logging.getLogger(__name__)


class Job:
    """One correction: checked inputs, a memory plan, and the scores as row blocks.

    `rescore` collects the blocks into an array. The command line writes them to a file, so that
    the result may exceed the memory.

    Parameters
    ----------
    sim, feats
        As in :func:`emcl_plugin.rerank`.
    settings : Settings, optional
    resources : Resources, optional
    names : (str, str)
        Names of the two sides in messages.
    candidates, index
        As in :func:`emcl_plugin.rerank_top`. Default: all pairs.
    """

    def __init__(
        self,
        sim: Array | Scorer | None,
        feats: FeaturesPair | None,
        settings: Settings | None = None,
        resources: Resources | None = None,
        *,
        names: tuple[str, str] = ("text", "video"),
        candidates: int | None = None,
        index: str = "Flat",
    ) -> None:
        self.settings = settings or Settings()
        self.resources = resources or Resources()
        self.group = self.resources.group
        self.given, self.candidates, self.index = sim, candidates, index
        self._searched: Candidates | None = None
        arrays = self._check(feats)
        main = arrays
        if sim is not None:
            main = [sim] if isinstance(sim, np.ndarray | torch.Tensor) else sim.arrays[:1]
        self.kind, self.dtype = Kind.of(*main), compute_dtype(*arrays)
        if (dtype := self.resources.dtype) is not None:
            self.kind = replace(self.kind, dtype=dtype)
            self.dtype = torch.promote_types(self.dtype, dtype)
        self.device = self.resources.device_for(self.kind)
        self.memory = self.resources.memory_on(self.device)
        self.sim = self._open()
        self.features: tuple[Features, Features] | None = None
        if feats is not None:
            text = self._read(feats[0], names[0], self.group)
            self.features = text, self._read(feats[1], names[1])
        self.shape = self._shape()

    def _check(self, feats: FeaturesPair | None) -> list[Array]:
        """Return the arrays that came in, features first."""
        sim, candidates = self.given, self.candidates
        if candidates is not None and (feats is None or sim is not None or candidates < 1):
            raise InputValueError(
                "candidates need embeddings, and no similarity",
                f"candidates={candidates}" + ("" if sim is None else ", sim"),
                "pass feats without sim, and at least 1 candidate",
            )
        if self.group.counts is None or feats is None:
            return check_inputs(sim, feats)
        # the features are of all texts, sim of this process's
        return check_inputs(None, feats) + ([] if sim is None else check_inputs(sim, None))

    def _open(self) -> Similarity | None:
        """Return the given similarity as a source, shared by the processes."""
        sim, group = self.given, self.group
        if sim is None:
            return None
        reading: dict[str, Any] = {
            "dtype": self.dtype, "device": self.device, "memory": self.memory
        }  # fmt: skip
        if not isinstance(sim, np.ndarray | torch.Tensor):
            return sim.open(**reading).among(group)
        if group.counts is not None:
            return Shard(sim, (sum(group.counts), int(sim.shape[1])), group, **reading)
        return Dense(sim, **reading).among(group)

    def _shape(self) -> tuple[int, int]:
        """Return (texts, videos) of all processes."""
        if self.sim is not None:
            shape = self.sim.shape
        else:
            assert self.features is not None
            shape = self.features[0].shape[0], self.features[1].shape[0]
        if shape[0] < self.group.size:
            raise InputValueError(
                "there are more processes than texts",
                f"{self.group.size} processes, {shape[0]} texts",
                "start fewer processes",
            )
        return shape

    def _read(self, array: Array, name: str, group: ProcessGroup = SINGLE_PROCESS) -> Features:
        """Return embeddings, read as this job reads."""
        return Features(
            array,
            name=name,
            metric=self.settings.metric,
            dtype=self.dtype,
            device=self.device,
            memory=self.memory,
            group=group,
        )

    @property
    def plan(self) -> Estimate:
        """Return what will be stored and what recomputed."""
        ncl, kernel = self.settings.ncl, None
        if ncl is not None and self.settings.normalises and ncl.solver in ("auto", "stored"):
            kernel = ncl.kernel_dtype(self.dtype)
        return estimate(
            self._own_shape,
            self._products,
            self.dtype,
            self.memory,
            kernel=kernel,
            candidates=self.candidates,
            fused=ncl is not None and ncl.solver == "fused",
        )

    @cached_property
    def repeated(self) -> tuple[int, int]:
        """Number of texts and videos that duplicate an earlier one exactly; 0 without features."""
        if self.features is None:
            return 0, 0
        return repeated(self.features[0]), repeated(self.features[1])

    @property
    def _own_shape(self) -> tuple[int, int]:
        first, last = self.group.part(self.shape[0])
        return last - first, self.shape[1]

    @property
    def has_features(self) -> bool:
        """True if EMCL can run."""
        return self.features is not None or isinstance(self.given, Experts)

    @property
    def _products(self) -> int:
        """Multiplications per score; 0 if scores are given."""
        if self.given is not None:
            return 0 if isinstance(self.given, np.ndarray | torch.Tensor) else self.given.products
        assert self.features is not None
        return self.features[0].shape[1]

    def search(self, progress: Progress | None = None) -> Candidates | None:
        """Search the candidate pairs; None if all pairs are scored."""
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
        """Return the input scores, or the similarity of the features."""
        found = self.search()
        if found is not None:
            return found
        if self.sim is not None:
            return self.sim
        assert self.features is not None
        return FeaturePair(*self.features, memory=self.memory)

    def bank(self, array: Array | None, name: str) -> Features | None:
        """Check other items' embeddings against this job's features, and read them likewise."""
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
        return self._read(vectors, name)

    def require_dense(self) -> None:
        """Raise MemoryBudgetError if the whole result does not fit into memory."""
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
        """Return the report and the corrected rows, in the kind and dtype of the input."""
        found = self.correct(progress, journal=journal)
        return self.report(found), self.blocks(found.source)

    @torch.no_grad()
    def correct(
        self,
        progress: Progress | None = None,
        settings: Settings | None = None,
        *,
        journal: Journal | None = None,
    ) -> Correction:
        """Run this job, with other settings than its own where they are given (for ablations).

        ``journal`` keeps the Sinkhorn iterations.
        """
        settings = settings or self.settings
        for count, side in zip(self.repeated, ("texts", "videos"), strict=True):
            if count and (side == "videos" or settings.prior == "even"):
                warn(
                    f"{count} of the {side} are exact duplicates of others; each copy counts as an "
                    "item of its own",
                    RepeatedItemsWarning,
                )
        plan = self.plan
        logger.debug("%s; %s, memory %s", plan, self.device, format_size(self.memory))
        found = correct(
            self.sim,
            self.features,
            settings,
            memory=self.memory,
            plan=plan,
            candidates=self.search(progress),
            progress=progress,
            journal=journal,
        )
        logger.info("%s", found.guard.reason)
        return found

    def report(self, found: Correction) -> Report:
        """Return the report on a correction."""
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
        """Return all blocks, this process's rows, as one array in the kind of the input."""
        out = torch.empty(self._own_shape, dtype=self.kind.dtype, device=self.kind.device)
        start = 0
        for block in blocks:
            out[start : start + len(block)] = block
            start += len(block)
        return out.numpy() if self.kind.numpy else out

    @torch.no_grad()
    def blocks(self, source: Similarity) -> Iterator[torch.Tensor]:
        """Yield the corrected rows of this process's texts, in the kind and dtype of the input."""
        for _, _, block in source.blocks():
            yield self.kind.narrow(block)
