"""Slow, obvious reference implementations and synthetic data, for the tests only.

Everything is written from the formulas in plain NumPy, float64, loops where loops are clearer.
"""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
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


class Queries(NamedTuple):
    """Texts whose videos are known, with the videos that are hubs and those that are popular."""

    text: np.ndarray
    video: np.ndarray
    scores: np.ndarray
    owner: np.ndarray
    hubs: np.ndarray
    popular: np.ndarray


def queries(
    seed, how="", *, n_video=400, hubs=20, lean=1.5, popular=0, times=12, asked=1.0, noise=1.2
):
    """Noisy copies of Gaussian videos: ``popular`` ones ``times`` each, of the others a share.

    Hubs are made in three ways. "direction": all texts lean the way the hubs lie, "offset": the
    hubs' scores are raised, "spread": they are raised by another amount with every text.
    """
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((n_video, 64))
    hub, liked, rest = np.split(rng.permutation(n_video), [hubs, hubs + popular])
    others = np.concatenate([hub, rest])
    alone = rng.choice(others, round(asked * len(others)), replace=False)
    owner = np.concatenate([np.repeat(liked, times), alone])
    text = video[owner] + noise * rng.standard_normal((len(owner), 64))
    if how == "direction":
        shared = rng.standard_normal(64)
        text += shared
        video[hub] += lean * shared
    scores = unit(text) @ unit(video).T
    if how == "offset":
        scores[:, hub] += 0.12 * lean
    if how == "spread":
        scores[:, hub] += 0.15 * lean * np.abs(rng.standard_normal((len(text), hubs)))
    return Queries(text, video, scores, owner, hub, liked)


class Banked(NamedTuple):
    """Queries, their gallery, and a bank of other pairs of the same kind, as unit vectors."""

    queries: np.ndarray
    gallery: np.ndarray
    bank: np.ndarray
    gallery_bank: np.ndarray


def banked(seed, n_gallery=120, n_bank=180, dimension=24, **cone):
    """Query i belongs to gallery item i, bank query i to item i of the gallery bank."""
    n = n_gallery + n_bank
    text, video = cone_pair(n, n, dimension, seed, **cone)
    return Banked(text[:n_gallery], video[:n_gallery], text[n_gallery:], video[n_gallery:])


# --- EMCL --------------------------------------------------------------------------------


def plain_em(X, bases, iterations, sigma):
    """EM on the rows X (b x D) from first bases M (b x K): the last M and Z (D x K)."""
    M = bases
    for _ in range(iterations):
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


def plain_sinkhorn(S, tau, iterations, rho=1.0, a=None, b=None, *, w=None, own=None, start=None):
    """f and g (without unit) after so many iterations: f from the first g, then g and f by turns.

    Text i counts w_i times in the columns' sums, without its score with video own_i; at least
    a 1e-5 of every sum is kept.
    """
    n_text, n_video = S.shape
    a = np.ones(n_text) if a is None else np.asarray(a, float)
    b = np.ones(n_video) if b is None else np.asarray(b, float)
    w = np.ones(n_text) if w is None else np.asarray(w, float)
    b = b * (a * w).sum() / b.sum()
    whole = S / tau + np.log(w)[:, None]
    left = whole.copy()
    if own is not None:
        left[np.arange(n_text), own] = -np.inf
    g = np.zeros(n_video) if start is None else np.asarray(start, float)
    f = rho * (np.log(a) - logsumexp(S / tau + g, axis=1))
    for _ in range(iterations):
        columns = logsumexp(left + f[:, None], axis=0)
        columns = np.maximum(columns, logsumexp(whole + f[:, None], axis=0) + np.log(1e-5))
        g = rho * (np.log(b) - columns)
        f = rho * (np.log(a) - logsumexp(S / tau + g, axis=1))
    return f, g


def plain_ncl(S, tau, tolerance=0.1, *, start=None, **settings):
    """f, g with mean 0, once another round changes no exp(g) by more than the tolerance."""
    f, g = plain_sinkhorn(S, tau, 1, start=start, **settings)
    while True:
        next_f, next_g = plain_sinkhorn(S, tau, 1, start=g, **settings)
        if np.abs(np.expm1(g - next_g)).max() <= tolerance:
            return f + g.mean(), g - g.mean()
        f, g = next_f, next_g


