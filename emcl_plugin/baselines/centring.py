"""Mean centring of each side."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Changed, mean, to_unit
from emcl_plugin.scores import FeaturePair, Features, Similarity


def centre(direction: Direction) -> Similarity:
    """Cosine after each side's mean is subtracted from its vectors: closes the modality gap.

    Each side's mean is its bank's where there is one, else that of the side itself. Vectors are
    of unit length before and after; for ``metric="dot"`` lengths are left alone.

    Needs features. Serves from an index (changed vectors). No settings.

    Its trap: one mean for both sides removes half of the gap between them at best; each side
    needs its own.

    References
    ----------
    Suzuki et al., Centering Similarity Measures to Reduce Hubs, EMNLP 2013.
    """
    queries, gallery = direction.sides
    return FeaturePair(
        _unit(centred(queries, direction.query_bank)),
        _unit(centred(gallery, direction.gallery_bank)),
        memory=direction.memory,
    )


def centred(side: Features, bank: Features | None) -> Changed:
    """The vectors minus their mean or the bank's, at the length that is left."""
    shift = mean(bank or side)
    return Changed(side, lambda x, _: x - shift)


def _unit(side: Changed) -> Changed:
    return Changed(side, lambda x, _: to_unit(x, side.base))


METHOD = Method(
    name="centre",
    title="mean centring of each side",
    paper="Suzuki, Hara, Shimbo, Saerens, Fukumizu: Centering Similarity Measures to Reduce "
    "Hubs, EMNLP 2013",
    needs=(FEATURES,),
    bank=True,
    serves=True,
    correct=centre,
)
