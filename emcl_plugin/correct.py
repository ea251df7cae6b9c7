"""The whole correction, from a similarity source to a similarity source: what `rerank` runs.

scores -> near-equal queries counted once -> EMCL, its strength chosen by agreement -> gentle
runs of NCL -> the guard, which says how far to go -> NCL with the prior that the queries bear out.
Nothing here knows of files, NumPy or the command line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from emcl_plugin.agreement import (
    GuardDecision,
    Nearest,
    NearestAccumulator,
    decide,
    finish,
    nearest,
    weigh,
)
from emcl_plugin.arrays import check_finite
from emcl_plugin.candidates import Candidates, Coverage, coverage
from emcl_plugin.emcl import (
    EMCL,
    NORM_FLOOR,
    EMCLReport,
    Reconstruction,
    Subspaces,
    fit_subspaces,
    second_moments,
)
from emcl_plugin.errors import ScaleWarning
from emcl_plugin.experts import ExpertMaps, Mixture
from emcl_plugin.ncl import NCL, Biases, Journal, Progress
from emcl_plugin.plan import Estimate
from emcl_plugin.prior import Prior, Probes, earned_biases, probe
from emcl_plugin.reductions import Moments, MomentsAccumulator, moments, slope
from emcl_plugin.repeats import weights as repeat_weights
from emcl_plugin.similarity import (
    Dense,
    FeaturePair,
    Features,
    LowRank,
    OutOfMemory,
    Shard,
    Similarity,
    ranges_in_cache,
)


@dataclass(frozen=True)
class Correction:
    """The corrected source and everything that was decided on the way.

    ``base`` are the scores that came in, stored where they fit. ``after`` and ``source`` are
    what is returned: where the guard held the correction back they are those of the input.
    ``emcl``, ``subspaces`` and ``biases`` are then what was tried. ``probes`` are the biases of
    the gentle runs, ``prior`` is there where NCL was applied, and ``weights`` says as how many
    queries each text counts (None: one each).
    """

    base: Similarity
    source: Similarity
    score_std: float
    emcl: EMCLReport | None
    subspaces: Subspaces | None
    probes: Probes | None
    biases: Biases | None
    prior: Prior | None
    weights: torch.Tensor | None
    guard: GuardDecision
    before: Nearest
    after: Nearest
    coverage: Coverage | None = None


def correct(
    sim: Similarity | None,
    features: tuple[Features, Features] | None,
    *,
    emcl: EMCL | None,
    ncl: NCL | None,
    prior: str,
    guard: bool,
    memory: int,
    plan: Estimate,
    candidates: Candidates | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
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
    prior : {"auto", "even", "gentle", "off"}
        What to assume about how often each video is asked for; "off" leaves NCL out. With
        "even" every text counts once, copies too, as NCL was published.
    guard : bool
        Apply no more than the mutual nearest neighbours bear out.
    memory : int
        Bytes to keep within.
    plan : Estimate
        What is stored and what is recomputed.
    candidates : Candidates, optional
        Pairs of the features to look at, in the place of all.
    progress : callable, optional
        Called with (stage, done, total).
    journal : Journal, optional
        Where the solves go on from, and where every round is kept.
    """
    pair = None if features is None else FeaturePair(*features, memory=memory)
    base = candidates or (pair if sim is None else sim)
    assert base is not None
    if plan.store_scores and candidates is None:
        base = _stored(base, memory)

    before = _best_matches(base, progress)
    weights = None
    if ncl is not None and prior in ("auto", "gentle") and ncl.text_marginal is None:
        vectors = base if features is None else features[0]
        weights = repeat_weights(vectors, before.video_of_text, memory=memory)

    proposed = None
    if emcl is not None and isinstance(sim, Mixture):
        proposed = _of_experts(sim, emcl, weights)
    elif emcl is not None and pair is not None:
        proposed = _of_features(base, pair, sim is None, emcl, weights)
    changed = {} if proposed is None else proposed.candidates
    fixed = None if proposed is None else proposed.fixed

    spread, bests = _try_strengths(base, changed, before, weights)
    shares = {s: found.mutual_share() for s, found in bests.items()}
    # a strength that takes away all that tells the scores apart leaves everything mutual
    least = 0.0
    if proposed is not None:
        size = abs(spread.mean) + spread.std
        least = proposed.roundings * torch.finfo(base.dtype).eps * size
    best, stds = 0.0, {0.0: spread.std}
    for strength in sorted(shares, key=lambda s: (-shares[s], abs(s))):
        if strength != 0:
            stds[strength] = moments(changed[strength], weights).std
        if strength == 0 or stds[strength] > least:
            best = strength
            break
    proposals = [0.0] if best == 0 else [0.0, best]
    if changed and fixed is not None:
        proposals = [fixed]
    possible = min(base.shape) >= 2 and spread.std > 0
    if ncl is None or prior == "off" or (guard and not possible):
        ncl = None  # without the guard NCL says what is amiss

    trials = []
    for strength in proposals:
        source: Similarity = changed.get(strength, base)
        std = stds[strength] if strength in stds else moments(source, weights).std
        probes = None
        matches = bests[strength]
        if ncl is not None:
            probes = probe(
                source,
                ncl,
                matches,
                std=std,
                weights=weights,
                memory=memory,
                progress=progress,
                journal=journal,
            )
            matches = nearest(probes.gentle.apply(source))
        trials.append(_Trial(strength, source, std, probes, matches))
    trial = max(trials, key=lambda t: t.matches.mutual_share())  # the first of equals: less is done

    source, matches, assumed = trial.source, trial.matches, None
    biases = None if trial.probes is None else trial.probes.gentle
    share = before.mutual_share()
    gain = evidence = weigh(before, matches, weights)
    if trial.probes is not None:
        evidence = weigh(before, nearest(trial.probes.cautious.apply(source)), weights)
        amount = evidence.strength
    else:  # EMCL alone: it changes few matches, and every better one is welcome
        amount = float(matches.mutual_share() > share)
    nothing = trial.probes is None and trial.strength == 0
    if nothing:
        amount = 0.0
    elif not guard:
        amount = 1.0
    if ncl is not None and trial.probes is not None and amount > 0:
        biases, assumed = earned_biases(
            source,
            ncl,
            trial.probes,
            (gain, evidence),
            prior,
            std=trial.std,
            weights=weights,
            memory=memory,
            progress=progress,
            journal=journal,
        )
        biases = biases.scaled(amount)
        source = biases.apply(source)
        matches = nearest(source)
    decision = decide(evidence, amount, share, matches.mutual_share(), enabled=guard)
    if nothing:
        decision = replace(decision, reason=_why_nothing(base, spread))

    return Correction(
        base=base,
        source=source if decision.applied else base,
        score_std=spread.std,
        emcl=_emcl_report(proposed, trial.strength, best, shares),
        subspaces=None if proposed is None else proposed.subspaces,
        probes=trial.probes,
        biases=biases,
        prior=assumed,
        weights=weights,
        guard=decision,
        before=before,
        after=matches if decision.applied else before,
        coverage=_coverage(trial, biases) if isinstance(trial.source, Candidates) else None,
    )


