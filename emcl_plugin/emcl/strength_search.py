"""Search for EMCL's strength: the one with the most mutual nearest neighbours, without labels.

One pass over the scores serves all strengths; the changed scores are not kept. NCL finds the pairs
that a strength would find, so on top of NCL there is no search, and EMCL runs at a given strength.

While a strength is searched, every requested video counts once in the second moments: a video that
most texts ask for would otherwise be their leading direction, and lose it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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

WITH_NCL = "not applied (NCL finds the same pairs; a given strength is applied)"


class Changed(Mapping[float, Similarity]):
    """Scores by strength, computed on access and not kept."""

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
class StrengthCandidates:
    """Scores at every strength to try.

    Attributes
    ----------
    changed : mapping of float to Similarity
        The scores at every strength but 0; empty if EMCL is ``left_out``.
    effective_rank : float
    fixed : float or None
        The given strength, or None if it is to be chosen.
    subspaces : Subspaces or None
        None if every expert has its own.
    left_out : str
        Why there is nothing to choose from.
    roundings : float
        Error bound of the changed scores, in roundings of the input scores.
    """

    changed: Mapping[float, Similarity]
    effective_rank: float
    fixed: float | None
    subspaces: Subspaces | None = None
    left_out: str = ""
    roundings: float = 16.0

    def report(self, search: StrengthSearch, strength: float) -> EMCLReport:
        """Return what EMCL did, with this final strength."""
        shares = search.shares
        fixed, reason = self.fixed, self.left_out
        if fixed is not None:
            reason = reason or "given"
        elif strength != 0:
            reason = "most mutual nearest neighbours"
        elif not reason and max(shares.values()) > shares[0.0]:
            reason = "not applied (no strength helps without making all scores equal)"
        else:
            reason = reason or "not applied (no strength adds mutual nearest neighbours)"
        found = tuple(sorted(shares.items())) if fixed is None else ()
        return EMCLReport(strength, self.effective_rank, found, reason)


def strength_candidates(
    base: Similarity,
    sim: Similarity | None,
    pair: FeaturePair | None,
    emcl: EMCL,
    weights: torch.Tensor | None,
    before: Nearest,
    *,
    normalised: bool,
) -> StrengthCandidates | None:
    """Return ``base`` at every strength to try; None without features.

    ``base`` are the scores of ``sim``, the retriever's own, or without it those of ``pair``;
    ``before`` are their best matches. Where NCL follows (``normalised``) none is tried.
    """
    searched = emcl.strength is None and emcl.beta is None
    if searched:
        weights = _once_per_video(before, weights).to(base.dtype)
    if isinstance(sim, Mixture):
        choices = _of_experts(sim, emcl, weights)
    elif pair is None:
        return None
    else:
        choices = _of_features(base, pair, sim is None, emcl, weights)
    if searched and normalised:
        return replace(choices, changed={}, left_out=choices.left_out or WITH_NCL)
    return choices


def _once_per_video(before: Nearest, weights: torch.Tensor | None) -> torch.Tensor:
    """Return weights of the texts, (n_text,), whose sum over the texts of a best video is 1."""
    counts = torch.ones_like(before.text_score) if weights is None else weights
    counts = counts.to(torch.float64)
    return counts / torch.bincount(before.video_of_text, counts)[before.video_of_text]


def _of_features(
    base: Similarity, pair: FeaturePair, own: bool, emcl: EMCL, weights: torch.Tensor | None
) -> StrengthCandidates:
    """One map: recompute the features' own scores, or add a residual to other scores."""
    second = second_moments(pair.text, pair.video, batch=emcl.batch, weights=(weights,))
    subspaces = fit_subspaces(second, emcl)
    fixed = subspaces.strength(emcl)
    scale = 1.0 if own else slope(base, pair)
    if scale <= 0:
        left_out = "left out: the scores do not rise with the features' inner product"
        warn(f"EMCL is {left_out}; do the features belong to these scores?", ScaleWarning)
        return StrengthCandidates({}, subspaces.effective_rank, fixed, subspaces, left_out)
    renormalize = own and pair.text.metric == "cosine" and emcl.renormalize
    made = Reconstruction(pair.text, pair.video, subspaces, renormalize=renormalize, scale=scale)
    strengths = emcl.strengths if fixed is None else (fixed,)
    changed = Changed([s for s in strengths if s != 0], lambda s: made.scores(base, s))
    roundings = 1 / NORM_FLOOR if renormalize else StrengthCandidates.roundings
    return StrengthCandidates(
        changed, subspaces.effective_rank, fixed, subspaces, roundings=roundings
    )


def _of_experts(mixture: Mixture, emcl: EMCL, weights: torch.Tensor | None) -> StrengthCandidates:
    """One map per expert."""
    maps = ExpertMaps(mixture, emcl, weights)
    strengths = emcl.strengths if maps.fixed is None else (maps.fixed,)
    changed = Changed([s for s in strengths if s != 0], maps.scores)
    return StrengthCandidates(changed, maps.effective_rank, maps.fixed)


@dataclass(frozen=True)
class StrengthSearch:
    """Results at every strength, 0 included.

    Attributes
    ----------
    changed : mapping of float to Similarity
        The scores at every strength but 0.
    spread : Moments
        Of the input scores.
    matches : dict of float to Nearest
    shares : dict of float to float
        Mutual nearest neighbours, in [0, 1].
    best : float
        The given strength, or the one with the most mutual nearest neighbours.
    std : float
        Standard deviation of the scores at that strength; 0 where they differ by rounding only.
    """

    changed: Mapping[float, Similarity]
    spread: Moments
    matches: dict[float, Nearest]
    shares: dict[float, float]
    best: float
    std: float


def search_strengths(
    base: Similarity,
    choices: StrengthCandidates | None,
    before: Nearest,
    weights: torch.Tensor | None,
) -> StrengthSearch:
    """Search the strengths; ``before`` are the best matches of the input scores."""
    changed: Mapping[float, Similarity] = {} if choices is None else choices.changed
    spread, matches = _look(base, changed, weights)
    matches = {0.0: before, **matches}
    # where a strength makes all scores equal, every pair is mutual, and only rounding is left
    least = 0.0
    if choices is not None:
        size = abs(spread.mean) + spread.std
        least = choices.roundings * torch.finfo(base.dtype).eps * size
    shares = {strength: found.mutual_share() for strength, found in matches.items()}
    order = sorted(shares, key=lambda s: (-shares[s], abs(s)))
    if choices is not None and choices.fixed is not None and changed:
        order = [choices.fixed]
    best, std = 0.0, spread.std
    for best in order:
        std = spread.std
        if best != 0:
            found = moments(changed[best], weights).std
            std = found if found > least else 0.0
        if std > 0 or best == 0:
            break
    return StrengthSearch(changed, spread, matches, shares, best, std)


def _look(
    base: Similarity, candidates: Mapping[float, Similarity], weights: torch.Tensor | None
) -> tuple[Moments, dict[float, Nearest]]:
    """Return the spread and every candidate's best matches, in one pass over the scores."""
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
