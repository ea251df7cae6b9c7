"""What is tried, and what each candidate did per query."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import bank
from scipy import stats

from emcl_plugin import EMCL
from emcl_plugin.bank import BANK
from emcl_plugin.tune import NOTHING, tune
from emcl_plugin.tune.trials import DEFAULTS, NCLS, RHOS, TEMPERATURES, Trial, emcls, settings

WON, OTHER = NCLS[0], NCLS[1]
seeds = st.integers(0, 10_000)


# --- what is tried -----------------------------------------------------------------------


def test_nothing_the_defaults_and_a_grid_around_them_are_tried():
    first, second = tune(*bank(), cuts=1).parts
    assert [trial.candidate for trial in first] == [NOTHING, DEFAULTS, *NCLS]
    assert [trial.candidate for trial in second] == [NOTHING, DEFAULTS, *emcls(DEFAULTS)]
    assert (NOTHING.emcl, NOTHING.ncl, DEFAULTS.emcl, DEFAULTS.ncl) == (None, None, "auto", BANK)
    grid = {(c.ncl.temperature_std, c.ncl.rho) for c in (DEFAULTS, *NCLS)}
    assert grid == {(t, rho) for t in TEMPERATURES for rho in RHOS}
    assert len(NCLS) == len(grid) - 1
    assert {c.emcl for c in NCLS} == {"auto"}
    for part in (first, second):
        assert max(Counter(trial.candidate.name for trial in part).values()) == 1


def test_emcl_is_tried_with_the_ncl_that_stands_and_alone():
    found = emcls(WON)
    strengths = [c.emcl.strength for c in found if isinstance(c.emcl, EMCL)]
    assert min(strengths) < 0 < max(strengths)
    assert Counter((c.emcl is None, c.ncl) for c in found) == {
        (True, WON.ncl): 1, (False, WON.ncl): len(strengths), (False, None): 1,
    }  # fmt: skip


# --- numbers -----------------------------------------------------------------------------


def trial_of(candidate, cuts, n):
    """A trial of (queries, ranks) by cuts."""
    trial = Trial(candidate, np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64))
    for queries, ranks in cuts:
        trial.add(queries, ranks)
    return trial


@given(seeds, st.integers(1, 5), st.integers(4, 60))
def test_z_is_that_of_a_paired_test_over_queries(seed, cuts, n):
    """mean d / (std d / sqrt(n)); a query that was asked in several cuts counts once."""
    rng = np.random.default_rng(seed)
    asked = [rng.permutation(n)[: rng.integers(3, n + 1)] for _ in range(cuts)]
    ranks = [[rng.integers(1, 9, len(some)) / 1.0 for some in asked] for _ in range(2)]
    one, two = (trial_of(WON, zip(asked, r, strict=True), n) for r in ranks)
    means = []
    for of in ranks:
        values = {k: [] for k in range(n)}
        for some, r in zip(asked, of, strict=True):
            for k, rank in zip(some.tolist(), r.tolist(), strict=True):
                values[k].append(1 / rank)
        means.append(np.array([np.mean(v) for v in values.values() if v]))
    difference = means[0] - means[1]
    z = difference.mean() / (difference.std() / np.sqrt(len(difference)))
    assert one.z(two) == pytest.approx(z, rel=1e-9)
    t = stats.ttest_rel(*means).statistic  # divides by n - 1
    assert one.z(two) == pytest.approx(t * np.sqrt(len(difference) / (len(difference) - 1)))
    assert two.z(one) == pytest.approx(-z, rel=1e-9)
    assert one.z(one) == 0
    assert one.mrr == pytest.approx(means[0].mean())


def test_right_is_a_rank_below_one_and_a_half():
    """A tie with one wrong item is rank 1.5, and no hit."""
    trial = trial_of(WON, [(np.arange(4), np.array([1.0, 1.5, 2.0, 1.0]))], 5)
    assert trial.r1 == 50
    assert trial.mrr == pytest.approx((1 + 2 / 3 + 1 / 2 + 1) / 4)


# --- what comes in, what goes out --------------------------------------------------------


def test_settings_in_words_and_numbers():
    assert settings(DEFAULTS) == {
        "name": "defaults", "emcl_strength": "auto", "temperature_std": 0.4, "rho": 0.8,
    }  # fmt: skip
    fixed = next(c for c in emcls(WON) if c.name == "EMCL -0.5")
    assert settings(fixed) == {
        "name": "EMCL -0.5", "emcl_strength": -0.5, "temperature_std": 0.1, "rho": 0.65,
    }  # fmt: skip