def _stored(base: Similarity, memory: int) -> Similarity:
    """The scores in memory, of this process's texts; not where a GPU does not hold them."""
    rows, world, dtype, device = base.block_rows, base.world, base.dtype, base.device
    with suppress(OutOfMemory):
        scores = base.dense()
        if world.size == 1:
            return Dense(scores, dtype=dtype, device=device, memory=memory)
        return Shard(scores, base.shape, world, dtype=dtype, device=device, memory=memory, of=base)
    base.block_rows = rows  # blocks are only small because of what was to be stored
    torch.cuda.empty_cache()
    return base


def _coverage(trial: _Trial, biases: Biases | None) -> Coverage:
    assert isinstance(trial.source, Candidates)
    if biases is None:
        return coverage(trial.source, None, 1.0)
    return coverage(trial.source, biases.video, biases.temperature)


@dataclass(frozen=True)
class _Trial:
    """The scores of one proposed strength, with NCL its gentle runs, and best matches."""

    strength: float
    source: Similarity
    std: float
    probes: Probes | None
    matches: Nearest


class _Changed(Mapping[float, Similarity]):
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
class _Proposed:
    """What EMCL makes of the scores, by strength; the strength that is given; why there is none.

    Its scores may be off by so many ``roundings`` of those that came in.
    """

    candidates: Mapping[float, Similarity]
    effective_rank: float
    fixed: float | None
    subspaces: Subspaces | None = None
    left_out: str = ""
    roundings: float = 16.0


