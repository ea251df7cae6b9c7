"""Exported vectors: a corrector's scores as inner products of query and gallery vectors.

The vectors are those of (e) in :mod:`emcl_plugin.bank.corrector`. A query vector depends on that
query alone. For stores that do not rank by inner product see :mod:`emcl_plugin.index.mips`.

New items change no existing vector: export and add them, with the same phi. New bank queries or
a new fit change all items: export the gallery again.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.baselines.registry import METHODS
from emcl_plugin.errors import EmclError, InputValueError, ran_out_of_memory
from emcl_plugin.index.mips import (  # noqa: F401 (also read as emcl_plugin.spaces)
    SPACES,
    Vectors,
    check_space,
    items_in,
    lengths,
    queries_in,
    scores_in,
)

_REMEDIES = {
    "faiss": 'pip install "emcl-plugin[cpu]"',
    "pyarrow": 'pip install "emcl-plugin[formats]"',
    "lancedb": "pip install lancedb",
    "qdrant_client": "pip install qdrant-client",
}
_WHY_NOT = {
    "dsl": "its weights are a softmax over all queries of a run",
    "dis": "whether it corrects a query depends on the best item of that query",
    "dual-dis": "what it adds to a query depends on the best item of that query",
}


class MissingLibraryError(EmclError, ImportError):
    """An optional library is not installed."""


def require(module: str) -> Any:
    """Import an optional library, or raise an error with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from error
        problem = "this needs a library that is not installed"
        raise MissingLibraryError(problem, str(error), _REMEDIES[module]) from None


def gallery_vectors(
    corrector: Corrector, space: str = "ip", *, phi: float | None = None
) -> Vectors:
    """Return the gallery's vectors for a store that ranks by this space.

    Parameters
    ----------
    corrector : Corrector
    space : {"ip", "cosine", "l2"}
    phi : float, optional
        For "cosine" and "l2": upper bound of the items' lengths, with room for later items.
        Default: :func:`longest`. InputValueError is raised for longer items.

    Returns
    -------
    (n_gallery, D + 1) float32, for "cosine" and "l2" (n_gallery, D + 2)

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
    """Return vectors of queries (n, D) for a store of :func:`gallery_vectors`.

    Their shape is (n, D + 1), for "cosine" and "l2" (n, D + 2), in float32.
    """
    return queries_in(space, torch.cat(list(corrector.vectors(queries))).cpu().numpy())


def longest(corrector: Corrector) -> float:
    """Return the smallest phi: the length of the gallery's longest exported vector."""
    return float(lengths(gallery_vectors(corrector)).max())


def to_scores(
    corrector: Corrector,
    queries: Array,
    found: Array,
    space: str = "ip",
    *,
    phi: float | None = None,
) -> Vectors:
    """Return the corrector's scores, (n, k) float32, given the values that a store returned.

    Parameters
    ----------
    corrector : Corrector
    queries : (n, D)
        The queries of that search.
    found : (n, k)
        Inner products, cosines (1 - cosine distance) or *squared* L2 distances.
    space, phi
        As in :func:`gallery_vectors`.

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


def require_servable(name: str) -> None:
    """Raise an error if a method's scores are not inner products of vectors.

    >>> require_servable("csls")
    """
    from emcl_plugin.evaluation.compare import ABLATION, PRIORS

    known = dict.fromkeys((*ABLATION, *PRIORS), True)
    known |= {method.name: method.serves for method in METHODS.values()}
    if name not in known:
        remedy = f"use one of {', '.join(known)}"
        raise InputValueError("no method has this name", repr(name), remedy)
    if not known[name]:
        raise InputValueError(
            "this method cannot be exported to an index of vectors",
            f"{name}: {_WHY_NOT.get(name, 'it needs all scores of a query, or all queries')}",
            f"use one of {', '.join(n for n, serves in known.items() if serves)}",
        )
