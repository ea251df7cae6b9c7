"""Mean centring of each side."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Changed, mean, to_unit
from emcl_plugin.scores import FeaturePair, Features, Similarity


def centre(direction: Direction) -> Similarity:
    """Subtract the mean of each side, then take the cosine; closes the modality gap.

    A bank, where given, provides the mean. With ``metric="dot"`` lengths are not normalized.

    Needs features. Serves from an index (changed vectors). No settings.

    Its trap: one mean for both sides removes at most half of the gap.

    References
    ----------
    Suzuki, Hara, Shimbo, Saerens, Fukumizu: Centering Similarity Measures to Reduce Hubs, EMNLP
    2013.
    """
    queries, gallery = direction.sides
    return FeaturePair(
        _unit(centred(queries, direction.query_bank)),
        _unit(centred(gallery, direction.gallery_bank)),
        memory=direction.memory,
    )


def centred(side: Features, bank: Features | None) -> Changed:
    """Subtract the mean of the bank, or of the vectors."""
    shift = mean(bank or side)
    return Changed(side, lambda x, _: x - shift)


def _unit(side: Changed) -> Changed:
    return Changed(side, lambda x, _: to_unit(x, side.base))


METHOD = Method("centre", "mean centring of each side", centre, needs=(FEATURES,))
