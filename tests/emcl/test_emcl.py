"""EMCL: the released loop exactly, a default that the data's size and order do not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import cone_pair, plain_em, plain_em_loop, unit

from emcl_plugin.emcl import EMCL, PRESETS, Reconstruction, Subspaces, fit_subspaces, second_moments
from emcl_plugin.errors import EmclError, InputValueError
from emcl_plugin.scores import Dense, FeaturePair, Features

F32, F64 = torch.float32, torch.float64
STRENGTHS = (-1.0, -0.6, -0.25, 0.0, 0.5, 1.0)


def fit(text, video, config, *, dtype=F64, metric="cosine", memory=None):
    common = {"dtype": dtype, "metric": metric, "memory": memory}
    sides = Features(text, **common), Features(video, **common)
    return fit_subspaces(second_moments(*sides, batch=config.batch), config)


def change(subspaces, strength=1.0):
    """The D x D matrix that the map adds to the identity."""
    basis = subspaces.basis
    return ((basis * subspaces.factors(strength)) @ basis.T).numpy()


def rows(kind, count, dimension, seed):
    rng = np.random.default_rng(seed)
    if kind == "cone":
        return np.concatenate(cone_pair(count // 2, count - count // 2, dimension, seed))
    if kind == "clusters":
        centres = rng.standard_normal((6, dimension))
        x = centres[rng.integers(0, 6, count)] + 0.5 * rng.standard_normal((count, dimension))
        return unit(x + 1.5 * rng.standard_normal(dimension))
    x = rng.standard_normal((count, dimension))
    return unit(x) if kind == "unit" else x


# --- the reference mode ------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 16), (64, 96), (200, 64)])
@pytest.mark.parametrize("kind", ["cone", "clusters", "unit", "gaussian"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_released_loop(preset, kind, size):
    """X' - X and X' to 1e-10 in float64 and 1e-5 in float32, of their largest entry."""
    for seed in range(3):
        X = rows(kind, *size, seed)
        k = PRESETS[preset].subspaces
        signs = np.where(np.random.default_rng(seed).random(k) < 0.5, -1, 1)
        config = replace(PRESETS[preset], signs=tuple(signs.tolist()))
        loop = (X, signs, k, config.iterations, config.sigma, config.beta)
        added = plain_em_loop(*loop, renormalize=False) - X
        wanted = plain_em_loop(*loop, renormalize=config.renormalize)
        for dtype, tolerance in ((F64, 1e-10), (F32, 1e-5)):
            subspaces = fit(*np.array_split(X, 2), config, dtype=dtype, metric="dot")
            s, x = subspaces.strength(config), torch.tensor(X, dtype=dtype)
            got = (subspaces.apply(x, s) - x).double().numpy()
            assert_allclose(got, added, rtol=0, atol=tolerance * abs(added).max())
            got = subspaces.apply(x, s, renormalize=config.renormalize)
            assert got.dtype == dtype
            assert_allclose(got.double(), wanted, rtol=0, atol=tolerance * abs(wanted).max())


@pytest.mark.parametrize("preset", PRESETS)
def test_signs_that_are_all_equal_are_the_released_loop_too(preset):
    """One distinct base instead of two: the same agreement with the loop, to 1e-10."""
    X, k = rows("cone", 60, 32, 5), PRESETS[preset].subspaces
    config = replace(PRESETS[preset], signs=(-1,) * k, renormalize=False)
    found = fit(*np.array_split(X, 2), config, metric="dot")
    added = (
        plain_em_loop(X, config.signs, k, config.iterations, config.sigma, config.beta, False) - X
    )
    got = X @ change(found, found.strength(config))
    assert_allclose(got, added, rtol=0, atol=1e-10 * abs(added).max())
    assert_allclose(found.effective_rank, 1, rtol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_released_start_finds_at_most_two_subspaces(preset):
    """Bases that start equal stay equal, whatever K is (for the seeded signs as well)."""
    for seed in range(5):
        text, video = cone_pair(40, 30, 24, seed)
        assert fit(text, video, replace(PRESETS[preset], seed=seed)).effective_rank <= 2 + 1e-12


# --- the default mode --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_default_mode_is_em_from_plus_and_minus_the_leading_directions(seed):
    """The plain loop on rows weighted to 128 samples, half of each side, gives the same map."""
    text, video = cone_pair(50, 30, 24, seed, cone=1.0)
    X = np.concatenate([text / np.sqrt(len(text)), video / np.sqrt(len(video))])
    X *= np.sqrt(128 / (X**2).sum())
    directions = np.linalg.eigh(X.T @ X)[1][:, ::-1][:, :16]
    bases = unit((X @ directions).T).T
    M, Z = plain_em(X, np.concatenate([bases, -bases], axis=1), EMCL().iterations, EMCL().sigma)
    wanted = np.linalg.pinv(X) @ M @ Z.T
    subspaces = fit(text, video, EMCL())
    got = change(subspaces, float(subspaces.eigenvalues[0]))
    assert_allclose(got, wanted, rtol=0, atol=1e-9 * abs(wanted).max())


SHUFFLE = np.random.default_rng(0).permutation
DISTURBANCES = {
    "order": SHUFFLE,
    "repetition": lambda x: np.repeat(x, 3, axis=0),
    "scale": lambda x: 3.7 * x,
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (F32, 1e-3)])
@pytest.mark.parametrize("start", ["eigen", "gaussian", "signs"])
@pytest.mark.parametrize("what", DISTURBANCES)
def test_the_map_does_not_depend_on(what, start, dtype, tolerance):
    """Order, number of copies and scale of the items leave the map alone, with either metric."""
    for seed, metric in ((0, "cosine"), (1, "dot")):
        text, video = cone_pair(60, 45, 32, seed)
        disturbed = DISTURBANCES[what](text), DISTURBANCES[what](video)
        config = EMCL(start=start)
        wanted = change(fit(text, video, config, dtype=dtype, metric=metric))
        got = change(fit(*disturbed, config, dtype=dtype, metric=metric))
        assert_allclose(got, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("memory", [1, 20_000, 100_000])
def test_the_map_does_not_depend_on_the_block_size(memory):
    """Read in blocks of one row or of some rows, the map is that of one block, to 1e-10."""
    text, video = cone_pair(60, 45, 32, 2)
    wanted = change(fit(text, video, EMCL()))
    assert_allclose(change(fit(text, video, EMCL(), memory=memory)), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("subspaces", [5, 32])
def test_the_map_follows_the_order_of_the_dimensions(subspaces):
    """Permuted dimensions permute it, also for an odd K, where an eigenvector's sign matters."""
    for seed in range(5):
        text, video = cone_pair(60, 45, 32, seed)
        order = np.random.default_rng(seed).permutation(32)
        wanted = change(fit(text, video, EMCL(subspaces=subspaces)))[order][:, order]
        got = change(fit(text[:, order], video[:, order], EMCL(subspaces=subspaces)))
        assert_allclose(got, wanted, rtol=0, atol=1e-10)