def _of_features(
    base: Similarity, pair: FeaturePair, own: bool, emcl: EMCL, weights: torch.Tensor | None
) -> _Proposed:
    """One map: the features' own scores are made anew, others get a residual in their scale."""
    second = second_moments(pair.text, pair.video, batch=emcl.batch, weights=(weights,))
    subspaces = fit_subspaces(second, emcl)
    fixed = subspaces.strength(emcl)
    scale = 1.0 if own else slope(base, pair)
    if scale <= 0:
        left_out = "left out: the scores do not rise with the features' inner product"
        warnings.warn(
            f"EMCL is {left_out}; do the features belong to these scores?",
            ScaleWarning,
            stacklevel=4,
        )
        return _Proposed({}, subspaces.effective_rank, fixed, subspaces, left_out)
    renormalize = own and pair.text.metric == "cosine" and emcl.renormalize
    made = Reconstruction(pair.text, pair.video, subspaces, renormalize=renormalize, scale=scale)
    strengths = emcl.strengths if fixed is None else (fixed,)
    changed = _Changed([s for s in strengths if s != 0], lambda s: made.scores(base, s))
    roundings = 1 / NORM_FLOOR if renormalize else _Proposed.roundings
    return _Proposed(changed, subspaces.effective_rank, fixed, subspaces, roundings=roundings)


def _of_experts(mixture: Mixture, emcl: EMCL, weights: torch.Tensor | None) -> _Proposed:
    """One map per expert."""
    maps = ExpertMaps(mixture, emcl, weights)
    strengths = emcl.strengths if maps.fixed is None else (maps.fixed,)
    changed = _Changed([s for s in strengths if s != 0], maps.scores)
    return _Proposed(changed, maps.effective_rank, maps.fixed)


def _best_matches(base: Similarity, progress: Progress | None) -> Nearest:
    """The input's best matches, in a pass that also checks it."""
    if isinstance(base, Candidates):
        return nearest(base)
    accumulator = NearestAccumulator(base)

    def look() -> None:
        first, last = base.own
        for start, stop, block in base.blocks():
            check_finite(block, "sim", start)
            accumulator.add(start, stop, block, watch_ties=True)
            if progress is not None:
                progress("agreement", stop - first, last - first)

    base.world.together(look)
    return finish(accumulator, base)


def _try_strengths(
    base: Similarity,
    candidates: Mapping[float, Similarity],
    before: Nearest,
    weights: torch.Tensor | None,
) -> tuple[Moments, dict[float, Nearest]]:
    """One pass over the scores: their spread, and the best matches of every candidate."""
    if isinstance(base, Candidates):
        bests = {s: nearest(candidate) for s, candidate in candidates.items()}
        return moments(base, weights), {0.0: before, **bests}
    spread = MomentsAccumulator(base.world)
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
    bests = {s: accumulator.result() for s, accumulator in accumulators.items()}
    return spread.result(), {0.0: before, **bests}


def _emcl_report(
    proposed: _Proposed | None, strength: float, best: float, shares: dict[float, float]
) -> EMCLReport | None:
    if proposed is None:
        return None
    fixed, reason = proposed.fixed, proposed.left_out
    if fixed is not None:
        reason = reason or "given"
    elif strength != 0:
        reason = "the most mutual nearest neighbours"
    elif best != 0:
        reason = f"{best:g} is best alone, but adds nothing to the normalisation"
    elif not reason and max(shares.values()) > shares[0.0]:
        reason = "what raises the mutual nearest neighbours leaves no scores to tell apart"
    else:
        reason = reason or "no strength raises the mutual nearest neighbours"
    tried = tuple(sorted(shares.items())) if fixed is None else ()
    return EMCLReport(strength, proposed.effective_rank, tried, reason)


def _why_nothing(base: Similarity, spread: Moments) -> str:
    reason = "nothing was switched on"
    if spread.std == 0:
        reason = "all scores are equal"
    elif min(base.shape) < 2:
        reason = f"{base.shape[0]} x {base.shape[1]} scores are too few to normalise"
    return f"{reason}, the input is returned unchanged"
