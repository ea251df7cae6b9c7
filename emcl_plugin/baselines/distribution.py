"""DN: test-time distribution normalization of the features."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Change, changed_pair, mean
from emcl_plugin.scores import Features, Similarity


def distribution_normalization(direction: Direction, *, weight: float = 0.25) -> Similarity:
    """``<q - weight mean(q), v - weight mean(v)>``: inner products after a partial centring.

    A bank, where given, provides the mean. For the ranking of the gallery this is one number per
    item, ``- weight <mean(q), v_j>``, which lowers items that resemble the mean query.

    Needs features. Serves from an index (changed vectors). Published setting: lambda 0.25 to 0.5
    for unit vectors (0.25 here).

    Its trap: the vectors are *not* normalized again; that would be another method.

    Parameters
    ----------
    weight : float, default 0.25
        lambda; 0 changes nothing.

    References
    ----------
    Zhou, Ren, Li, Zabih, Lim: Test-Time Distribution Normalization for Contrastively Learned
    Vision-language Models, NeurIPS 2023, arXiv 2302.11084.
    """

    def shifted(_: Features, reference: Features) -> Change:
        shift = weight * mean(reference)
        return lambda x, _: x - shift

    return changed_pair(direction, shifted)


METHOD = Method(
    "dn", "test-time distribution normalization", distribution_normalization, needs=(FEATURES,)
)