def plain_masses(S, tau, g, w=None):
    """How much of the texts, each of its weight, the biases g give every video."""
    w = np.ones(len(S)) if w is None else w
    return w @ softmax(S / tau + g, axis=1)


# --- the prior ---------------------------------------------------------------------------


def plain_weights(x, best, near=0.01):
    """As how many texts each row of x counts, by a look at every pair.

    In the mean squared distance the texts of one best video count as one together.
    """
    n = len(x)
    squares = [[((x[i] - x[k]) ** 2).sum() for k in range(n)] for i in range(n)]
    share = np.array([1 / list(best).count(best[i]) for i in range(n)]) / len(set(map(int, best)))
    mean = share @ np.array(squares) @ share
    return np.array(
        [
            1 / sum(np.exp(-squares[i][k] / mean / near) for k in range(n) if best[k] == best[i])
            for i in range(n)
        ]
    )


def plain_ramp(x, low, high):
    return float(np.clip((x - low) / (high - low), 0, 1))


def plain_companions(S, w):
    """How many other queries a query meets on its best video; its copies count as itself."""
    best = S.argmax(1)
    return max(0, np.average([w[best == j].sum() - 1 for j in best], weights=w))


def plain_agreement(S, w):
    """Queries and videos in mutual pairs, as a share of the smaller side."""
    texts, videos = plain_mutual(S)
    return min(1.0, min(w[texts].sum(), videos.sum()) / min(w.sum(), S.shape[1]))


def plain_prior(S, w=None, *, gentle, evidence, ramps):
    """The corrected scores, their strength, h, u and the relaxation, from scores alone.

    Everything that the default does with a similarity, in one place. ``gentle`` is the
    temperature, in standard deviations, and the relaxation of the first two runs; the others are
    the ends of the ramps, by the quantity that they are of.
    """
    n_text, n_video = S.shape
    w = np.ones(n_text) if w is None else w
    mean = np.average(S.mean(1), weights=w)
    std = np.sqrt(np.average(((S - mean) ** 2).mean(1), weights=w))
    gentle_tau, tau = gentle[0] * std, 0.15 * std

    part, count = plain_folds(S, w)

    def changed(f, g):
        was, now = (plain_partners(X, part, w) for X in (S, S + gentle_tau * (f[:, None] + g)))
        return tuple(w @ np.maximum(side, 0) / count for side in (now - was, was - now))

    settings = {"rho": gentle[1], "w": w}
    f, g = plain_ncl(S, gentle_tau, **settings)
    without_f, without_g = plain_ncl(S, gentle_tau, start=g, own=S.argmax(1), **settings)
    gained, lost = changed(without_f, without_g)
    net = max(0, gained - lost), max(0, np.subtract(*changed(f, g)))
    z = (gained - lost) / np.sqrt(gained + lost) if gained + lost else 0.0
    strength = plain_ramp(z, *evidence)

    after = S + gentle_tau * (f[:, None] + g)
    b = np.full(n_video, w.sum() / n_video)
    g, without_g = (x * gentle_tau / tau for x in (g, without_g))
    m, c = (plain_masses(S, tau, x, w) for x in (g, without_g))
    r, e, a = w.sum() / n_video, np.minimum(m, b).sum() / b.sum(), plain_agreement(after, w)
    q = net[0] / net[1] if net[0] < net[1] else 1.0
    met = plain_companions(S, w)
    k = plain_companions(after, w) ** 2 / met if met else 0.0
    shared, A = plain_ramp(r, *ramps["several"]), plain_agreement(S, w)
    alone = (1 - shared) * (1 - plain_ramp(k, *ramps["k"]))
    alone += shared * (1 - plain_ramp(A, *ramps["weak"]))
    h = plain_ramp(q, *ramps["q"]) * plain_ramp(r, *ramps["few"]) * alone
    u = plain_ramp(e, *ramps["e"]) / 2 + plain_ramp(e - 0.35 - 0.65 * a, *ramps["shortfall"]) / 2
    rho = 1 - A * (1 - min(1, r**-0.5)) / 2
    hubs = u * b + (1 - u) * m
    f, hub_g = plain_ncl(S, tau, b=hubs, w=w, start=g)
    if h < 1:
        start = h * g + (1 - h) * without_g
        hub_g = plain_ncl(S, tau, b=h * hubs + (1 - h) * c, w=w, start=start)[1]
    return S + strength * tau * (rho * f[:, None] + hub_g), strength, h, u, rho


