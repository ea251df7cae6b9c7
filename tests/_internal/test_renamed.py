"""Old names of arguments and fields work, and the warning points to the caller's line."""

import dataclasses

import numpy as np
import pytest
import torch

from emcl_plugin import EMCL, NCL
from emcl_plugin.baselines import correct
from emcl_plugin.evidence.prior import Probes
from emcl_plugin.ncl import Biases

SCORES = np.array([[0.9, 0.5], [0.8, 0.7]], "float32")
BIASES = Biases(torch.zeros(2), torch.zeros(2), 0.1, 4, 0.0, converged=True, solver="stored")


@pytest.mark.parametrize(
    ("use", "wanted"),
    [
        (lambda: EMCL(rounds=3), EMCL(iterations=3)),
        (lambda: NCL(rounds=3), NCL(iterations=3)),
        (lambda: dataclasses.replace(NCL(rho=0.5), rounds=3), NCL(rho=0.5, iterations=3)),
        (lambda: dataclasses.replace(EMCL.preset("mmt"), rounds=9).iterations, 9),
        (lambda: EMCL.preset("mmt").rounds, 5),
        (lambda: NCL.rounds, 200),
        (lambda: BIASES.rounds, 4),
    ],
)
def test_rounds_are_now_iterations(use, wanted):
    with pytest.warns(DeprecationWarning, match="rounds is now iterations") as told:
        assert use() == wanted
    assert [warning.filename for warning in told] == [__file__]


def test_a_baseline_keeps_its_old_keyword():
    with pytest.warns(DeprecationWarning, match="rounds is now iterations") as told:
        found = correct("sn", SCORES, rounds=3)
    assert (found == correct("sn", SCORES, iterations=3)).all()
    assert told[0].filename == __file__


def test_the_leave_best_out_run_keeps_its_old_name():
    probes = Probes(gentle=BIASES, leave_best_out=BIASES)
    with pytest.warns(DeprecationWarning, match="cautious is now leave_best_out") as told:
        assert probes.cautious is BIASES
    assert told[0].filename == __file__
