"""The paired test and the interval against SciPy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from emcl_plugin.errors import InputValueError
from emcl_plugin.evaluation.significance import compare


def test_for_hits_it_is_the_exact_sign_test():
    rng = np.random.default_rng(0)
    before, after = (100.0 * (rng.random(300) < p) for p in (0.4, 0.5))
    won, lost = int((after > before).sum()), int((after < before).sum())
    found = compare(before, after)
    assert_allclose(found.p_value, stats.binomtest(won, won + lost).pvalue, rtol=1e-12)
    assert_allclose(found.gain, (won - lost) / 3, rtol=1e-12)
    assert found.changed == won + lost


def test_for_ranks_it_is_close_to_scipys_paired_test():
    rng = np.random.default_rng(1)
    before = rng.exponential(10, 400)
    after = before + rng.normal(-0.5, 5, 400)
    found = compare(before, after)
    assert_allclose(found.p_value, stats.ttest_rel(after, before).pvalue, atol=0.02)
    half = 1.96 * (after - before).std() / 20
    assert_allclose([found.low, found.high], [found.gain - half, found.gain + half], atol=0.06)


@pytest.mark.slow
def test_under_chance_alone_it_is_rarely_significant():
    """5 % of the time, within what 300 draws can tell."""
    rng = np.random.default_rng(2)
    hits = [
        compare(*(100.0 * (rng.random(200) < 0.5) for _ in range(2))).significant
        for _ in range(300)
    ]
    assert 0.01 < np.mean(hits) < 0.08


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(100):
        found = compare(np.zeros(150), rng.normal(1.0, 3.0, 150))
        covered += found.low <= 1.0 <= found.high
    assert 88 <= covered <= 100


def test_a_set_too_small_is_said():
    before, after = np.zeros(20), np.zeros(20)
    after[3] = 100
    found = compare(before, after)
    assert found.too_small
    assert found.detectable > found.gain


def test_no_change_is_no_gain():
    found = compare(np.ones(5), np.ones(5))
    assert (found.gain, found.p_value, found.changed, found.too_small) == (0, 1, 0, False)


def test_the_same_gain_for_all_is_sure():
    found = compare(np.zeros(9), np.full(9, 2.0))
    assert (found.low, found.gain, found.high, found.changed) == (2, 2, 2, 9)
    assert_allclose(found.p_value, 2 / 2**9)


def test_the_same_numbers_come_out_each_time():
    rng = np.random.default_rng(4)
    pair = rng.random(50), rng.random(50)
    assert compare(*pair) == compare(*pair)


def test_other_queries_cannot_be_compared():
    with pytest.raises(InputValueError, match="same queries"):
        compare(np.ones(3), np.ones(4))
