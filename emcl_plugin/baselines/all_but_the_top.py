"""ABTT: all but the top principal directions."""

from __future__ import annotations

from emcl_plugin.baselines.centring import centred
from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Changed, check_rank, to_unit
from emcl_plugin.emcl import second_moments
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import FeaturePair, Features, Similarity


def all_but_the_top(direction: Direction, *, directions: int | None = None) -> Similarity:
    """Cosine of ``(x - mean)`` without its part along the leading principal directions.

    Each side is centred by its own mean. The directions are those of the mean covariance of both
    sides. Banks, where given, provide means and covariances.

    Needs features. Serves from an index (changed vectors). Published setting: a hundredth of the
    dimension, at least one direction.

    Its trap: stacking both sides before centring makes the modality gap the first direction and
    weights the sides by their sizes.

    Parameters
    ----------
    direction : Direction
        With features.
    directions : int, optional
        Number of directions to remove. Default: dimension // 100, at least 1.

    References
    ----------
    Mu, Viswanath: All-but-the-Top: Simple and Effective Postprocessing for Word Representations,
    ICLR 2018, arXiv 1702.01417.
    """
    queries, gallery = direction.sides
    count = max(1, queries.shape[1] // 100) if directions is None else directions
    check_rank("directions", count, queries)
    spread = []
    for side, bank in ((queries, direction.query_bank), (gallery, direction.gallery_bank)):
        spread.append(centred(bank or side, None))
    if not any(bool((side.squared_norms() > 0).any()) for side in spread):
        raise InputValueError(
            "the features do not vary, so they have no principal directions",
            f"{spread[0].shape[0]} and {spread[1].shape[0]} equal vectors",
            "pass more items",
        )
    top = second_moments(*spread).eigen[1][:, -count:].to(queries.dtype)

    def changed(side: Features, bank: Features | None) -> Changed:
        return Changed(centred(side, bank), lambda x, _: to_unit(x - (x @ top) @ top.T, side))

    return FeaturePair(
        changed(queries, direction.query_bank),
        changed(gallery, direction.gallery_bank),
        memory=direction.memory,
    )


METHOD = Method("abtt", "all but the top principal directions", all_but_the_top, needs=(FEATURES,))
