"""EMCL's strengths: what each makes of the scores, and which finds the most mutual partners.

One pass over the scores serves all of them; what a strength makes of a block is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from emcl_plugin._internal.warn import warn
from emcl_plugin.emcl import (
    EMCL,
    NORM_FLOOR,
    EMCLReport,
    Reconstruction,
    Subspaces,
    fit_subspaces,
    second_moments,
)
from emcl_plugin.emcl.experts import ExpertMaps, Mixture
from emcl_plugin.errors import ScaleWarning
from emcl_plugin.evidence.mutual_neighbours import Nearest, NearestAccumulator, nearest
from emcl_plugin.scores import FeaturePair, LowRank, Similarity, ranges_in_cache
from emcl_plugin.scores.candidates import Candidates
from emcl_plugin.scores.reductions import Moments, MomentsAccumulator, moments, slope


class Changed(Mapping[float, Similarity]):
    """The scores after each strength, made when they are asked for and not kept."""

    def __init__(self, strengths: Sequence[float], make: Callable[[float], Similarity]) -> None:
        self.strengths, self.make = strengths, make

    def __getitem__(self, strength: float) -> Similarity:
        if strength not in self.strengths:
            raise KeyError(strength)
        return self.make(strength)

    def __iter__(self) -> Iterator[float]:
        return iter(self.strengths)

    def __len__(self) -> int:
        return len(self.strengths)


@dataclass(frozen=True)
class Proposal:
    """What EMCL makes of the scores.

    Attributes
    ----------
    changed : mapping of float to Similarity
        The scores after every strength but 0; empty where EMCL is ``left_out``.
    effective_rank : float
    fixed : float or None
        The strength that was given, or None where it is to be chosen.
    subspaces : Subspaces or None
        None where every expert has its own.
    left_out : str
        Why there is nothing to choose from.
    roundings : float
        The new scores may be off by so many roundings of those that came in.
    """

    changed: Mapping[float, Similarity]
    effective_rank: float
    fixed: float | None
    subspaces: Subspaces | None = None
    left_out: str = ""
    roundings: float = 16.0

    def report(self, tried: Tried, strength: float) -> EMCLReport:
        """What EMCL did, with this strength in the end."""
        shares = tried.shares
        fixed, reason = self.fixed, self.left_out
        if fixed is not None:
            reason = reason or "given"
        elif strength != 0:
            reason = "the most mutual nearest neighbours"
        elif tried.best != 0:
            reason = f"{tried.best:g} is best alone, but adds too little to the normalisation"
        elif not reason and max(shares.values()) > shares[0.0]:
            reason = "what raises the mutual nearest neighbours leaves no scores to tell apart"
        else:
            reason = reason or "no strength raises the mutual nearest neighbours"
        found = tuple(sorted(shares.items())) if fixed is None else ()
        return EMCLReport(strength, self.effective_rank, found, reason)


def propose(
    base: Similarity,
    sim: Similarity | None,
    pair: FeaturePair | None,
    emcl: EMCL,
    weights: torch.Tensor | None,
) -> Proposal | None:
    """What EMCL makes of ``base``; None where it has no features to work on.

    ``base`` are the scores of ``sim``, the retriever's own, or without it those of ``pair``.
    """
    if isinstance(sim, Mixture):
        return _of_experts(sim, emcl, weights)
    if pair is None:
        return None
    return _of_features(base, pair, sim is None, emcl, weights)


def _of_features(
    base: Similarity, pair: FeaturePair, own: bool, emcl: EMCL, weights: torch.Tensor | None
) -> Proposal:
    """One map: the features' own scores are made anew, others get a residual in their scale."""
    second = second_moments(pair.text, pair.video, batch=emcl.batch, weights=(weights,))
    subspaces = fit_subspaces(second, emcl)
    fixed = subspaces.strength(emcl)
    scale = 1.0 if own else slope(base, pair)
    if scale <= 0:
        left_out = "left out: the scores do not rise with the features' inner product"
        warn(f"EMCL is {left_out}; do the features belong to these scores?", ScaleWarning)
        return Proposal({}, subspaces.effective_rank, fixed, subspaces, left_out)
    renormalize = own and pair.text.metric == "cosine" and emcl.renormalize
    made = Reconstruction(pair.text, pair.video, subspaces, renormalize=renormalize, scale=scale)
    strengths = emcl.strengths if fixed is None else (fixed,)
    changed = Changed([s for s in strengths if s != 0], lambda s: made.scores(base, s))
    roundings = 1 / NORM_FLOOR if renormalize else Proposal.roundings
    return Proposal(changed, subspaces.effective_rank, fixed, subspaces, roundings=roundings)