def test_both_sides_weigh_one_half():
    """Tripling the texts alone changes nothing; without a batch (as released) it does."""
    text, video = cone_pair(40, 40, 24, 3)
    many = np.repeat(text, 3, axis=0)
    wanted = change(fit(text, video, EMCL()))
    assert_allclose(change(fit(many, video, EMCL())), wanted, rtol=0, atol=1e-10)
    stacked = [change(fit(t, video, EMCL(batch=None))) for t in (text, many)]
    assert abs(stacked[0] - stacked[1]).max() > 1e-3


@pytest.mark.parametrize("memory", [1, 20_000, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)])
def test_weights_of_texts_are_how_often_they_come(dtype, tolerance, memory):
    """Whole weights give the moments of repeated rows, 1 / k with k copies those of one each."""
    text, video = cone_pair(40, 30, 24, 8)
    times = np.random.default_rng(0).integers(1, 5, 40)
    common = {"dtype": dtype, "memory": memory}
    sides = Features(text, **common), Features(video, **common)
    many = Features(np.repeat(text, times, axis=0), **common), sides[1]
    plain, counted = second_moments(*sides), torch.tensor(times, dtype=dtype)
    pairs = [
        (second_moments(*sides, weights=(counted,)), second_moments(*many)),
        (second_moments(*many, weights=(1 / counted.repeat_interleave(counted.long()),)), plain),
    ]
    for found, wanted in pairs:
        assert_allclose(found.gram, wanted.gram, rtol=0, atol=tolerance * 128)
        assert_allclose(found.total, wanted.total, rtol=0, atol=tolerance * 128)
    assert abs(pairs[0][0].gram - plain.gram).max() > 0.1


