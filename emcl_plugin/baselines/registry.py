"""Every baseline by its short name."""

from __future__ import annotations

from emcl_plugin.baselines import (
    all_but_the_top,
    centring,
    csls,
    distribution,
    dual_bank,
    dual_softmax,
    dynamic_inverted_softmax,
    inverted_softmax,
    invgc,
    nnn,
    pca,
    sinkhorn,
)
from emcl_plugin.baselines.problem import Direction, Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        csls.METHOD,
        inverted_softmax.METHOD,
        dynamic_inverted_softmax.METHOD,
        dual_softmax.METHOD,
        dual_bank.DUAL_IS,
        dual_bank.DUAL_DIS,
        nnn.METHOD,
        sinkhorn.SN,
        sinkhorn.DBSN,
        invgc.METHOD,
        distribution.METHOD,
        centring.METHOD,
        all_but_the_top.METHOD,
        pca.METHOD,
    )
}


def applicable(direction: Direction) -> list[Method]:
    """Return the methods whose requirements are met.

    Parameters
    ----------
    direction : Direction
        Scores, features and banks.

    Returns
    -------
    list of Method
        In the order of :data:`METHODS`.
    """
    return [method for method in METHODS.values() if not method.missing(direction)]
