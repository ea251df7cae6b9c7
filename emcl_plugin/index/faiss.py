"""FAISS indexes of exported vectors."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin._internal.arrays import Array, describe
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.errors import InputTypeError, InputValueError
from emcl_plugin.index.mips import Vectors, check_space, queries_in, scores_in
from emcl_plugin.index.vectors import (  # noqa: F401 (also read as emcl_plugin.serving)
    MissingLibraryError,
    gallery_vectors,
    longest,
    query_vectors,
    require,
    require_servable,
    to_scores,
)

Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def to_faiss(
    corrector: Corrector, factory: Any = "Flat", *, space: str = "ip", phi: float | None = None
) -> Any:
    """Return a FAISS index of the gallery's exported vectors; item j has the id j.

    Parameters
    ----------
    corrector : Corrector
    factory : str or faiss.Index, default "Flat"
        FAISS factory string, such as "HNSW32", "IVF64,Flat" or "IVF64,PQ8", or an empty index,
        which is filled and returned. Vectors are padded with zeros if product quantization needs
        another dimension. An index that needs training is trained on the gallery.
    space, phi
        As in :func:`~emcl_plugin.index.vectors.gallery_vectors`. "ip" and "cosine" need an index
        of METRIC_INNER_PRODUCT, "l2" one of METRIC_L2.

    Raises
    ------
    InputValueError, InputTypeError
        Not an index; wrong metric or dimension; not empty; too few items to train it.
    MissingLibraryError
        FAISS is not installed.

    Examples
    --------
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> corrector = Reranker().fit(demo.text_bank, demo.video).corrector_
    >>> index = to_faiss(corrector)
    >>> index.ntotal, index.d
    (945, 129)
    >>> scores, items = search_faiss(corrector, index, demo.text[:2], k=5)
    >>> bool((items == corrector.search(demo.text[:2], 5)[1].numpy()).all())
    True
    """
    faiss = require("faiss")
    vectors = gallery_vectors(corrector, space, phi=phi)
    if isinstance(factory, str):
        factory = _made(faiss, factory, vectors.shape[1], space)
    _check_index(faiss, factory, vectors.shape[1], space)
    if factory.ntotal:
        received = f"it holds {factory.ntotal} vectors"
        raise InputValueError("the index is not empty", received, "pass a new one")
    try:
        if not factory.is_trained:
            factory.train(vectors)
        if isinstance(factory, faiss.IndexIDMap):
            factory.add_with_ids(vectors, np.arange(len(vectors)))
        else:
            factory.add(vectors)
    except RuntimeError as error:
        problem = f"FAISS cannot fill this index with {len(vectors)} vectors"
        remedy = 'use fewer lists, such as "IVF16,Flat", or "Flat", which needs no training'
        raise InputValueError(problem, _reason(error), remedy) from None
    return factory


def search_faiss(
    corrector: Corrector,
    index: Any,
    queries: Array,
    k: int = 10,
    *,
    space: str = "ip",
    phi: float | None = None,
) -> tuple[Vectors, Indices]:
    """Return the k best items of every query, best first, from an index of :func:`to_faiss`.

    Scores (n, k), float32, are the corrector's, whatever the space of the index; items (n, k) are
    int64. If an approximate index finds fewer than k, the rest are items -1 with scores -inf.
    Errors are those of :func:`to_faiss`; also if k is larger than the index.
    """
    faiss = require("faiss")
    asked = query_vectors(corrector, queries)
    vectors = queries_in(space, asked)
    _check_index(faiss, index, vectors.shape[1], space)
    if not 1 <= k <= index.ntotal:
        problem = "k must be at least 1 and at most the number of vectors in the index"
        raise InputValueError(problem, f"k={k}, {index.ntotal} vectors", "10 is usual")
    found, items = index.search(vectors, k)
    missing = items < 0
    found[missing] = 0  # FAISS marks them with the largest float
    if space != "ip":
        found = scores_in(space, found, asked, longest(corrector) if phi is None else phi)
    found[missing] = -np.inf
    return found, items


def _made(faiss: Any, factory: str, dimension: int, space: str) -> Any:
    """Build an index; pad the vectors if a PQ does not divide the dimension."""
    metric = _metric(faiss, space)
    try:
        try:
            return faiss.index_factory(dimension, factory, metric)
        except RuntimeError as error:
            found = re.fullmatch(r"(IDMap2?,)?(.*?PQ(\d+).*)", factory)
            if found is None or "multiple of the number of subquantizers" not in str(error):
                raise
            wider = -(-dimension // int(found[3])) * int(found[3])
            padded = f"{found[1] or ''}Pad{wider},{found[2]}"
            return faiss.index_factory(dimension, padded, metric)
    except RuntimeError as error:
        remedy = 'use for example "Flat", "HNSW32" or "IVF64,Flat"'
        received = f"{factory!r}: {_reason(error)}"
        raise InputValueError("FAISS cannot build this index", received, remedy) from None


def _check_index(faiss: Any, index: Any, dimension: int, space: str) -> None:
    """Raise an error if an index would not rank these vectors by their scores."""
    if not isinstance(index, faiss.Index):
        remedy = "pass a factory string or a faiss.Index"
        problem = "this is not a FAISS index of float vectors"
        raise InputTypeError(problem, describe(index), remedy)
    name = type(index).__name__
    if index.metric_type != _metric(faiss, space):
        received = f"{name}, metric_type {index.metric_type}"
        remedy = f"build it with faiss.METRIC_{'L2' if space == 'l2' else 'INNER_PRODUCT'}"
        if index.metric_type == faiss.METRIC_L2:
            received, remedy = f"{received} (METRIC_L2)", f'{remedy}, or pass space="l2"'
        problem = f'the index has another metric than the space "{space}"'
        raise InputValueError(problem, received, remedy)
    if index.d != dimension:
        problem = "the index has another dimension than the exported vectors"
        received = f"{name}, d={index.d}; {dimension} are exported"
        remedy = "build it with that dimension: D + 1, for cosine and l2 D + 2"
        raise InputValueError(problem, received, remedy)
    if space != "cosine" and _normalises(faiss, index):
        problem = "the index normalizes vectors, which changes the ranking"
        raise InputValueError(problem, name, 'remove L2norm, or pass space="cosine"')


def _normalises(faiss: Any, index: Any) -> bool:
    while isinstance(index, faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    if not isinstance(index, faiss.IndexPreTransform):
        return False
    chain = (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size()))
    return any(isinstance(step, faiss.NormalizationTransform) for step in chain)


def _metric(faiss: Any, space: str) -> int:
    check_space(space)
    return int(faiss.METRIC_L2 if space == "l2" else faiss.METRIC_INNER_PRODUCT)


def _reason(error: RuntimeError) -> str:
    """Return FAISS's message without the location in its source."""
    return str(error).rsplit(": ", 1)[-1]
