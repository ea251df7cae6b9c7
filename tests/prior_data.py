"""Data and settings of the tests of the prior."""

from __future__ import annotations

import numpy as np
import torch
from oracles import queries

from emcl_plugin import NCL, rescore
from emcl_plugin.evidence.guard import Evidence
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.evidence.prior import Found, Solving, probe
from emcl_plugin.scores import Dense

F64 = torch.float64
LARGE = 1 << 30
EXACT = NCL(tolerance=1e-9, iterations=50_000)
SOLVED = NCL(tolerance=1e-6, iterations=50_000)
HARD = {"n_video": 60, "popular": 6, "times": 3, "asked": 0.7, "noise": 2.0}


def centred(x, axis=None):
    return x - x.mean(axis, keepdims=True)


def random_weights(n, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1, n)


def small(seed, how="direction", **changes):
    """80 videos, of them 8 hubs and 8 popular ones, and half of the others asked for."""
    settings = {"n_video": 80, "hubs": 8, "popular": 8, "times": 5, "asked": 0.5, **changes}
    return queries(seed, how, **settings)


def found(source, probes, gains):
    """What the two runs found, but for their gains, which are given."""
    after = nearest(probes.gentle.apply(source))
    return Found(*(Evidence(float(gain), 0.0) for gain in gains), nearest(source), after)


def context(scores, w=None, config=EXACT):
    """The two runs, and what is asked of `earned_biases`: source, settings, rest."""
    source = Dense(scores, dtype=F64)
    weights = None if w is None else torch.tensor(w)
    rest = float(scores.std()), Solving(weights, LARGE)
    probes = probe(source, config, nearest(source), *rest)
    return probes, source, rest


def r1(scores, q):
    return 100 * (scores.argmax(1) == q.owner).mean()


def gains(q):
    """Points of R@1 of the default and of plain NCL over the scores, and the default's result."""
    found = rescore(q.scores)
    even = rescore(q.scores, prior="even", guard=False)
    before = r1(q.scores, q)
    return r1(found.scores, q) - before, r1(even.scores, q) - before, found
