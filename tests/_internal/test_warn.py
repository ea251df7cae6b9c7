"""Warnings name the line of the caller, whichever door it came through; old names warn."""

import warnings

import numpy as np
import pytest

from emcl_plugin import EMCL, NCL, Reranker, errors, rerank, rescore
from emcl_plugin.errors import ConvergenceWarning, EmclWarning, OverlapWarning, RepeatedItemsWarning
from emcl_plugin.evaluation import ablation
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings

RNG = np.random.default_rng(0)
TEXT, VIDEO = (RNG.standard_normal((60, 8)).astype(np.float32) for _ in range(2))
SIM = TEXT @ VIDEO.T
ONE_ROUND = NCL(iterations=1, tolerance=1e-9)
FITTED = Reranker(ncl=None, emcl=None).fit(TEXT, VIDEO)

DOORS = {
    "rerank": lambda: rerank(SIM, ncl=ONE_ROUND),
    "rescore": lambda: rescore(SIM, ncl=ONE_ROUND),
    "features": lambda: rescore(None, (TEXT, VIDEO), ncl=ONE_ROUND, emcl=EMCL()),
    "copies": lambda: rescore(None, (TEXT, VIDEO[[0, *range(59)]])),
    "Job": lambda: Job(SIM, None, Settings(ncl=ONE_ROUND)).correct(),
    "fit": lambda: Reranker(ncl=ONE_ROUND, emcl=None).fit(TEXT, VIDEO),
    "transform": lambda: FITTED.transform(TEXT[:3]),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_warning_points_to_the_callers_line(door):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DOORS[door]()
    own = [w for w in caught if issubclass(w.category, EmclWarning)]
    assert {type(w.message) for w in own} & {
        ConvergenceWarning,
        OverlapWarning,
        RepeatedItemsWarning,
    }
    line = DOORS[door].__code__.co_firstlineno
    assert {(w.filename, w.lineno) for w in own} == {(__file__, line)}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (ablation, "Study", "Ablation"),
        (ablation, "study", "ablation"),
        (ablation, "order_leaks", "permutation_check"),
        (errors, "LeakWarning", "OverlapWarning"),
    ],
)
def test_old_names_warn_and_work(module, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {new}.*0\.2") as caught:
        assert getattr(module, old) is getattr(module, new)
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'stud'"):
        _ = module.stud
