"""The choice keeps within its time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import bank

from emcl_plugin.tune import choice, tune
from emcl_plugin.tune import cuts as module
from emcl_plugin.tune.choice import BOTH, FIRST
from emcl_plugin.tune.cuts import Cuts
from emcl_plugin.tune.trials import DEFAULTS, NCLS, emcls


class Clock:
    """Seconds that pass only where work is done: ``costs`` of one evaluation after the other."""

    def __init__(self, costs):
        self.now, self.costs, self.done = 1000.0, costs, 0

    def monotonic(self):
        return self.now

    def work(self):
        self.now += self.costs(self.done)
        self.done += 1


def clocked(budget, cuts=10, cost=lambda _: 1.0, **settings):
    """Tune with evaluations that take what they are told and find nothing: (found, time, cuts)."""
    clock, made = Clock(cost), []
    original = Cuts._halves

    class Fit:
        def __init__(self, *_):
            pass

        def bare(self):
            return None

        def corrector(self, *_):
            return None, None

    def place(_, truth):
        clock.work()
        queries = np.arange(truth.shape[0])
        return SimpleNamespace(queries=queries, ranks=lambda: 1.0 + queries % 3)

    def cut(self, rng):
        made.append([x.tolist() for x in original(self, rng)])
        return [np.array(x) for x in made[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "time", clock)
        patch.setattr(module, "time", clock)
        patch.setattr(module, "Job", lambda *_, **__: None)
        patch.setattr(module, "BankFit", Fit)
        patch.setattr(module, "Scores", lambda *_: None)
        patch.setattr(module, "place", place)
        patch.setattr(Cuts, "_halves", cut)
        found = tune(*bank(), budget=budget, cuts=cuts, **settings)
    return found, clock.now - 1000, made


N_FIRST, N_SECOND = 2 + len(NCLS), 2 + len(emcls(DEFAULTS))


def test_with_time_to_spare_all_cuts_are_made():
    found, seconds, _ = clocked(10_000, cuts=4)
    assert found.cuts == 8
    assert found.seconds == seconds == 4 * (N_FIRST + N_SECOND)


@pytest.mark.parametrize("budget", [1, 5, N_FIRST / FIRST - 2])
def test_a_tiny_budget_gives_the_defaults_and_says_so(budget):
    found, seconds, _ = clocked(budget)
    assert found.chosen is DEFAULTS
    assert found.cuts == 0
    assert found.reason == (
        f"the budget of {budget:g} s is too short for one cut; these are the defaults"
    )
    assert seconds <= FIRST * budget + 1
    facts = found.to_dict()
    assert facts["tried"] == []
    assert facts["against_nothing"] is None


def test_no_cut_is_begun_that_would_not_end_in_time():
    """As long as the longest so far: 25 evaluations of a second, then 8."""
    assert (N_FIRST, N_SECOND) == (25, 8)
    found, seconds, cuts = clocked(100)
    assert len(cuts) == found.cuts == 2 + 5  # up to 50 of 60 s, then up to 90 of 93 s
    assert seconds == 90
    assert clocked(50)[0].cuts == 1 + 2


def test_a_cut_that_turns_out_too_long_is_left_and_counts_for_nothing():
    """The second is four times as slow as the first was."""
    found, seconds, cuts = clocked(100, cost=lambda done: 1.0 if done < N_FIRST else 4.0)
    assert len(cuts) > found.cuts
    assert seconds <= BOTH * 100 + 4
    first, *_ = found.parts
    assert {tuple(trial.asked.tolist()) for trial in first} == {
        tuple(float(k in cuts[0][1]) for k in range(60))
    }


@given(
    budget=st.floats(0.5, 2000),
    costs=st.lists(st.floats(0.01, 20), min_size=1, max_size=30),
    cuts=st.integers(1, 6),
)
def test_the_budget_is_never_overrun_by_more_than_one_evaluation(budget, costs, cuts):
    found, seconds, _ = clocked(budget, cuts, lambda done: costs[done % len(costs)])
    assert seconds <= BOTH * budget + max(costs)
    assert found.seconds == pytest.approx(seconds)
    assert found.cuts <= 2 * cuts
    assert (found.cuts == 0) == (not found.parts)


def test_how_fast_the_machine_is_does_not_matter_where_the_cuts_are_as_many():
    """One cut for each part: by what was asked for, or because there was no time for a second."""
    _, _, told = clocked(10_000, cuts=1)
    slow = 7.0
    found, _, cuts = clocked(
        100, cuts=2, cost=lambda done: 1.0 if done < N_FIRST else slow if done < 31 else 3.0
    )
    assert found.cuts == 2
    assert [cuts[0], cuts[-1]] == told


def test_progress_is_the_time_that_is_gone():
    calls = []
    clocked(100, progress=lambda *call: calls.append(call))
    assert {stage for stage, _, _ in calls} == {"tuning"}
    done = [k for _, k, _ in calls]
    assert done == sorted(done)
    assert {total for _, _, total in calls} == {1000}
    assert done[-1] == 890
