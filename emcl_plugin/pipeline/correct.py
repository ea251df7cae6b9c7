"""The whole correction, from similarity source to similarity source: what `rerank` runs.

scores -> near-duplicate queries counted once -> EMCL, its strength given or chosen -> gentle runs
of NCL -> the guard, which says how far to go -> NCL with the prior that the queries bear out.
Nothing here knows of files, NumPy or the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from emcl_plugin._internal.arrays import check_finite
from emcl_plugin._internal.progress import Progress
from emcl_plugin.emcl import EMCLReport, Subspaces
from emcl_plugin.emcl.strength_search import (
    StrengthSearch,
    search_strengths,
    strength_candidates,
)
from emcl_plugin.evidence.guard import (
    Evidence,
    Folds,
    GuardDecision,
    decide,
    stratified_folds,
)
from emcl_plugin.evidence.mutual_neighbours import Nearest, NearestAccumulator, finish, nearest
from emcl_plugin.evidence.near_duplicates import weights as duplicate_weights
from emcl_plugin.evidence.prior import Found, Prior, Probes, Solving, earned_biases, probe
from emcl_plugin.ncl import NCL, Biases, Journal
from emcl_plugin.pipeline.memory_plan import Estimate
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Dense, FeaturePair, Features, Shard, Similarity
from emcl_plugin.scores.candidates import Candidates, RecallEstimate, estimate_recall


@dataclass(frozen=True)
class Correction:
    """The corrected source and every decision behind it.

    ``base`` holds the input scores, stored if they fit. ``source`` and ``after`` describe the
    result; if the guard rejects the correction they are those of the input, and ``emcl``,
    ``subspaces`` and ``biases`` are those that were tried. ``probes`` are the biases of the gentle
    and the leave-best-out run, ``prior`` is None unless NCL was applied, and ``weights`` is how
    many queries each text counts as (None: one each).
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
    """Correct a similarity, the inner products of features, or the former by means of the latter.

    Parameters
    ----------
    sim : Similarity or None
        The retriever's own scores.
    features : (text, video) or None
        At least one of ``sim`` and ``features`` is given. EMCL needs features.
    settings : Settings
        With the prior "even" each duplicate counts, as in the NCL paper.
    memory : int
        Budget in bytes.
    plan : Estimate
        What is stored and what is recomputed.
    candidates : Candidates, optional
        The only pairs of the features to score. Default: all.
    progress : callable, optional
        Called with (stage, done, total).
    journal : Journal, optional
        Where the solves go on from, and where every iteration is kept.
    """
    pair = None if features is None else FeaturePair(*features, memory=memory)
    given = candidates or (pair if sim is None else sim)
    assert given is not None
    base = _stored(given, memory) if plan.store_scores and candidates is None else given
    before = _best_matches(base, progress)
    weights = _query_weights(base if features is None else features[0], before, settings, memory)

    choices = None
    if settings.emcl is not None:
        choices = strength_candidates(
            base, sim, pair, settings.emcl, weights, before, normalised=settings.normalises
        )
    search = search_strengths(base, choices, before, weights)
    run = _Run(
        base=base,
        before=before,
        search=search,
        folds=stratified_folds(before, weights),
        settings=settings,
        solving=Solving(weights, memory, progress, journal),
    )
    trial = run.trial()
    gains = run.gains(trial)
    amount = run.amount(trial, gains[1])
    applied = run.apply(trial, gains, amount)
    shares = before.mutual_share(), applied.matches.mutual_share()
    decision = decide(gains[1], amount, *shares, enabled=settings.guard)
    if trial.nothing:
        decision = replace(decision, reason=_why_nothing(trial))

    return Correction(
        base=base,
        source=applied.source if decision.applied else base,
        score_std=search.spread.std,
        emcl=None if choices is None else choices.report(search, trial.strength),
        subspaces=None if choices is None else choices.subspaces,
        probes=trial.probes,
        biases=applied.biases,
        prior=applied.prior,
        weights=weights,
        guard=decision,
        before=before,
        after=applied.matches if decision.applied else before,
        coverage=_coverage(trial.source, applied.biases),
    )


@dataclass(frozen=True)
class _StrengthRun:
    """Scores at one proposed strength of EMCL; with NCL also its gentle runs.

    ``partners`` marks the texts with a mutual partner within their part, (n_text,) bool.
    """

    strength: float
    source: Similarity
    std: float
    probes: Probes | None
    matches: Nearest
    partners: torch.Tensor

    @property
    def nothing(self) -> bool:
        """True if neither EMCL nor NCL changes a score, or EMCL leaves all of them equal."""
        return self.probes is None and (self.strength == 0 or self.std == 0)