def test_the_released_moments_take_no_weights():
    """Without a batch all rows are stacked as they are."""
    sides = [Features(x, dtype=F64) for x in cone_pair(40, 30, 24, 8)]
    found = second_moments(*sides, batch=None, weights=(torch.rand(40, dtype=F64),))
    assert_array_equal(found.gram, second_moments(*sides, batch=None).gram)


def test_the_eigen_start_needs_no_seed():
    """The seed changes nothing."""
    text, video = cone_pair(40, 30, 24, 4)
    found = [fit(text, video, EMCL(seed=seed)) for seed in (0, 7)]
    assert_array_equal(found[0].basis, found[1].basis)
    assert_array_equal(found[0].eigenvalues, found[1].eigenvalues)


def test_the_gaussian_start_is_reproducible():
    """The same seed gives the same map, another seed another one."""
    text, video = cone_pair(40, 30, 24, 4)
    one, again, other = (
        change(fit(text, video, EMCL(start="gaussian", seed=seed))) for seed in (1, 1, 2)
    )
    assert_array_equal(one, again)
    assert abs(one - other).max() > 1e-6


@pytest.mark.parametrize("start", ["eigen", "gaussian"])
def test_distinct_bases_find_more_than_two_subspaces(start):
    """On clustered data, where the released start finds two, there are more."""
    x = rows("clusters", 120, 32, 0)
    settings = {"sigma": 0.05, "subspaces": 16}
    assert fit(x[:60], x[60:], EMCL(start="signs", **settings)).effective_rank <= 2 + 1e-12
    assert fit(x[:60], x[60:], EMCL(start=start, **settings)).effective_rank > 3


