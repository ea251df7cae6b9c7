"""PCA reconstruction, in EMCL's place: what any compact subspace would do."""

from __future__ import annotations

from emcl_plugin.baselines.problem import FEATURES, Direction, Method
from emcl_plugin.baselines.vectors import Changed, check_rank, to_unit
from emcl_plugin.emcl import second_moments
from emcl_plugin.scores import FeaturePair, Features, Similarity


def pca(direction: Direction, *, rank: int = 32) -> Similarity:
    """Cosine of the vectors projected onto the ``rank`` leading principal directions.

    The directions are the eigenvectors of the uncentred second moments of both sides, each
    weighing one half: the same matrix that EMCL starts from. Where there are banks, theirs.

    Needs features. Serves from an index (changed vectors, or their ``rank`` coordinates). A
    control for EMCL, not a published correction. Setting: rank 32, EMCL-Net's number of subspaces.

    Its trap: uncentred, the first direction is what all items share, which is kept here; removing
    it is :func:`~emcl_plugin.baselines.all_but_the_top.all_but_the_top`.

    Parameters
    ----------
    direction : Direction
        With features.
    rank : int, default 32
        At most the dimension, which leaves everything as it is.

    References
    ----------
    Pearson, On Lines and Planes of Closest Fit to Systems of Points in Space, Philosophical
    Magazine 1901.
    """
    queries, gallery = direction.sides
    rank = check_rank("rank", min(rank, queries.shape[1]), queries)
    sides = (direction.query_bank or queries, direction.gallery_bank or gallery)
    top = second_moments(*sides).eigen[1][:, -rank:].to(queries.dtype)

    def changed(side: Features) -> Changed:
        return Changed(side, lambda x, _: to_unit((x @ top) @ top.T, side))

    return FeaturePair(changed(queries), changed(gallery), memory=direction.memory)


METHOD = Method(
    name="pca",
    title="PCA reconstruction in EMCL's place",
    paper="Pearson: On Lines and Planes of Closest Fit to Systems of Points in Space, "
    "Philosophical Magazine, 1901",
    needs=(FEATURES,),
    bank=True,
    serves=True,
    correct=pca,
)
