"""The whole correction, from a similarity source to a similarity source: what `rerank` runs.

scores -> near-equal queries counted once -> EMCL, its strength chosen by agreement -> gentle
runs of NCL -> the guard, which says how far to go -> NCL with the prior that the queries bear out.
Nothing here knows of files, NumPy or the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from emcl_plugin._internal.arrays import check_finite
from emcl_plugin._internal.progress import Progress
from emcl_plugin.emcl import EMCLReport, Subspaces
from emcl_plugin.emcl.strength_search import propose, try_strengths
from emcl_plugin.evidence.guard import EVIDENCE, GuardDecision, Parts, deal, decide
from emcl_plugin.evidence.mutual_neighbours import Nearest, NearestAccumulator, finish, nearest
from emcl_plugin.evidence.near_duplicates import weights as repeat_weights
from emcl_plugin.evidence.prior import Prior, Probes, earned_biases, probe
from emcl_plugin.ncl import Biases, Journal
from emcl_plugin.pipeline.memory_plan import Estimate
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Dense, FeaturePair, Features, Shard, Similarity
from emcl_plugin.scores.candidates import Candidates, RecallEstimate, estimate_recall
from emcl_plugin.scores.reductions import Moments, moments


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
    coverage: RecallEstimate | None = None


def correct(
    sim: Similarity | None,
    features: tuple[Features, Features] | None,
    settings: Settings,
    *,
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
    settings : Settings
        With the prior "even" every text counts once, copies too, as NCL was published.
    memory : int
        Bytes to keep within.
    plan : Estimate
        What is stored and what is recomputed.
    candidates : Candidates, optional
        Pairs of the features to look at, in the place of all.
    progress : callable, optional
        Called with (stage, done, total).
    journal : Journal, optional
        Where the solves go on from, and where every iteration is kept.
    """
    emcl, ncl, prior, guard = settings.emcl, settings.ncl, settings.prior, settings.guard
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

    proposal = None if emcl is None else propose(base, sim, pair, emcl, weights)
    tried = try_strengths(base, proposal, before, weights)
    strengths = [0.0] if tried.best == 0 else [0.0, tried.best]
    if proposal is not None and proposal.changed and proposal.fixed is not None:
        strengths = [proposal.fixed]
    possible = min(base.shape) >= 2 and tried.spread.std > 0
    if ncl is None or prior == "off" or (guard and not possible):
        ncl = None  # without the guard NCL says what is amiss

    parts = deal(before, weights)
    trials = []
    for strength in strengths:
        source = corrected = tried.changed.get(strength, base)
        std = tried.stds[strength] if strength in tried.stds else moments(source, weights).std
        probes = None
        matches = tried.matches[strength]
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
            corrected = probes.gentle.apply(source)
            matches = nearest(corrected)
        partners = parts.partners(corrected, matches)
        trials.append(_Trial(strength, source, std, probes, matches, partners))
    trial = trials[0]
    if len(trials) == 2 and _adds(trials[0], trials[1], parts):
        trial = trials[1]

    source, matches, assumed = trial.source, trial.matches, None
    biases = None if trial.probes is None else trial.probes.gentle
    share = before.mutual_share()
    partners = parts.partners(base, before)
    gain = evidence = parts.weigh(partners, trial.partners)
    if trial.probes is not None:
        cautious = trial.probes.leave_best_out.apply(source)
        found = parts.partners(cautious, nearest(cautious))
        evidence = parts.weigh(partners, found)
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
        decision = replace(decision, reason=_why_nothing(base, tried.spread))

    return Correction(
        base=base,
        source=source if decision.applied else base,
        score_std=tried.spread.std,
        emcl=None if proposal is None else proposal.report(tried, trial.strength),
        subspaces=None if proposal is None else proposal.subspaces,
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
    group, dtype, device = base.group, base.dtype, base.device
    scores = base.storing(base.dense)
    if scores is None:
        return base
    if group.size == 1:
        return Dense(scores, dtype=dtype, device=device, memory=memory)
    return Shard(scores, base.shape, group, dtype=dtype, device=device, memory=memory, of=base)


def _coverage(trial: _Trial, biases: Biases | None) -> RecallEstimate:
    assert isinstance(trial.source, Candidates)
    if biases is None:
        return estimate_recall(trial.source, None, 1.0)
    return estimate_recall(trial.source, biases.video, biases.temperature)


@dataclass(frozen=True)
class _Trial:
    """The scores of one proposed strength, with NCL its gentle runs; what they make of the texts.

    ``partners`` says which texts have a mutual partner within their part, (n_text,) bool.
    """

    strength: float
    source: Similarity
    std: float
    probes: Probes | None
    matches: Nearest
    partners: torch.Tensor


def _adds(without: _Trial, with_emcl: _Trial, parts: Parts) -> bool:
    """Whether EMCL finds mutual partners that its absence does not.

    Alone any rise will do. NCL has found most of them already, and the largest of many shares
    is above the first by chance alone, so on top of it the rise must be more than that.
    """
    if with_emcl.probes is None:
        return with_emcl.matches.mutual_share() > without.matches.mutual_share()
    return parts.weigh(without.partners, with_emcl.partners).z > EVIDENCE[1]


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

    base.group.together(look)
    return finish(accumulator, base)


def _why_nothing(base: Similarity, spread: Moments) -> str:
    reason = "nothing was switched on"
    if spread.std == 0:
        reason = "all scores are equal"
    elif min(base.shape) < 2:
        reason = f"{base.shape[0]} x {base.shape[1]} scores are too few to normalise"
    return f"{reason}, the input is returned unchanged"
