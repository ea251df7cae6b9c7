"""The choice of settings: by evidence, by seed and cuts, and what comes in and goes out."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from oracles import asked_often, cone_pair
from pairs import bank, linked

from emcl_plugin import NCL, Reranker
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.evaluation.significance import compare
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.tune import NOTHING, tune
from emcl_plugin.tune.choice import EVIDENCE, FEWEST
from emcl_plugin.tune.cuts import Cuts
from emcl_plugin.tune.trials import DEFAULTS, NCLS, Candidate, Trial, settings

WON, OTHER = NCLS[0], NCLS[1]


@functools.lru_cache
def hubby(n=400, seed=0):
    """Pairs that are all but the same, well covered, with strong hubs: all of NCL is right."""
    return tuple(x.astype("f4") for x in cone_pair(n, n, 8, seed, cone=1.5, noise=0.3))


@functools.lru_cache
def popular(**kwargs):
    """Text and video side, and the truth."""
    *sides, owner = asked_often(**kwargs)
    return *sides, GroundTruth.from_index(owner, len(sides[1]))


def plain(found):
    """Everything but the time it took."""
    return {key: value for key, value in found.to_dict().items() if key != "seconds"}


# --- the choice --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gain_that_is_told_is_that_of_the_choice_over_nothing():
    found = tune(*hubby(200), cuts=2)
    part = found.parts[-1]
    nothing, chosen = part[0], next(t for t in part if t.candidate == found.chosen)
    before, after = (100 * t.hits[t.asked > 0] / t.asked[t.asked > 0] for t in (nothing, chosen))
    assert found.against_nothing == compare(before, after)
    assert found.against_nothing.gain == pytest.approx(chosen.r1 - nothing.r1)
    assert found.against_nothing.gain > 20


def test_where_other_settings_are_plainly_better_they_are_chosen():
    """And they are better for queries outside the bank, too."""
    queries, items = hubby(800)
    found = tune(queries[:400], items[:400], cuts=2)
    assert found.chosen == Candidate(
        "NCL 0.15 std, rho 1", "auto", NCL(temperature_std=0.15, rho=1.0)
    )
    assert (
        found.reason
        == f"{found.chosen.name}: beats the defaults by more than three standard errors"
    )
    defaults, chosen = (
        next(t for t in found.parts[0] if t.candidate == c) for c in (DEFAULTS, found.chosen)
    )
    assert chosen.z(defaults) > EVIDENCE
    r1 = [
        (Reranker(c.emcl, c.ncl).fit(queries[:400], items[400:]).transform(queries[400:]).argmax(1)
         == np.arange(400)).mean()
        for c in (NOTHING, DEFAULTS, found.chosen)
    ]  # fmt: skip
    assert r1[0] + 0.2 < r1[1] < r1[2] - 0.05


@pytest.mark.slow
def test_where_corrections_hurt_nothing_is_done():
    queries, items, truth = popular()
    found = tune(queries, items, truth, cuts=2, metric="dot")
    assert found.chosen is NOTHING
    assert found.reason == "on this bank no correction is better than the input"
    assert found.against_nothing.gain == 0 == found.against_nothing.changed
    nothing, defaults, *_ = found.parts[0]
    assert nothing.z(defaults) > EVIDENCE
    assert found.to_dict()["chosen"] == {
        "name": "nothing", "emcl_strength": None, "temperature_std": None, "rho": None,
    }  # fmt: skip


@pytest.mark.slow
def test_where_nothing_stands_out_the_defaults_stay():
    found = tune(*bank(200), cuts=2)
    assert found.chosen is DEFAULTS
    assert found.reason == "no setting beats the defaults by three standard errors"
    assert max(t.z(found.parts[0][1]) for t in found.parts[0]) < EVIDENCE


@pytest.fixture
def judged(monkeypatch):
    """Choose by made-up reciprocal ranks: (z over what stands, mean gain) by candidate's name.

    ``None`` is a part that found no time. What is not named is as what stands, or for "nothing"
    worse by 10 standard errors.
    """

    def choose(*parts, n=400):
        stood = []
        noise = np.tile([-1.0, 1.0], n // 2)

        def part(_, stands, others, cuts, *__):
            made = parts[len(stood)]
            stood.append(stands)
            if made is None:
                return [], 0
            trials = []
            for candidate in (NOTHING, stands, *others):
                z, gain = made.get(candidate.name, (0, 0))
                if candidate is NOTHING and candidate.name not in made:
                    z, gain = -10, -0.02
                spread = gain / z * np.sqrt(n) if z else 0
                gains = 0.5 + (gain + spread * noise if candidate is not stands else 0 * noise)
                trials.append(Trial(candidate, 1.0 * (gains > 0.5), gains, np.ones(n, int)))
            return trials, cuts

        monkeypatch.setattr(Cuts, "part", part)
        found = tune(*bank(), cuts=3)
        return found, stood

    return choose


LEFT = "no setting beats the defaults by three standard errors"
NONE = "on this bank no correction is better than the input"


@pytest.mark.parametrize(
    ("first", "second", "chosen", "reason"),
    [
        ({}, {}, "defaults", LEFT),
        ({WON.name: (2.9, 0.1)}, {}, "defaults", LEFT),
        ({WON.name: (3.1, 0.1)}, {}, WON.name, f"{WON.name}: beats"),
        ({WON.name: (3.1, 0.01)}, {}, WON.name, f"{WON.name}: beats"),
        ({WON.name: (9, 0.01), OTHER.name: (2.9, 0.02)}, {}, "defaults", LEFT),
        ({WON.name: (4, 0.01), OTHER.name: (4, 0.02)}, {}, OTHER.name, OTHER.name),
        ({}, {"EMCL -1": (3.1, 0.1)}, "EMCL -1", "EMCL -1: beats"),
        ({}, {"EMCL -1": (2.9, 0.1)}, "defaults", LEFT),
        ({}, {"no EMCL": (3.1, 0.1)}, "no EMCL", "no EMCL: beats"),
        ({WON.name: (5, 0.1)}, {"EMCL +1": (5, 0.1)}, "EMCL +1", f"{WON.name}, then EMCL +1: "),
        ({WON.name: (5, 0.1)}, None, WON.name, f"{WON.name}: beats"),
        ({}, None, "defaults", LEFT),
        ({"nothing": (1.1, 0.1)}, None, "nothing", NONE),
        ({}, {"nothing": (1.1, 0.01)}, "nothing", NONE),
        ({}, {"nothing": (0.9, 0.1)}, "defaults", LEFT),
        ({}, {"nothing": (0, 0)}, "defaults", LEFT),
        ({WON.name: (5, 0.1)}, {"nothing": (8, 0.2)}, "nothing", NONE),
        ({}, {"nothing": (-0.1, -0.01)}, "defaults", LEFT),
    ],
)  # fmt: skip
def test_what_stands_gives_way_to_three_standard_errors(judged, first, second, chosen, reason):
    """The best by mean reciprocal rank, if it is better by so much; and better than nothing."""
    found, stood = judged(first, second)
    assert found.chosen.name == chosen
    assert found.reason.startswith(reason)
    assert found.cuts == (3 if second is None else 6)
    assert stood[0] is DEFAULTS
    after = [name for name, (z, _) in first.items() if z > 3]
    assert stood[1].name == (after[-1] if LEFT not in reason and after else "defaults")
    if found.chosen.name.startswith(("EMCL", "no EMCL")):
        assert found.chosen.ncl == stood[1].ncl


def test_without_a_single_cut_the_defaults_are_given_and_it_says_why(judged):
    found, stood = judged(None)
    assert found.chosen is DEFAULTS
    assert (found.parts, found.cuts, found.against_nothing) == ((), 0, None)
    assert "too short for one cut; these are the defaults" in found.reason
    assert len(stood) == 1


# --- seed --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_and_cuts_give_the_same_numbers():
    """Whatever the state of the global generators, and without moving it."""
    first = tune(*bank(), cuts=2, seed=7)
    state = np.random.get_state()[1].copy()
    torch.manual_seed(5)
    again = tune(*bank(), cuts=2, seed=7)
    assert plain(again) == plain(first)
    assert_array_equal(np.random.get_state()[1], state)
    assert first.to_dict()["seed"] == 7


@pytest.mark.slow
def test_more_cuts_ask_more_queries():
    """Each at most once in a cut."""
    counts = [tune(*bank(), cuts=cuts).parts[0][0].asked for cuts in (1, 4)]
    assert [x.max() for x in counts] <= [1, 4]
    assert counts[0].sum() == 30
    assert counts[1].sum() == 120
    assert (counts[1] > 0).sum() > 45


# --- what comes in, what goes out --------------------------------------------------------


@pytest.mark.slow
def test_half_precision_and_tensors_are_the_numbers_they_hold(tmp_path):
    """And files, memory-mapped, as the command line opens them."""
    half = [x.astype("f2") for x in bank()]
    wanted = plain(tune(*half, cuts=1))
    assert plain(tune(*(x.astype("f4") for x in half), cuts=1)) == wanted
    assert plain(tune(*map(torch.from_numpy, half), cuts=1)) == wanted
    for k, x in enumerate(half):
        np.save(tmp_path / f"{k}.npy", x)
    mapped = [np.load(tmp_path / f"{k}.npy", mmap_mode="r") for k in range(2)]
    assert plain(tune(*mapped, cuts=1)) == wanted


@pytest.mark.slow
def test_bfloat16_and_float64_can_be_tuned_on():
    brain = [torch.from_numpy(x).bfloat16() for x in bank()]
    assert plain(tune(*brain, cuts=1)) == plain(tune(*(x.float() for x in brain), cuts=1))
    assert tune(*bank(dtype="f8"), cuts=1).cuts == 2


@pytest.mark.slow
def test_metric_device_and_memory_reach_the_fit():
    queries, items = bank()
    long = queries * np.linspace(1, 9, 60, dtype="f4")[:, None], items
    assert plain(tune(*long, cuts=1)) == plain(tune(*bank(), cuts=1))
    dot = tune(*long, cuts=1, metric="dot", device="cpu", memory=1 << 30)
    assert dot.parts[0][1].mrr != tune(*long, cuts=1).parts[0][1].mrr
    with pytest.raises(InputValueError, match="metric is not known"):
        tune(*bank(), metric="euclidean")
    with pytest.raises(InputValueError, match="device cannot be used"):
        tune(*bank(), device="tpu")


@pytest.mark.parametrize("kind", ["usual", "no time", "nothing", "all alike", "two queries"])
@pytest.mark.filterwarnings("ignore::emcl_plugin.errors.EmclWarning")
def test_the_outcome_is_json_without_nan(kind):
    given = {
        "usual": lambda: tune(*bank(), cuts=1),
        "no time": lambda: tune(*bank(), budget=1e-9),
        "nothing": lambda: tune(*popular()[:2], popular()[2], cuts=1, metric="dot"),
        "all alike": lambda: tune(np.ones((30, 4)), np.ones((30, 4)), cuts=1),
        "two queries": lambda: tune(
            bank()[0][:2], bank()[1][:20], linked([(1, 10), (1, 10)]), cuts=1
        ),
    }
    found = given[kind]()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(facts) == {
        "chosen", "reason", "cuts", "seconds", "seed", "against_nothing", "tried",
    }  # fmt: skip
    assert facts["chosen"] == settings(found.chosen)
    for part, trials in zip(facts["tried"], found.parts, strict=True):
        assert [t["name"] for t in part] == [t.candidate.name for t in trials]
        assert part[1]["z"] == 0
        for told, trial in zip(part, trials, strict=True):
            assert told["R@1"] == trial.r1
            assert told["MRR"] == trial.mrr
            assert told["z"] == trial.z(trials[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": bank()[0][:19], "items": bank()[1][:19]}, "tuning needs at least 20 items"),
        ({"budget": 0}, "a budget of 0 s"),
        ({"budget": -1.0}, "a budget of -1 s"),
        ({"budget": float("nan")}, "a budget of nan s"),
        ({"cuts": 0}, "0 cuts"),
        ({"queries": bank()[0][:50]}, "which text belongs to which video is not known"),
        ({"truth": GroundTruth.diagonal((50, 50))}, "ground truth is of another bank"),
        pytest.param(
            {"truth": GroundTruth.from_index(np.zeros(60, int), 60)}, "cannot be cut in two"
        ),
        ({"truth": linked([(60, 60)])}, "cannot be cut in two"),
        ({"items": bank()[1][:, :5]}, "different dimensions"),
        ({"queries": bank()[0][0]}, "queries must have two dimensions"),
        ({"items": bank()[1][:, :0]}, "items is empty"),
        ({"items": bank()[1] * [[1.0]] * [[np.inf]]}, "NaN or infinity"),
    ],
)
def test_what_cannot_be_tuned_on_is_said_in_three_parts(change, words):
    given = {"queries": bank()[0], "items": bank()[1], **change}
    with pytest.raises(InputValueError, match=words) as caught:
        tune(given.pop("queries"), given.pop("items"), **given)
    assert caught.value.received
    assert caught.value.remedy


@pytest.mark.parametrize("wrong", [bank()[0].tolist(), bank()[0].astype(int)], ids=["list", "int"])
def test_what_is_no_array_of_numbers_is_refused(wrong):
    with pytest.raises(InputTypeError, match="queries"):
        tune(wrong, bank()[1])


def test_a_nan_is_told_by_its_place_in_the_bank():
    queries = bank()[0].copy()
    queries[59, 3] = np.nan
    with pytest.raises(InputValueError, match=r"queries\[59, 3\] = nan"):
        tune(queries, bank()[1], cuts=1)


def test_twenty_items_are_enough():
    assert FEWEST == 20
    assert tune(*(x[:20] for x in bank()), cuts=1).cuts == 2


def test_the_threads_are_as_many_as_before():
    """Torch's; tuning takes one, also where it ends early."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tune(*bank(), cuts=1)
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyboardInterrupt):
            tune(*bank(), cuts=1, progress=interrupt)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def interrupt(*_):
    raise KeyboardInterrupt
