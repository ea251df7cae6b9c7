"""ABTT: all but the top principal directions."""

from __future__ import annotations

import torch

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Change, Changed, changed_pair, check_rank, mean, to_unit
from emcl_plugin.emcl import second_moments
from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Features, Similarity


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
    directions : int, optional
        Number of directions to remove. Default: dimension // 100, at least 1.

    References
    ----------
    Mu, Viswanath: All-but-the-Top: Simple and Effective Postprocessing for Word Representations,
    ICLR 2018, arXiv 1702.01417.
    """
    queries, _ = direction.sides
    count = max(1, queries.shape[1] // 100) if directions is None else directions
    check_rank("directions", count, queries)

    def centred(side: Features) -> Changed:
        shift = mean(side)
        return Changed(side, lambda x, _: x - shift)

    spread = [centred(side) for side in direction.references]
    if not any(bool((side.squared_norms() > 0).any()) for side in spread):
        problem = "the features do not vary, so they have no principal directions"
        received = f"{spread[0].shape[0]} and {spread[1].shape[0]} equal vectors"
        raise InputValueError(problem, received, "pass more items")
    top = second_moments(*spread).eigen[1][:, -count:].to(queries.dtype)

    def change_of(side: Features, reference: Features) -> Change:
        shift = mean(reference)

        def change(x: torch.Tensor, _: int) -> torch.Tensor:
            x = x - shift
            return to_unit(x - (x @ top) @ top.T, side)

        return change

    return changed_pair(direction, change_of)


METHOD = Method("abtt", "all but the top principal directions", all_but_the_top, needs=(FEATURES,))
