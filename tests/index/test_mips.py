"""MIPS reductions rank as the inner product does, on any vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from emcl_plugin.errors import InputValueError
from emcl_plugin.index.mips import items_in, lengths, queries_in, scores_in


@st.composite
def problems(draw):
    """Items and queries of any lengths, some zero, and room above the longest item."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    size = 10.0 ** draw(st.integers(-3, 3))
    spread = draw(st.sampled_from([0.0, 0.1, 3.0]))
    x = size * rng.standard_normal((n, d)) * np.exp(spread * rng.standard_normal((n, 1)))
    q = rng.standard_normal((8, d)) * 10.0 ** draw(st.integers(-2, 2))
    if draw(st.booleans()):
        x[rng.integers(n)] = 0
    return x.astype(np.float32), q.astype(np.float32), draw(st.sampled_from([1.0, 1.2, 5.0]))


@given(problem=problems())
def test_constructions_rank_by_the_inner_product(problem):
    x, q, room = problem
    phi = room * float(lengths(x).max()) or 1.0
    truth = q.astype(np.float64) @ x.T.astype(np.float64)
    bound = 2e-6 * (phi**2 + lengths(q)[:, None] ** 2)
    best = -np.sort(-truth, axis=1)

    items, asked = items_in("l2", x, phi=phi), queries_in("l2", q)
    assert_allclose(lengths(items), phi, rtol=1e-6)
    distances = np.square(asked[:, None].astype(np.float64) - items).sum(2)
    order = distances.argsort(1)
    assert (np.abs(np.take_along_axis(truth, order, 1) - best) <= bound).all()
    assert (np.abs(scores_in("l2", distances, q, phi) - truth) <= bound).all()

    items, asked = items_in("cosine", x, phi=phi), queries_in("cosine", q)
    assert_allclose(lengths(items), 1, rtol=1e-6)
    assert_allclose(lengths(asked), 1, rtol=1e-6)
    cosines = asked.astype(np.float64) @ items.T.astype(np.float64)
    order = (-cosines).argsort(1)
    bound = 2e-6 * phi * lengths(q)[:, None]
    assert (np.abs(np.take_along_axis(truth, order, 1) - best) <= bound).all()
    assert (np.abs(scores_in("cosine", cosines, q, phi) - truth) <= bound).all()


@given(problem=problems())
def test_inner_products_are_passed_on_as_they_are(problem):
    x, q, _ = problem
    assert_array_equal(items_in("ip", x), x)
    assert_array_equal(queries_in("ip", q), q)
    assert_array_equal(scores_in("ip", q @ x.T, q, 1.0), q @ x.T)


def test_nothing_but_zeros():
    zeros = np.zeros((2, 3), np.float32)
    assert_array_equal(items_in("l2", zeros), np.zeros((2, 4)))
    assert_array_equal(items_in("cosine", zeros), [[0, 0, 0, 1]] * 2)
    assert_array_equal(queries_in("cosine", zeros), np.zeros((2, 4)))


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_an_item_longer_than_phi_is_an_error(space):
    x = np.array([[1.0, 0], [0, 2.0]])
    with pytest.raises(InputValueError, match="longer than phi") as caught:
        items_in(space, x, phi=1.9)
    assert "item 1 of length 2" in caught.value.received
    items_in(space, x, phi=2 * (1 - 1e-7))  # rounding is none


@pytest.mark.parametrize("phi", [0.0, -1.0, np.nan, np.inf])
def test_phi_is_a_length(phi):
    with pytest.raises(InputValueError, match="phi is the length"):
        items_in("l2", np.ones((1, 2)), phi=phi)