# --- bank mode ---------------------------------------------------------------------------


def plain_ends(x, group, quantiles=(0.01, 0.05), fewest=50, kept=None):
    """Where the gate of known items begins and ends to open; None where too few compare."""
    nearest = []
    kept = range(len(x)) if kept is None else kept
    for i in range(len(x)):
        others = [float(x[i] @ x[k]) for k in kept if group[k] != group[i]]
        if others:
            nearest.append(max(others))
    if len(nearest) < fewest:
        return None
    low, high = np.quantile(nearest, quantiles)
    return low, max(high, low + 1e-6)


def plain_plane(other, most=16):
    """The leading directions of the other side's unit vectors, by a singular value decomposition"""
    p = min(most, other.shape[1] // 4, len(other))
    return np.linalg.svd(other, full_matrices=False)[2][:p].T


def plain_within(x, plane):
    """Percentiles of the cosines of unit vectors to a plane."""
    return np.quantile([np.sqrt(sum((y @ p) ** 2 for p in plane.T)) for y in x], (0.01, 0.5, 0.99))


def plain_gate(known, ends, x, plane=None, within=None):
    """How far each of the unit vectors x is let through."""
    if ends is None:
        return np.ones(len(x))
    out = []
    for y in x:
        nearest = max(float(known[k] @ y) for k in range(len(known)))
        s = [(nearest - ends[0]) / (ends[1] - ends[0])]
        if plane is not None and plane.shape[1]:
            towards = np.sqrt(sum((y @ p) ** 2 for p in plane.T))
            least, middle, most = within
            below, above = max(middle - least, 1e-6), max(most - middle, 1e-6)
            s += [1 - (least - towards) / below, 1 - (towards - most) / above]
        out.append(min(1, max(0, min(s))))
    return np.array(out)


def plain_map(x, basis, change, *, renormalize, floor=1e-2):
    """EMCL's map of the rows of x: direction k becomes 1 + change_k times as long."""
    out = x @ (np.eye(x.shape[1]) + (basis * change) @ basis.T)
    if not renormalize:
        return out
    length, was = np.linalg.norm(out, axis=1), np.linalg.norm(x, axis=1)
    return out / np.maximum(length, floor * was)[:, None]


def plain_spread(S, w):
    """Standard deviation of scores whose rows count w times."""
    mean = np.average(S.mean(1), weights=w)
    return np.sqrt(np.average(((S - mean) ** 2).mean(1), weights=w))


def plain_column_biases(S, f, tau, rho, w):
    """tau g from f: half a round of NCL, up to a constant (all in the units of the scores)."""
    return -rho * tau * logsumexp((S + f[:, None]) / tau + np.log(w)[:, None], axis=0)


def plain_bank_biases(S, w, size, *, std=0.4, rho=0.8):
    """The biases that bank queries give the first ``size`` columns, with mean 0, and their f.

    NCL over all columns to its tolerance, then one more half round for those that stay.
    """
    tau = std * plain_spread(S, w)
    f = tau * plain_ncl(S, tau, rho=rho, w=w)[0]
    g = plain_column_biases(S[:, :size], f, tau, rho, w)
    return g - g.mean(), f, tau


def plain_reliability(S, w, size, tau, rho, *, by=None):
    """Agreement of two halves, every other query by its best score, on the whole's length.

    Copies are in one half together. ``by`` are the scores to sort by, where they are others.
    """
    by = S if by is None else by
    halves = [[], []]
    last, turn = (-np.inf, -1), 1
    for i in sorted(range(len(S)), key=lambda i: by[i].max()):
        this = (by[i].max(), int(by[i].argmax()))
        if this[1] != last[1] or this[0] - last[0] > 1e-12:  # no copy of the last one
            turn = 1 - turn
        last = this
        halves[turn].append(i)
    g = [plain_ncl(S[half], tau, rho=rho, w=w[half])[1][:size] for half in halves]
    r = np.corrcoef(g)[0, 1]
    return 2 * r / (1 + r) if r > 0 else 0.0


# --- agreement and ranks -----------------------------------------------------------------


def tied_scores(shape, seed):
    """Scores from a few values, as coarse quantisation makes them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, rng.integers(2, 40), shape) / 64


def plain_mutual(S):
    """Which texts and which videos are in a mutual pair, by looking at every pair.

    Equal bests are all best.
    """
    n_text, n_video = S.shape
    texts, videos = np.zeros(n_text, bool), np.zeros(n_video, bool)
    for i in range(n_text):
        for j in range(n_video):
            if S[i, j] == S[i].max() and S[i, j] == S[:, j].max():
                texts[i] = videos[j] = True
    return texts, videos


def plain_folds(S, w):
    """The part of every text and how many there are: dealt by the best scores, copies together."""
    count = max(1, round(round(w.sum(), 6) / S.shape[1]))
    part, place = np.empty(len(S), dtype=int), 0.0
    for i in sorted(range(len(S)), key=lambda i: S[i].max()):
        part[i] = int(place + w[i] / 2) % count
        place += w[i]
    return part, count


def plain_partners(S, part, w=None, *, shared=True):
    """How far each text is in a mutual pair within its part; texts that tie share a video."""
    w = np.ones(len(S)) if w is None else w
    out = np.zeros(len(S))
    for k in set(part):
        own = np.flatnonzero(part == k)
        for j in range(S.shape[1]):
            level = own[S[own, j] == S[own, j].max()]
            crowd = max(1, sum(w[level])) if shared else 1
            for i in level:
                if S[i, j] == S[i].max():
                    out[i] = max(out[i], 1 / crowd)
    return out


def plain_mutual_share(S):
    """Counted on the side with fewer of them, as a share of the smaller side."""
    return min(side.sum() for side in plain_mutual(S)) / min(S.shape)


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


def asked_often(seed=0, items=200, dimension=8):
    """Items asked up to 20 times whose scores rightly say so: what NCL takes away is right."""
    rng = np.random.default_rng(seed)
    times = np.minimum(np.ceil(rng.pareto(1.0, items) + 0.01), 20).astype(int)
    owner = np.repeat(np.arange(items), times)
    item = rng.standard_normal((items, dimension))
    query = item[owner] + rng.standard_normal((len(owner), dimension))
    # the log of the item's probability, given the query, but for a constant of the query
    sides = (np.c_[query, np.ones(len(query))], np.c_[item, np.log(times) - (item**2).sum(1) / 2])
    return *(side.astype("f4") for side in sides), owner


# --- retrievers --------------------------------------------------------------------------


def plain_mixture(text, video, text_weights, video_weights):
    """MMT's score, pair by pair: weights of the experts that both have, brought to a sum of 1."""
    out = np.zeros((len(text_weights), len(video_weights)))
    for i, a in enumerate(text_weights):
        for j, b in enumerate(video_weights):
            shared = np.asarray(a, float) * np.asarray(b, float)
            if shared.sum() > 0:
                for name, w in zip(text, shared / shared.sum(), strict=True):
                    out[i, j] += w * (text[name][i].astype(float) @ video[name][j].astype(float))
    return out


def plain_interaction(text, video, text_mask, video_mask, text_weights=None, video_weights=None):
    """DRL's weighted token-wise interaction, pair by pair; padding takes part in the maxima."""

    def weights(given, mask):
        raw = np.zeros(mask.shape) if given is None else np.asarray(given, float)
        return softmax(np.where(mask != 0, raw, -np.inf), axis=1)

    def tokens(x, mask):
        x = x.astype(float) / np.linalg.norm(x.astype(float), axis=2, keepdims=True)
        return np.where(mask[:, :, None] != 0, x, 0)

    words, frames = tokens(text, text_mask), tokens(video, video_mask)
    a, b = weights(text_weights, text_mask), weights(video_weights, video_mask)
    out = np.empty((len(text), len(video)))
    for i in range(len(text)):
        for j in range(len(video)):
            products = words[i] @ frames[j].T
            out[i, j] = (a[i] @ products.max(1) + b[j] @ products.max(0)) / 2
    return out


# --- memory ------------------------------------------------------------------------------


def extra_memory(setup, work):
    """Bytes by which ``work`` raises the peak memory of a new process that has done ``setup``."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak of a process is read from /proc")
    peak = "lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    forget = "open('/proc/self/clear_refs', 'w').write('5')"  # what the setup's peak was
    code = f"import re\npeak = {peak}\n{setup}\n{forget}\nbefore = peak()\n{work}\n"
    code += "print(peak() - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout) * 1024
