"""Mean centring of each side."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Change, changed_pair, mean, to_unit
from emcl_plugin.scores import Features, Similarity


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

    def centred(side: Features, reference: Features) -> Change:
        shift = mean(reference)
        return lambda x, _: to_unit(x - shift, side)

    return changed_pair(direction, centred)


METHOD = Method("centre", "mean centring of each side", centre, needs=(FEATURES,))
