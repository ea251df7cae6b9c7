"""Slow, obvious reference implementations and synthetic data, for the tests only.

Everything is written from the formulas in plain NumPy, float64, loops where loops are clearer.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

# --- data --------------------------------------------------------------------------------


def unit(x):
    """Rows at length 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cone_pair(n_text, n_video, dimension, seed, *, cone=1.5, noise=1.0):
    """Text and video unit vectors as encoders make them: two overlapping cones, hubs, pairs.

    Text i describes video i modulo n_video. ``cone`` is the length of what all items share.
    """
    rng = np.random.default_rng(seed)
    shared, gap = cone * rng.standard_normal((2, dimension))
    video = rng.standard_normal((n_video, dimension))
    text = video[np.arange(n_text) % n_video] + noise * rng.standard_normal((n_text, dimension))
    return unit(text + shared), unit(video + 0.7 * shared + 0.5 * gap)


def hubby_scores(n_text, n_video, seed, *, mean=0.3, std=0.05):
    """Gaussian scores with popular videos, and without one right answer per text."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n_text, n_video)) + rng.standard_normal(n_video)
    return mean + std * scores / scores.std()


# --- EMCL --------------------------------------------------------------------------------


def plain_em(X, bases, rounds, sigma):
    """EM on the rows X (b x D) from first bases M (b x K): the last M and Z (D x K)."""
    M = bases
    for _ in range(rounds):
        Z = softmax(X.T @ M / sigma, axis=1)
        Z = Z / (1e-6 + Z.sum(axis=0))
        M = X @ Z
        M = M / (1e-6 + np.linalg.norm(M, axis=0))
    return M, Z


def plain_em_loop(X, signs, K, T, sigma, beta, renormalize):
    """The released loop: one row of K signs repeated for all b samples, X' = X + beta M Z^T."""
    bases = np.tile(np.asarray(signs, float).reshape(1, K), (len(X), 1))
    M, Z = plain_em(X, bases, T, sigma)
    out = X + beta * M @ Z.T
    return unit(out) if renormalize else out


# --- NCL ---------------------------------------------------------------------------------


def plain_sinkhorn(S, tau, rounds, rho=1.0, a=None, b=None):
    """f and g (without unit) after so many rounds: f from g = 0, then g and f by turns."""
    n_text, n_video = S.shape
    a = np.ones(n_text) if a is None else np.asarray(a, float)
    b = np.ones(n_video) if b is None else np.asarray(b, float)
    b = b * a.sum() / b.sum()
    g = np.zeros(n_video)
    f = rho * (np.log(a) - logsumexp(S / tau + g, axis=1))
    for _ in range(rounds):
        g = rho * (np.log(b) - logsumexp(S / tau + f[:, None], axis=0))
        f = rho * (np.log(a) - logsumexp(S / tau + g, axis=1))
    return f, g


# --- agreement and ranks -----------------------------------------------------------------


def plain_mutual_share(S):
    """Mutual nearest neighbours by looking at every pair; equal bests are all best.

    Counted on the side with fewer of them, as a share of the smaller side.
    """
    n_text, n_video = S.shape
    texts, videos = set(), set()
    for i in range(n_text):
        for j in range(n_video):
            if S[i, j] == S[i].max() and S[i, j] == S[:, j].max():
                texts.add(i)
                videos.add(j)
    return min(len(texts), len(videos)) / min(n_text, n_video)


def plain_ranks(S, truth):
    """Rank of text i's video truth[i], and of each video's best right text; wrong ties are half."""
    n_text, n_video = S.shape
    text_ranks = np.empty(n_text)
    for i in range(n_text):
        wrong = [S[i, j] for j in range(n_video) if j != truth[i]]
        text_ranks[i] = 1 + sum((x > S[i, truth[i]]) + (x == S[i, truth[i]]) / 2 for x in wrong)
    video_ranks = np.full(n_video, np.nan)
    for j in range(n_video):
        right = [S[i, j] for i in range(n_text) if truth[i] == j]
        wrong = [S[i, j] for i in range(n_text) if truth[i] != j]
        if right:
            video_ranks[j] = 1 + sum((x > max(right)) + (x == max(right)) / 2 for x in wrong)
    return text_ranks, video_ranks
