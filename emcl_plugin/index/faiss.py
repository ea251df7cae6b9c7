"""A fitted correction in any vector store, by its exported vectors; FAISS for one.

The score (e) of :mod:`emcl_plugin.bank.corrector` is an inner product of a query's and an item's
exported vectors, so a store that ranks by inner products ranks by it; for others there is
:mod:`emcl_plugin.index.mips`. A query's vector needs that query alone, so it is made when it comes.

New items change no vector that is there: export them, add them (within the same phi). New bank
queries and a new fit change all items: export the gallery anew.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, TypeAlias

import numpy as np

from emcl_plugin._internal.arrays import Array
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.baselines.registry import METHODS
from emcl_plugin.errors import EmclError, InputTypeError, InputValueError, ran_out_of_memory
from emcl_plugin.index.mips import (
    Vectors,
    check_space,
    gallery_vectors,
    longest,
    queries_in,
    query_vectors,
    scores_in,
    to_scores,
)

__all__ = [
    "MissingLibraryError",
    "gallery_vectors",
    "longest",
    "query_vectors",
    "require",
    "require_servable",
    "search_faiss",
    "to_faiss",
    "to_scores",
]

Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_REMEDIES = {
    "faiss": 'pip install "emcl-plugin[cpu]"',
    "pyarrow": 'pip install "emcl-plugin[formats]"',
    "lancedb": "pip install lancedb",
    "qdrant_client": "pip install qdrant-client",
}
_WHY_NOT = {
    "dsl": "its weights are a softmax over all the queries of a run",
    "dis": "whether it corrects a query depends on that query's best item",
    "dual-dis": "what it adds to a query depends on that query's best item",
}


class MissingLibraryError(EmclError, ImportError):
    """A library that only this needs is not installed."""


def require(module: str) -> Any:
    """An optional library, or the error that says how to install it.

    >>> require("faiss").__name__
    'faiss'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise MissingLibraryError(
            "this needs a library that is not installed", str(error), _REMEDIES[module]
        ) from None


# --- FAISS --------------------------------------------------------------------------------------


def to_faiss(
    corrector: Corrector, factory: Any = "Flat", *, space: str = "ip", phi: float | None = None
) -> Any:
    """A FAISS index of the gallery's exported vectors; item j has the id j.

    Parameters
    ----------
    corrector : Corrector
    factory : str or faiss.Index, default "Flat"
        FAISS's factory string, such as "HNSW32", "IVF64,Flat" or "IVF64,PQ8" (vectors get zeros
        where product quantisation needs another dimension), or an empty index, which is filled
        and returned. Trained on the gallery where it has to be.
    space, phi
        As in :func:`gallery_vectors`. "ip" and "cosine" take an index of METRIC_INNER_PRODUCT,
        "l2" one of METRIC_L2.

    Returns
    -------
    faiss.Index

    Raises
    ------
    InputValueError, InputTypeError
        Not an index; of another metric or dimension; not empty; too few items to train it.
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
        raise InputValueError(
            "the index is not empty", f"{factory.ntotal} vectors in it", "pass a new one"
        )
    try:
        if not factory.is_trained:
            factory.train(vectors)
        if isinstance(factory, faiss.IndexIDMap):
            factory.add_with_ids(vectors, np.arange(len(vectors)))
        else:
            factory.add(vectors)
    except RuntimeError as error:
        raise InputValueError(
            f"FAISS cannot fill this index with {len(vectors)} vectors",
            _reason(error),
            'take fewer lists, such as "IVF16,Flat", or "Flat", which needs no training',
        ) from None
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
    """The k best items of every query by an index of :func:`to_faiss`, best first.

    Where an approximate index finds fewer than k, the rest are items -1 with scores -inf.

    Returns
    -------
    scores : (n, k) float32
        The corrector's, in whatever space the index is.
    items : (n, k) int64

    Raises
    ------
    InputValueError, InputTypeError
        Not an index; of another metric or dimension; k is larger than it.
    """
    faiss = require("faiss")
    asked = query_vectors(corrector, queries)
    vectors = queries_in(space, asked)
    _check_index(faiss, index, vectors.shape[1], space)
    if not 1 <= k <= index.ntotal:
        raise InputValueError(
            "k must be at least 1 and at most the number of vectors in the index",
            f"k={k}, {index.ntotal} vectors",
            "10 is usual",
        )
    found, items = index.search(vectors, k)
    missing = items < 0
    if missing.any():
        found[missing] = 0  # FAISS says so with the largest number there is
    if space != "ip":
        found = scores_in(space, found, asked, longest(corrector) if phi is None else phi)
    if missing.any():
        found[missing] = -np.inf
    return found, items


def _made(faiss: Any, factory: str, dimension: int, space: str) -> Any:
    """The index of a factory string, with zeros before a PQ that does not divide the dimension."""
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
        raise InputValueError(
            "FAISS makes no such index",
            f"{factory!r}: {_reason(error)}",
            'for example "Flat", "HNSW32" or "IVF64,Flat"',
        ) from None


def _check_index(faiss: Any, index: Any, dimension: int, space: str) -> None:
    """Raise where an index would not rank these vectors by the score."""
    if not isinstance(index, faiss.Index):
        raise InputTypeError(
            "this is not a FAISS index of float vectors",
            f"{type(index).__module__}.{type(index).__qualname__}",
            "pass a factory string or a faiss.Index",
        )
    name = type(index).__name__
    if index.metric_type != _metric(faiss, space):
        l2 = index.metric_type == faiss.METRIC_L2
        raise InputValueError(
            f'the index has another metric than the space "{space}"',
            f"{name}, metric_type {index.metric_type}" + (" (METRIC_L2)" if l2 else ""),
            'make it with faiss.METRIC_INNER_PRODUCT, or pass space="l2", the construction for '
            "Euclidean distance"
            if l2
            else f"make it with faiss.METRIC_{'L2' if space == 'l2' else 'INNER_PRODUCT'}",
        )
    if index.d != dimension:
        raise InputValueError(
            "the index has another dimension than the exported vectors",
            f"{name}, d={index.d}; {dimension} are exported",
            "make it with that dimension: D + 1, in the spaces cosine and l2 D + 2",
        )
    if space != "cosine" and _normalises(faiss, index):
        raise InputValueError(
            "the index brings vectors to unit length, which changes the ranking",
            name,
            'leave L2norm out, or pass space="cosine"',
        )


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
    """FAISS's message without the place in its source."""
    return str(error).rsplit(": ", 1)[-1]


# --- methods ------------------------------------------------------------------------------------


def require_servable(name: str) -> None:
    """Raise where a method's scores are no inner products of vectors, and say why.

    >>> require_servable("csls")
    >>> try:
    ...     require_servable("dsl")
    ... except InputValueError as error:
    ...     print(error.received)
    dsl: its weights are a softmax over all the queries of a run
    """
    from emcl_plugin.evaluation.compare import ABLATION, PRIORS

    known = dict.fromkeys((*ABLATION, *PRIORS), True)
    known |= {method.name: method.serves for method in METHODS.values()}
    if name not in known:
        raise InputValueError(
            "no method has this name", repr(name), f"use one of {', '.join(known)}"
        )
    if not known[name]:
        raise InputValueError(
            "this method cannot be exported to an index of vectors",
            f"{name}: {_WHY_NOT.get(name, 'it needs all scores of a query, or all queries')}",
            f"one of {', '.join(n for n, serves in known.items() if serves)} can",
        )
