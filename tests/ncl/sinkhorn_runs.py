"""Runs of NCL on plain arrays, for the tests of this room."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from emcl_plugin.errors import ConvergenceWarning
from emcl_plugin.ncl import NCL, fit_biases
from emcl_plugin.scores import Dense

F32, F64 = torch.float32, torch.float64


def centred(x):
    return x - x.mean()


def fit(scores, *, dtype=F64, memory=None, **settings):
    return fit_biases(Dense(scores, dtype=dtype, memory=memory), NCL(**settings))


def fit_rounds(scores, iterations, *, dtype=F64, **settings):
    """Exactly so many iterations; that they do not reach a tolerance of 0 is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = fit(scores, dtype=dtype, iterations=iterations, tolerance=0.0, **settings)
    assert found.iterations == iterations or found.error == 0
    return found


def total(found):
    """tau (f_i + g_j), float64."""
    return (found.text.double()[:, None] + found.video.double()).numpy()


def plan(scores, found):
    return np.exp((scores + total(found)) / found.temperature)


def random_marginals(n_text, n_video, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(n_text) + 0.2, rng.random(n_video) + 0.2
