"""Inner products in stores that know only Euclidean distances or cosines.

Two published constructions. With phi >= |x| for every item x:

    L2:      x -> [x, sqrt(phi^2 - |x|^2)],  q -> [q, 0],
             squared distance = |q|^2 + phi^2 - 2 < q, x >                                (l2)
    cosine:  x -> [x / phi, sqrt(1 - |x / phi|^2)],  q -> [q, 0] / |q|,
             cosine = < q, x > / (phi |q|)                                            (cosine)

(l2) is from Bachrach et al., Speeding up the Xbox recommender system using a Euclidean
transformation for inner-product spaces, RecSys 2014; (cosine), for stores that bring every
vector to unit length, which these have already, from Neyshabur & Srebro, On symmetric and
asymmetric LSHs for inner product search, ICML 2015.

phi and |q| are the same for all items of a query, so both rank as the inner product does:
exactly in real numbers. In float32, items whose inner products differ by no more than rounding,
some 1e-7 of phi^2 + |q|^2, may change places. phi has to bound the items that come later, too.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.errors import InputValueError

Vectors: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

SPACES = ("ip", "cosine", "l2")
"""What a store ranks by: inner product, cosine, Euclidean distance."""

ROUNDING = 1e-6
"""Share of phi by which an item may be longer than phi: float32 vectors are not exact."""


# --- a corrector's vectors ------------------------------------------------------------------------


def gallery_vectors(
    corrector: Corrector, space: str = "ip", *, phi: float | None = None
) -> Vectors:
    """The gallery's vectors for a store that ranks by this space.

    Parameters
    ----------
    corrector : Corrector
    space : {"ip", "cosine", "l2"}
    phi : float, optional
        For "cosine" and "l2": a bound of the items' lengths, with room for items to come.
        Default: :func:`longest`.

    Returns
    -------
    (n_gallery, D + 1) float32, for "cosine" and "l2" (n_gallery, D + 2)

    Raises
    ------
    InputValueError
        No such space; an item is longer than phi.

    Examples
    --------
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> corrector = Reranker().fit(demo.text_bank, demo.video).corrector_
    >>> demo.video.shape, gallery_vectors(corrector).shape, gallery_vectors(corrector, "l2").shape
    ((945, 128), (945, 129), (945, 130))
    """
    return items_in(space, corrector.vectors_of_gallery().cpu().numpy(), phi=phi)


def query_vectors(corrector: Corrector, queries: Array, space: str = "ip") -> Vectors:
    """Queries (n, D) for a store of :func:`gallery_vectors`: (n, D + 1) or (n, D + 2) float32.

    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> corrector = Reranker().fit(demo.text_bank, demo.video).corrector_
    >>> query_vectors(corrector, demo.text[:3], "cosine").shape
    (3, 130)
    """
    return queries_in(space, torch.cat(list(corrector.vectors(queries))).cpu().numpy())


def longest(corrector: Corrector) -> float:
    """phi: the length of the gallery's longest exported vector.

    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> 1 <= longest(Reranker().fit(demo.text_bank, demo.video).corrector_) < 1.1
    True
    """
    return float(lengths(gallery_vectors(corrector)).max())


def to_scores(
    corrector: Corrector,
    queries: Array,
    found: Array,
    space: str = "ip",
    *,
    phi: float | None = None,
) -> Vectors:
    """The corrector's scores from what a store found.

    Parameters
    ----------
    corrector : Corrector
    queries : (n, D)
        Those that were asked.
    found : (n, k)
        Inner products, cosines (1 less a cosine distance) or *squared* L2 distances.
    space : {"ip", "cosine", "l2"}
    phi : float, optional
        That of :func:`gallery_vectors`. Default: :func:`longest`.

    Returns
    -------
    (n, k) float32

    Examples
    --------
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> corrector = Reranker().fit(demo.text_bank, demo.video).corrector_
    >>> query = demo.text[:1]
    >>> cosines = query_vectors(corrector, query, "cosine") @ gallery_vectors(corrector, "cosine").T
    >>> scores = next(corrector.scores(query)).numpy()
    >>> bool(np.abs(to_scores(corrector, query, cosines, "cosine") - scores).max() < 1e-5)
    True
    """
    bound = longest(corrector) if phi is None and space != "ip" else phi or 1.0
    return scores_in(space, np.asarray(found), query_vectors(corrector, queries), bound)


# --- any vectors ----------------------------------------------------------------------------------


def check_space(space: str, phi: float | None = None) -> None:
    """Raise where there is no such space, or phi cannot be a length."""
    if space not in SPACES:
        raise InputValueError("no such space", repr(space), f"use one of {', '.join(SPACES)}")
    if phi is not None and not (phi > 0 and math.isfinite(phi)):
        raise InputValueError(
            "phi is the length of the longest item, a positive number", f"phi={phi}", "leave it out"
        )


def items_in(space: str, x: np.ndarray[Any, Any], *, phi: float | None = None) -> Vectors:
    """Items whose inner products count, for a store of this space.

    Parameters
    ----------
    space : {"ip", "cosine", "l2"}
    x : (n, d)
    phi : float, optional
        Bound of the items' lengths; default: the longest. Not used for "ip".

    Returns
    -------
    (n, d) float32, for "cosine" and "l2" (n, d + 1)

    Raises
    ------
    InputValueError
        No such space; an item is longer than phi.

    Examples
    --------
    >>> items_in("cosine", np.array([[3.0, 0.0], [0.0, 5.0]]))
    array([[0.6, 0. , 0.8],
           [0. , 1. , 0. ]], dtype=float32)
    """
    check_space(space, phi)
    rows = np.ascontiguousarray(x, dtype=np.float32)
    if space == "ip":
        return rows
    length = lengths(rows)
    bound = float(length.max(initial=0)) if phi is None else phi
    if len(rows) and length.max() > bound * (1 + ROUNDING):
        far = int(length.argmax())
        raise InputValueError(
            "an item is longer than phi, which has to bound them all",
            f"item {far} of length {length[far]:.6g}, phi {bound:.6g}",
            "export all items again, with a phi that leaves room: 1.2 times the longest",
        )
    unit = bound if space == "cosine" and bound > 0 else 1.0
    top = 1.0 if space == "cosine" else bound
    out = np.empty((len(rows), rows.shape[1] + 1), dtype=np.float32)
    np.divide(rows, unit, out=out[:, :-1])
    out[:, -1] = np.sqrt(np.maximum(top**2 - (length / unit) ** 2, 0))
    return out


def queries_in(space: str, q: np.ndarray[Any, Any]) -> Vectors:
    """Queries (n, d) for a store of this space: (n, d) float32, or (n, d + 1) as for the items.

    >>> queries_in("l2", np.array([[3.0, 4.0]]))
    array([[3., 4., 0.]], dtype=float32)
    >>> queries_in("cosine", np.array([[3.0, 4.0]]))
    array([[0.6, 0.8, 0. ]], dtype=float32)
    """
    check_space(space)
    rows = np.ascontiguousarray(q, dtype=np.float32)
    if space == "ip":
        return rows
    out = np.zeros((len(rows), rows.shape[1] + 1), dtype=np.float32)
    length = lengths(rows)[:, None] if space == "cosine" else 1.0
    np.divide(rows, np.where(np.equal(length, 0), 1, length), out=out[:, :-1], casting="same_kind")
    return out


def scores_in(
    space: str, found: np.ndarray[Any, Any], q: np.ndarray[Any, Any], phi: float
) -> Vectors:
    """Inner products (n, k) from what a store of this space found for queries (n, d).

    ``found`` are inner products, cosines or squared L2 distances; ``phi`` is the items'.

    >>> q, x = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> distances = queries_in("l2", q) - items_in("l2", x)
    >>> scores_in("l2", np.square(distances).sum(1)[None], q, phi=2.0)
    array([[3., 8.]], dtype=float32)
    """
    check_space(space, phi)
    values = np.asarray(found, dtype=np.float64)
    length = lengths(q)[:, None]
    if space == "l2":
        values = (length**2 + phi**2 - values) / 2
    elif space == "cosine":
        values = values * (phi * length)
    return values.astype(np.float32)


def lengths(x: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """|x| of every row in float64, (n,).

    >>> lengths(np.array([[3.0, 4.0]]))
    array([5.])
    """
    squared = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return np.asarray(np.sqrt(squared), dtype=np.float64)
