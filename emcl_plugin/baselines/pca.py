"""PCA reconstruction, a control for EMCL."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import changed_pair, check_rank, to_unit
from emcl_plugin.emcl import second_moments
from emcl_plugin.scores import Similarity


def pca(direction: Direction, *, rank: int = 32) -> Similarity:
    """Cosine of the vectors projected onto the ``rank`` leading principal directions.

    The directions are eigenvectors of the mean uncentred second moments of both sides, the matrix
    that EMCL starts from. Banks, where given, provide the moments.

    Needs features. Serves from an index (changed vectors). A control for EMCL, not a published
    correction. Setting: rank 32, the number of subspaces of EMCL-Net.

    Its trap: without centring, the first direction is the shared component, which is kept. Compare
    :func:`~emcl_plugin.baselines.all_but_the_top.all_but_the_top`.

    Parameters
    ----------
    rank : int, default 32
        At most the dimension, which changes nothing.

    References
    ----------
    Pearson: On Lines and Planes of Closest Fit to Systems of Points in Space, Philosophical
    Magazine, 1901.
    """
    queries, _ = direction.sides
    rank = min(rank, queries.shape[1])
    check_rank("rank", rank, queries)
    top = second_moments(*direction.references).eigen[1][:, -rank:].to(queries.dtype)
    return changed_pair(direction, lambda side, _: lambda x, _: to_unit((x @ top) @ top.T, side))


METHOD = Method("pca", "PCA reconstruction in EMCL's place", pca, needs=(FEATURES,))
