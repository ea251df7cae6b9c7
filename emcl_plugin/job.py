"""One correction from checked inputs to row blocks, and the report on it.

`rescore` collects the blocks into an array, the command line writes them to a file; both run
the same job.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from emcl_plugin.agreement import GuardDecision, Hubs
from emcl_plugin.arrays import (
    Array,
    Kind,
    check_matrix,
    compute_dtype,
    describe,
)
from emcl_plugin.candidates import Candidates, Coverage
from emcl_plugin.correct import Correction, correct
from emcl_plugin.emcl import EMCL, EMCLReport
from emcl_plugin.errors import (
    InputTypeError,
    InputValueError,
    MemoryBudgetError,
    RepeatedItemsWarning,
)
from emcl_plugin.experts import Experts
from emcl_plugin.ncl import NCL, Biases, Journal, Progress
from emcl_plugin.plan import Estimate, available, estimate
from emcl_plugin.prior import Prior, Probes, check_mode
from emcl_plugin.search import search
from emcl_plugin.similarity import Dense, FeaturePair, Features, Scorer, Shard, Similarity
from emcl_plugin.sizes import format_size
from emcl_plugin.world import ALONE, World

if TYPE_CHECKING:
    from emcl_plugin.bank import BankReport

FeaturesPair: TypeAlias = "tuple[Array, Array]"

CITATIONS = (
    "EMCL: Jin et al., Expectation-Maximization Contrastive Learning for Compact "
    "Video-and-Language Representations, NeurIPS 2022, arXiv 2211.11427",
    "NCL: Park et al., Normalized Contrastive Learning for Text-Video Retrieval, "
    "EMNLP 2022, arXiv 2212.11790",
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything about a correction but the scores.

    Attributes
    ----------
    shape : tuple of int
        (texts, videos).
    protocol : str
        "transductive": the biases were computed from the very texts that are scored, all at
        once. Say so where you publish the numbers. "bank": from other queries.
    score_std : float
        Standard deviation of the input scores.
    emcl : EMCLReport or None
        Strength, effective rank, candidates tried and why. None where EMCL was off or there
        were no features.
    biases : Biases or None
        Text and video biases, temperature, rounds, error, converged. None where NCL was off.
        These were added to the scores, scaled by ``guard.strength``; where that is 0 they are
        those of the gentle run, and nothing was added.
    probes : Probes or None
        The gentle and the cautious run's biases, from which prior and guard were found. The
        videos with the lowest ``probes.cautious.video`` are hubs, however often they are asked
        for. None where NCL was off.
    prior : Prior or None
        What was assumed about how often each video is asked for. None where NCL was not
        applied.
    guard : GuardDecision
        Whether the correction was let through. If not, the scores are the input's.
    hubs_before, hubs_after : Hubs
        How the texts' best videos spread over the gallery.
    repeated_texts, repeated_videos : int
        Items that are exact copies of an earlier one of their side (0 where only a similarity
        was given).
    banks : mapping of str to BankReport
        By direction, what its bank taught; empty where the protocol is transductive.
    coverage : Coverage or None
        What was left out, where only candidates were looked at.
    citations : tuple of str
        What to cite.
    """

    shape: tuple[int, int]
    protocol: str
    score_std: float
    emcl: EMCLReport | None
    biases: Biases | None
    probes: Probes | None
    prior: Prior | None
    guard: GuardDecision
    hubs_before: Hubs
    hubs_after: Hubs
    repeated_texts: int
    repeated_videos: int
    banks: Mapping[str, BankReport] = field(default_factory=dict)
    coverage: Coverage | None = None
    citations: tuple[str, ...] = CITATIONS

    def to_dict(self) -> dict[str, Any]:
        """Everything but the biases themselves, for JSON."""
        biases = self.biases
        return {
            "texts": self.shape[0],
            "videos": self.shape[1],
            "protocol": self.protocol,
            "score_std": self.score_std,
            "emcl": None if self.emcl is None else self.emcl.to_dict(),
            "ncl": None
            if biases is None
            else {
                name: getattr(biases, name)
                for name in ("temperature", "rounds", "error", "converged", "solver")
            },
            "prior": None if self.prior is None else self.prior.to_dict(),
            "guard": self.guard.to_dict(),
            "banks": {direction: found.to_dict() for direction, found in self.banks.items()},
            "hubs": {"before": dict(vars(self.hubs_before)), "after": dict(vars(self.hubs_after))},
            "repeated": {"texts": self.repeated_texts, "videos": self.repeated_videos},
            "candidates": None if self.coverage is None else self.coverage.to_dict(),
            "citations": list(self.citations),
        }


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
        self.emcl = _settings(emcl, EMCL, "emcl")
        self.ncl = _settings(ncl, NCL, "ncl")
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


