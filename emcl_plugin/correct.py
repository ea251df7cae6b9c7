"""The whole correction, from a similarity source to a similarity source: what `rerank` runs.

scores -> EMCL, its strength chosen by agreement -> NCL -> guard. Nothing here knows of files,
NumPy or the command line.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from emcl_plugin.agreement import (
    GuardDecision,
    Nearest,
    NearestAccumulator,
    decide,
    finish,
    nearest,
)
from emcl_plugin.arrays import check_finite
from emcl_plugin.emcl import (
    EMCL,
    EMCLReport,
    Reconstruction,
    Subspaces,
    fit_subspaces,
    second_moments,
)
from emcl_plugin.errors import ScaleWarning
from emcl_plugin.ncl import NCL, Biases, Progress, fit_biases
from emcl_plugin.plan import Estimate
from emcl_plugin.reductions import Moments, MomentsAccumulator, slope
from emcl_plugin.similarity import Dense, FeaturePair, Features, LowRank, Similarity


@dataclass(frozen=True)
class Correction:
    """The corrected source and everything that was decided on the way.

    ``base`` are the scores that came in, stored where they fit. ``after`` and ``source`` are
    what is returned: where the guard held the correction back they
    are those of the input. ``emcl``, ``subspaces`` and ``biases`` are what was tried.
    """

    base: Similarity
    source: Similarity
    score_std: float
    emcl: EMCLReport | None
    subspaces: Subspaces | None
    biases: Biases | None
    guard: GuardDecision
    before: Nearest
    after: Nearest


def correct(
    sim: Similarity | None,
    features: tuple[Features, Features] | None,
    *,
    emcl: EMCL | None,
    ncl: NCL | None,
    guard: bool,
    memory: int,
    plan: Estimate,
    progress: Progress | None = None,
) -> Correction:
    """Correct a similarity, the inner products of features, or the one by means of the other.

    Parameters
    ----------
    sim : Similarity or None
        The retriever's own scores.
    features : (text, video) or None
        At least one of ``sim`` and ``features`` is there. EMCL needs features.
    emcl, ncl
        Settings, or None to leave the step out.
    guard : bool
        Return the input where the correction does not raise the mutual nearest neighbours.
    memory : int
        Bytes to keep within.
    plan : Estimate
        What is stored and what is recomputed.
    progress : callable, optional
        Called with (stage, done, total).
    """
    pair = None if features is None else FeaturePair(*features, memory=memory)
    base = pair if sim is None else sim
    assert base is not None
    if plan.store_scores:
        base = Dense(base.dense(), dtype=base.dtype, device=base.device, memory=memory)

    candidates: Mapping[float, LowRank] = {}
    subspaces: Subspaces | None = None
    fixed, reason = None, ""
    if emcl is not None and features is not None and pair is not None:
        subspaces = fit_subspaces(second_moments(*features, batch=emcl.batch), emcl)
        fixed = subspaces.strength(emcl)
        scale = 1.0 if sim is None else slope(sim, pair)
        if scale > 0:
            own = sim is None and features[0].metric == "cosine"
            reconstruction = Reconstruction(
                *features, subspaces, renormalize=own and emcl.renormalize, scale=scale
            )
            strengths = emcl.strengths if fixed is None else (fixed,)
            candidates = {s: reconstruction.scores(base, s) for s in strengths if s != 0}
        else:
            reason = "left out: the scores do not rise with the features' inner product"
            warnings.warn(
                f"EMCL is {reason}; do the features belong to these scores?",
                ScaleWarning,
                stacklevel=3,
            )

    spread, before, shares = _first_pass(base, candidates, progress)
    best = max(shares, key=lambda s: (shares[s], -abs(s)))
    proposals = [0.0] if best == 0 else [0.0, best]
    if candidates and fixed is not None:
        proposals = [fixed]
    outcomes = [
        _normalise(s, candidates.get(s, base), spread, ncl, guard, memory, progress)
        for s in proposals
    ]
    result = max(outcomes, key=lambda o: o.share)  # the first of equals: less is done

    report = None
    if subspaces is not None:
        tried = tuple(sorted(shares.items())) if fixed is None else ()
        if fixed is not None:
            reason = reason or "given"
        elif result.strength != 0:
            reason = "the most mutual nearest neighbours"
        elif best != 0:
            reason = f"{best:g} is best alone, but adds nothing to the normalisation"
        else:
            reason = reason or "no strength raises the mutual nearest neighbours"
        report = EMCLReport(result.strength, subspaces.effective_rank, tried, reason)

    if result.biases is None and result.strength == 0:
        share = before.mutual_share()
        decision = GuardDecision(guard, False, share, share, _why_nothing(base, spread))
    else:
        decision = decide(before.mutual_share(), result.share, enabled=guard)
    applied = decision.applied
    return Correction(
        base=base,
        source=result.source if applied else base,
        score_std=spread.std,
        emcl=report,
        subspaces=subspaces,
        biases=result.biases,
        guard=decision,
        before=before,
        after=result.nearest if applied else before,
    )


@dataclass(frozen=True)
class _Outcome:
    """The scores of one proposed strength, normalised."""

    strength: float
    source: Similarity
    biases: Biases | None
    nearest: Nearest
    share: float


def _normalise(
    strength: float,
    source: Similarity,
    spread: Moments,
    ncl: NCL | None,
    guard: bool,
    memory: int,
    progress: Progress | None,
) -> _Outcome:
    biases = None
    possible = min(source.shape) >= 2 and spread.std > 0
    if ncl is not None and (possible or not guard):  # without the guard it says what is amiss
        std = spread.std if strength == 0 else None
        biases = fit_biases(source, ncl, std=std, memory=memory, progress=progress)
        source = biases.apply(source)
    found = nearest(source)
    return _Outcome(strength, source, biases, found, found.mutual_share())


def _first_pass(
    base: Similarity, candidates: Mapping[float, LowRank], progress: Progress | None
) -> tuple[Moments, Nearest, dict[float, float]]:
    """One pass over the scores: spread, best matches, and the agreement of every candidate."""
    spread = MomentsAccumulator()
    accumulators = {
        s: NearestAccumulator(base.shape, base.dtype, base.device) for s in (0.0, *candidates)
    }
    for start, stop, block in base.blocks():
        check_finite(block, "sim", start)
        spread.add(block)
        accumulators[0.0].add(start, stop, block, watch_ties=True)
        for strength, candidate in candidates.items():
            accumulators[strength].add(start, stop, candidate.change(block, start, stop))
        if progress is not None:
            progress("agreement", stop, base.shape[0])
    found = {strength: accumulator.result() for strength, accumulator in accumulators.items()}
    found[0.0] = finish(accumulators[0.0], base)
    return spread.result(), found[0.0], {s: x.mutual_share() for s, x in found.items()}


def _why_nothing(base: Similarity, spread: Moments) -> str:
    reason = "nothing was switched on"
    if spread.std == 0:
        reason = "all scores are equal"
    elif min(base.shape) < 2:
        reason = f"{base.shape[0]} x {base.shape[1]} scores are too few to normalise"
    return f"{reason}, the input is returned unchanged"