@pytest.mark.parametrize("cone", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("dimension", [6, 24, 64])
def test_what_is_found_is_an_orthonormal_basis_with_positive_eigenvalues(dimension, cone):
    """Largest first, to 1e-6; more bases than there are directions do no harm."""
    text, video = cone_pair(60, 40, dimension, 4, cone=cone)
    for config in (EMCL(), EMCL(subspaces=64), EMCL(sigma=2.0), EMCL.preset("emcl-net")):
        found = fit(text, video, config)
        rank = found.basis.shape[1]
        assert rank <= min(dimension, config.subspaces)
        assert_allclose(found.basis.T @ found.basis, np.eye(rank), rtol=0, atol=1e-6)
        values = found.eigenvalues.numpy()
        assert values.min() > 0
        assert_array_equal(values, np.sort(values)[::-1])


def test_all_zero_vectors_are_refused_in_words():
    """Without a single direction there is nothing to find: an error of ours, not LAPACK's."""
    with pytest.raises(EmclError):
        fit(np.zeros((5, 4)), np.zeros((3, 4)), EMCL(), metric="dot")


# --- the strength ------------------------------------------------------------------------


def test_strength_minus_one_removes_the_leading_direction():
    """The coordinate along basis[:, 0] becomes 0 to 1e-14."""
    text, video = cone_pair(40, 30, 24, 5)
    found, x = fit(text, video, EMCL()), torch.tensor(text)
    assert (x @ found.basis[:, 0]).abs().max() > 0.3
    assert_allclose(found.apply(x, -1.0) @ found.basis[:, 0], np.zeros(40), rtol=0, atol=1e-14)


def test_strength_zero_changes_nothing():
    """Bit for bit, of vectors and of scores."""
    text, video = cone_pair(40, 30, 24, 5)
    sides = Features(text, dtype=F64), Features(video, dtype=F64)
    found = fit_subspaces(second_moments(*sides), EMCL())
    assert_array_equal(found.apply(torch.tensor(text), 0.0), text)
    pair = FeaturePair(*sides)
    assert_array_equal(
        Reconstruction(*sides, found, renormalize=False).scores(pair, 0.0).dense(), pair.dense()
    )


def test_strength_is_beta_times_the_largest_eigenvalue():
    """A given beta becomes a strength; a given strength stays; with neither it is open."""
    found = fit(*cone_pair(40, 30, 24, 5), EMCL())
    top = float(np.linalg.eigvalsh(change(found, float(found.eigenvalues[0])))[-1])
    assert_allclose(found.strength(EMCL(beta=3.0)), 3 * top, rtol=1e-12)
    assert found.strength(EMCL(strength=-0.5)) == -0.5
    assert found.strength(EMCL()) is None


def explicit(text, video, subspaces, strength, renormalize):
    """Scores of the mapped vectors, (X (I + beta W)), by D x D products in float64."""
    mapped = np.eye(text.shape[1]) + change(subspaces, strength)
    text, video = text @ mapped, video @ mapped
    return unit(text) @ unit(video).T if renormalize else text @ video.T


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("cone", [0.5, 2.0, 10.0])
def test_reconstructed_scores_are_products_of_mapped_vectors(cone, renormalize, dtype, tolerance):
    """From rank-r projections the same scores as from whole vectors, for every strength."""
    for seed, shape in enumerate([(60, 40, 16), (100, 80, 32), (30, 50, 64)]):
        text, video = cone_pair(*shape, seed, cone=cone)
        sides = Features(text, dtype=dtype), Features(video, dtype=dtype)
        found = fit_subspaces(second_moments(*sides), EMCL())
        reconstruction = Reconstruction(*sides, found, renormalize=renormalize)
        for strength in STRENGTHS:
            got = reconstruction.scores(FeaturePair(*sides), strength).dense()
            wanted = explicit(text, video, found, strength, renormalize)
            assert got.dtype == dtype
            assert_allclose(got.double(), wanted, rtol=0, atol=tolerance)


def test_another_similarity_is_corrected_by_a_residual_in_its_scale():
    """S' = S + scale T (2 beta W + beta^2 W^2) V^T, to 1e-11 of scores up to 100."""
    text, video = cone_pair(40, 30, 24, 6)
    sim = np.random.default_rng(0).standard_normal((40, 30))
    sides = Features(text, dtype=F64), Features(video, dtype=F64)
    found = fit_subspaces(second_moments(*sides), EMCL())
    base = Dense(sim, dtype=F64)
    for strength in STRENGTHS:
        W = change(found, strength)
        wanted = sim + 100 * text @ (2 * W + W @ W) @ video.T
        got = Reconstruction(*sides, found, renormalize=False, scale=100.0).scores(base, strength)
        assert_allclose(got.dense(), wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_vector_that_is_removed_whole_is_not_blown_up(dtype):
    """An item along the leading direction scores about 0, instead of rounding noise of length 1."""
    text, video = cone_pair(40, 30, 24, 7)
    leading = torch.tensor(text[:1].T)
    found = Subspaces(basis=leading, eigenvalues=torch.ones(1, dtype=F64))
    sides = Features(text, dtype=dtype), Features(video, dtype=dtype)
    got = Reconstruction(*sides, found, renormalize=True).scores(FeaturePair(*sides), -1.0)
    assert_allclose(got.dense()[0], np.zeros(30), rtol=0, atol=1e-4)


# --- settings ----------------------------------------------------------------------------

WRONG_SETTINGS = [
    ({"subspaces": 0}, "subspaces must be at least 1", "subspaces=0", "leave it out for 32"),
    ({"iterations": -2}, "iterations must be at least 1", "iterations=-2", "leave it out for 9"),
    ({"sigma": 0.0}, "sigma must be positive", "sigma=0.0", "leave it out for 0.3"),
    ({"sigma": float("nan")}, "sigma must be positive", "sigma=nan", "leave it out for 0.3"),
    ({"sigma": float("inf")}, "sigma must be positive", "sigma=inf", "leave it out for 0.3"),
    ({"strength": float("nan")}, "strength must be finite", "strength=nan", "-1 to 1"),
    ({"beta": float("inf")}, "beta must be finite", "beta=inf", "-1 to 1"),
    ({"strength": 1.0, "beta": 2.0}, "not both", "strength=1.0, beta=2.0", "keep one"),
    ({"start": "random"}, "start is not known", "start='random'", "eigen, gaussian or signs"),
    ({"signs": (1, -1)}, "one +1 or -1 per subspace", "signs=(1, -1), subspaces=32", "pass the"),
    ({"subspaces": 2, "signs": (1, 0)}, "one +1 or -1 per subspace", "signs=(1, 0)", "leave it"),
    ({"batch": 0}, "batch must be at least 1", "batch=0", "leave it out for 128"),
    ({"strengths": (-1.0, 1.0)}, "must contain 0", "strengths=(-1.0, 1.0)", "add 0"),
]


@pytest.mark.parametrize(("settings", "problem", "received", "remedy"), WRONG_SETTINGS)
def test_a_wrong_setting_is_refused_in_three_parts(settings, problem, received, remedy):
    """The message says what is wrong, what came in and what to do."""
    with pytest.raises(InputValueError) as caught:
        EMCL(**settings)
    assert problem in caught.value.problem
    assert received in caught.value.received
    assert remedy in caught.value.remedy
    assert all(part in str(caught.value) for part in (problem, received, remedy))


def test_presets_are_the_published_settings():
    """K, T, sigma, beta and the output's length, of each release; all start from signs."""
    published = {
        "clip2video": (7, 10, 0.1, 4.0, False),
        "emcl-net": (32, 9, 1.0, 3.0, True),
        "mmt": (64, 5, 1.0, 3.0, True),
        "mmt-lsmdc": (16, 9, 1.0, 3.0, True),
    }
    assert set(PRESETS) == set(published)
    for name, values in published.items():
        p = EMCL.preset(name)
        assert (p.subspaces, p.iterations, p.sigma, p.beta, p.renormalize) == values
        assert (p.start, p.batch) == ("signs", None)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    """The message repeats the name and lists the presets."""
    with pytest.raises(InputValueError, match="no EMCL preset has this name") as caught:
        EMCL.preset("clip")
    assert "'clip'" in str(caught.value)
    assert all(name in caught.value.remedy for name in PRESETS)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 3), (torch.float64, 4)])
def test_directions_that_rounding_would_swallow_are_left_out(dtype, kept):
    """A change of a coordinate by less than an eighth of the rounding error changes nothing."""
    basis = torch.linalg.qr(torch.tensor(np.random.default_rng(0).standard_normal((6, 5)))).Q
    found = Subspaces(basis, torch.tensor([3.0, 0.2, 1e-7, 1e-9, 1e-17], dtype=torch.float64))
    cut = found.above_rounding(dtype)
    assert (len(cut.eigenvalues), cut.basis.shape) == (kept, (6, kept))
    x = torch.tensor(np.random.default_rng(1).standard_normal((40, 6)), dtype=dtype)
    assert_allclose(
        cut.apply(x, -1.0), found.apply(x, -1.0), rtol=0, atol=4 * torch.finfo(dtype).eps
    )