def repeated(features: Features) -> int:
    """How many vectors are exact copies of an earlier one.

    >>> repeated(Features(np.float32([[1, 0], [0, 1], [2, 0]])))  # the third is the first's cosine
    1
    """
    words = features.shape[1] * features.dtype.itemsize // 4
    factors = np.random.default_rng(0).integers(0, 1 << 63, words, np.uint64) * 2 + 1
    keys = []  # of every vector a sum of its words, each times its own factor, modulo 2^64
    for _, _, block in features.blocks():
        bits = np.ascontiguousarray(block.cpu().numpy()).view(np.uint32)
        keys.append(bits.astype(np.uint64) @ factors)
    own = torch.from_numpy(np.concatenate(keys).view(np.int64))
    every = features.world.rows(own, features.shape[0]).numpy()
    return features.shape[0] - len(np.unique(every))


def _settings(given: Any, kind: Any, name: str) -> Any:
    """The settings object that "auto", None, a preset's name or an object stands for."""
    if given is None or isinstance(given, kind):
        return given
    if given == "auto":
        return kind()
    if kind is EMCL and isinstance(given, str):
        return EMCL.preset(given)
    raise InputTypeError(
        f"{name} must be 'auto', None or {kind.__name__}(...)",
        repr(given),
        f"from emcl_plugin import {kind.__name__}",
    )


def check_inputs(sim: Array | Scorer | None, feats: FeaturesPair | None) -> list[Array]:
    """The arrays that came in, features first, after checks of kind and shape."""
    if sim is None and feats is None:
        raise InputValueError(
            "there is nothing to re-score", "neither sim nor feats", "pass at least one of the two"
        )
    arrays: list[Array] = []
    if feats is not None:
        if not isinstance(feats, tuple | list) or len(feats) != 2:
            raise InputTypeError(
                "feats must be a pair (text, video)", describe(feats), "pass feats=(text, video)"
            )
        text, video = check_matrix(feats[0], "text"), check_matrix(feats[1], "video")
        if text.shape[1] != video.shape[1]:
            raise InputValueError(
                "text and video features have different dimensions",
                f"text {tuple(text.shape)}, video {tuple(video.shape)}",
                "pass the embeddings that the retriever compares, one row per item",
            )
        arrays += [text, video]
    if sim is not None:
        scorer = not isinstance(sim, np.ndarray | torch.Tensor) and hasattr(sim, "open")
        if not scorer:
            check_matrix(sim, "sim")
        if feats is not None and isinstance(sim, Experts):
            raise InputValueError(
                "experts bring their own features",
                f"{len(sim.text)} experts, and feats",
                "leave feats out: EMCL finds one map per expert",
            )
        if arrays:
            expected = (arrays[0].shape[0], arrays[1].shape[0])
            if tuple(sim.shape) != expected:
                swapped = tuple(sim.shape) == expected[::-1]
                raise InputValueError(
                    "the similarity is video x text" if swapped else "shapes do not agree",
                    f"sim {tuple(sim.shape)}, text {tuple(arrays[0].shape)}, "
                    f"video {tuple(arrays[1].shape)}",
                    "pass sim.T, or swap text and video"
                    if swapped
                    else "sim must have one row per text and one column per video",
                )
        arrays += [sim] if isinstance(sim, np.ndarray | torch.Tensor) else sim.arrays
    return arrays


def pick_device(given: str | torch.device | None, kind: Kind) -> torch.device:
    """Where to compute: as told, where the tensors are, or CUDA if there is one."""
    if given is None and not kind.numpy:
        return kind.device
    if given is None or str(given) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(given)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputValueError(
            "this device cannot be used", f"{given!s}: {reason}", "use auto or cpu"
        ) from error
    return device