@dataclass(frozen=True)
class _Applied:
    """Corrected scores, their best matches, and the biases and the prior behind them."""

    source: Similarity
    matches: Nearest
    biases: Biases | None
    prior: Prior | None


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The steps from the proposed strengths of EMCL to the corrected scores."""

    base: Similarity
    before: Nearest
    search: StrengthSearch
    folds: Folds
    settings: Settings
    solving: Solving

    @property
    def ncl(self) -> NCL | None:
        """NCL's settings, or None where it does not run.

        Without the guard it runs on any scores, and raises where it cannot.
        """
        possible = min(self.base.shape) >= 2 and self.search.std > 0
        runs = self.settings.normalises and (possible or not self.settings.guard)
        return self.settings.ncl if runs else None

    def trial(self) -> _StrengthRun:
        """Apply EMCL, then NCL's gentle and leave-best-out runs."""
        search, strength = self.search, self.search.best
        source = corrected = search.changed.get(strength, self.base)
        matches, probes, ncl = search.matches[strength], None, self.ncl
        if ncl is not None:
            probes = probe(source, ncl, matches, search.std, self.solving)
            corrected = probes.gentle.apply(source)
            matches = nearest(corrected)
        partners = self.folds.partners(corrected, matches)
        return _StrengthRun(strength, source, search.std, probes, matches, partners)

    def gains(self, trial: _StrengthRun) -> tuple[Evidence, Evidence]:
        """Return the evidence of the gentle and of the leave-best-out run."""
        partners = self.folds.partners(self.base, self.before)
        gain = self.folds.weigh(partners, trial.partners)
        if trial.probes is None:
            return gain, gain
        left_out = trial.probes.leave_best_out.apply(trial.source)
        found = self.folds.partners(left_out, nearest(left_out))
        return gain, self.folds.weigh(partners, found)

    def amount(self, trial: _StrengthRun, evidence: Evidence) -> float:
        """Return how much of the correction to apply, in [0, 1]."""
        if trial.nothing:
            return 0.0
        if not self.settings.guard:
            return 1.0
        if trial.probes is not None:
            return evidence.strength
        # EMCL alone changes few matches, and every better one is welcome
        return float(trial.matches.mutual_share() > self.before.mutual_share())

    def apply(
        self, trial: _StrengthRun, gains: tuple[Evidence, Evidence], amount: float
    ) -> _Applied:
        """Run NCL with the prior that the queries bear out, and scale its biases."""
        ncl, probes = self.ncl, trial.probes
        if ncl is None or probes is None or amount == 0:
            biases = None if probes is None else probes.gentle
            return _Applied(trial.source, trial.matches, biases, None)
        found = Found(*gains, self.search.matches[trial.strength], trial.matches)
        biases, prior = earned_biases(
            trial.source, ncl, probes, found, self.settings.prior, trial.std, self.solving
        )
        biases = biases.scaled(amount)
        source = biases.apply(trial.source)
        return _Applied(source, nearest(source), biases, prior)


def _query_weights(
    vectors: Similarity | Features, before: Nearest, settings: Settings, memory: int
) -> torch.Tensor | None:
    """Return how many queries each text counts as; None if each counts as one."""
    ncl = settings.ncl
    if ncl is None or ncl.text_marginal is not None or settings.prior not in ("auto", "gentle"):
        return None
    return duplicate_weights(vectors, before.video_of_text, memory=memory)


def _stored(base: Similarity, memory: int) -> Similarity:
    """Return this process's scores in memory, or the source where they do not fit on the GPU."""
    group, dtype, device = base.group, base.dtype, base.device
    scores = base.storing(base.dense)
    if scores is None:
        return base
    if group.size == 1:
        return Dense(scores, dtype=dtype, device=device, memory=memory)
    return Shard(scores, base.shape, group, dtype=dtype, device=device, memory=memory, of=base)


def _coverage(source: Similarity, biases: Biases | None) -> RecallEstimate | None:
    if not isinstance(source, Candidates):
        return None
    if biases is None:
        return estimate_recall(source, None, 1.0)
    return estimate_recall(source, biases.video, biases.temperature)


def _best_matches(base: Similarity, progress: Progress | None) -> Nearest:
    """Return the input's best matches; the same pass checks that all scores are finite."""
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


def _why_nothing(trial: _StrengthRun) -> str:
    shape = trial.source.shape
    reason = "nothing was switched on"
    if trial.std == 0:
        reason = f"all scores are equal{' after EMCL' if trial.strength else ''}"
    elif min(shape) < 2:
        reason = f"{shape[0]} x {shape[1]} scores are too few to normalise"
    return f"{reason}, the input is returned unchanged"