def _of_experts(mixture: Mixture, emcl: EMCL, weights: torch.Tensor | None) -> Proposal:
    """One map per expert."""
    maps = ExpertMaps(mixture, emcl, weights)
    strengths = emcl.strengths if maps.fixed is None else (maps.fixed,)
    changed = Changed([s for s in strengths if s != 0], maps.scores)
    return Proposal(changed, maps.effective_rank, maps.fixed)


@dataclass(frozen=True)
class Tried:
    """What became of the scores under every strength, 0 among them.

    Attributes
    ----------
    changed : mapping of float to Similarity
        The scores after every strength but 0.
    spread : Moments
        Of the scores that came in.
    matches : dict of float to Nearest
    shares : dict of float to float
        Mutual nearest neighbours, in [0, 1].
    stds : dict of float to float
        The scores' standard deviations, of those strengths for which it was needed.
    best : float
        The strength of the most mutual nearest neighbours.
    """

    changed: Mapping[float, Similarity]
    spread: Moments
    matches: dict[float, Nearest]
    shares: dict[float, float]
    stds: dict[float, float]
    best: float


def try_strengths(
    base: Similarity,
    proposal: Proposal | None,
    before: Nearest,
    weights: torch.Tensor | None,
) -> Tried:
    """Look at the scores after every proposed strength; ``before`` are those that came in."""
    changed: Mapping[float, Similarity] = {} if proposal is None else proposal.changed
    spread, matches = _look(base, changed, weights)
    matches = {0.0: before, **matches}
    # a strength that takes away all that tells the scores apart leaves everything mutual
    least = 0.0
    if proposal is not None:
        size = abs(spread.mean) + spread.std
        least = proposal.roundings * torch.finfo(base.dtype).eps * size
    shares = {strength: found.mutual_share() for strength, found in matches.items()}
    best, stds = 0.0, {0.0: spread.std}
    for strength in sorted(shares, key=lambda s: (-shares[s], abs(s))):
        if strength != 0:
            stds[strength] = moments(changed[strength], weights).std
        if strength == 0 or stds[strength] > least:
            best = strength
            break
    return Tried(changed, spread, matches, shares, stds, best)


def _look(
    base: Similarity, candidates: Mapping[float, Similarity], weights: torch.Tensor | None
) -> tuple[Moments, dict[float, Nearest]]:
    """One pass over the scores: their spread, and the best matches of every candidate."""
    if isinstance(base, Candidates):
        return moments(base, weights), {s: nearest(found) for s, found in candidates.items()}
    spread = MomentsAccumulator(base.group)
    accumulators = {s: NearestAccumulator(base) for s in candidates}
    for start, stop, block in base.blocks():
        spread.add(block, None if weights is None else weights[start:stop])
        for strength, candidate in candidates.items():
            if not isinstance(candidate, LowRank):
                accumulators[strength].add(start, stop, candidate.rows(start, stop))
                continue
            for first, last in ranges_in_cache(start, stop, base.shape[1], base.dtype, base.device):
                changed = candidate.change(block[first - start : last - start], first, last)
                accumulators[strength].add(first, last, changed)
    return spread.result(), {s: found.result() for s, found in accumulators.items()}
