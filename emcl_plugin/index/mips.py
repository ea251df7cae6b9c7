"""MIPS reductions: maximum inner product search in stores that rank by distance or cosine.

With phi >= |x| for every item x:

    L2:      x -> [x, sqrt(phi^2 - |x|^2)],  q -> [q, 0],
             squared distance = |q|^2 + phi^2 - 2 < q, x >                                (l2)
    cosine:  x -> [x / phi, sqrt(1 - |x / phi|^2)],  q -> [q, 0] / |q|,
             cosine = < q, x > / (phi |q|)                                            (cosine)

(l2): Bachrach et al., Speeding up the Xbox recommender system using a Euclidean transformation
for inner-product spaces, RecSys 2014. (cosine): Neyshabur & Srebro, On symmetric and asymmetric
LSHs for inner product search, ICML 2015; for stores that normalize vectors, which these are.

phi and |q| are constant for a query, so both rank exactly as the inner product does. In float32,
items may change places if their inner products differ by less than about 1e-7 (phi^2 + |q|^2).
phi must also bound items that are added later.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin.errors import InputValueError

Vectors: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

SPACES = ("ip", "cosine", "l2")
"""What a store ranks by: inner product, cosine, Euclidean distance."""

ROUNDING = 1e-6
"""Share of phi by which an item may be longer than phi, because float32 vectors are rounded."""


def check_space(space: str, phi: float | None = None) -> None:
    """Raise an error if the space is unknown or phi is not a positive length."""
    if space not in SPACES:
        raise InputValueError("no such space", repr(space), f"use one of {', '.join(SPACES)}")
    if phi is not None and not (phi > 0 and math.isfinite(phi)):
        problem = "phi is the length of the longest item: a positive number"
        raise InputValueError(problem, f"phi={phi}", "leave it out")


def items_in(space: str, x: np.ndarray[Any, Any], *, phi: float | None = None) -> Vectors:
    """Return items (n, d) in a store's space: (n, d) float32, for "cosine" and "l2" (n, d + 1).

    ``phi`` is an upper bound of the items' lengths, by default the longest; "ip" does not use it.
    Raise InputValueError if the space is unknown or an item is longer than phi.

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
            "an item is longer than phi, which must be an upper bound",
            f"item {far} of length {length[far]:.6g}, phi {bound:.6g}",
            "export all items again with a larger phi, such as 1.2 times the longest",
        )
    unit = bound if space == "cosine" and bound > 0 else 1.0
    top = 1.0 if space == "cosine" else bound
    out = np.empty((len(rows), rows.shape[1] + 1), dtype=np.float32)
    np.divide(rows, unit, out=out[:, :-1])
    out[:, -1] = np.sqrt(np.maximum(top**2 - (length / unit) ** 2, 0))
    return out


def queries_in(space: str, q: np.ndarray[Any, Any]) -> Vectors:
    """Return queries (n, d) for a store of this space, in the dimension of its items.

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
    """Return inner products (n, k), given the values that a store returned for queries (n, d).

    ``found`` holds inner products, cosines or squared L2 distances.

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
    """Return the norm of every row in float64, (n,)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64)))
