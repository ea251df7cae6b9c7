"""`Reranker`: corrects queries that are not known yet; an estimator like scikit-learn's."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, Kind
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import warn
from emcl_plugin.api import rescore
from emcl_plugin.bank import BankReport, fit_corrector, leak
from emcl_plugin.bank.corrector import DRIFT
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import DriftWarning, InputValueError, LeakWarning, NotFittedError
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.report import Report


class Reranker:
    """Correct queries that are not known yet, by a bank of others; an estimator as scikit-learn's.

    ``fit`` learns from a bank of queries and the gallery (protocol "bank"); ``transform`` and
    ``search`` then score any query by itself. ``fit_transform`` is :func:`rescore`: the very
    texts that are scored make the correction (protocol "transductive").

    Parameters
    ----------
    emcl, ncl, prior, guard, metric, device, memory
        As in :func:`rerank`. In bank mode "auto" takes :data:`emcl_plugin.bank.BANK` for NCL,
        because what a bank asks for is not what will be asked.

    Attributes
    ----------
    corrector_ : Corrector
        After ``fit``: vectors, biases and gate, see :mod:`emcl_plugin.bank.corrector`.
    report_ : BankReport or Report
        After ``fit`` or ``fit_transform``: what was done and why.

    Examples
    --------
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> reranker = Reranker().fit(demo.text_bank, demo.video)
    >>> scores, videos = reranker.search(demo.text[:2], k=3)
    >>> videos.shape, reranker.report_.protocol
    ((2, 3), 'bank')
    """

    def __init__(
        self,
        emcl: EMCL | str | None = "auto",
        ncl: NCL | str | None = "auto",
        prior: str = "auto",
        guard: bool = True,
        metric: str = "cosine",
        device: str | torch.device | None = None,
        memory: int | None = None,
    ) -> None:
        self.emcl = emcl
        self.ncl = ncl
        self.prior = prior
        self.guard = guard
        self.metric = metric
        self.device = device
        self.memory = memory

    def fit(
        self,
        bank_queries: Array,
        gallery: Array,
        *,
        gallery_bank: Array | None = None,
        names: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Reranker:
        """Learn from a bank of queries how to correct the scores of queries to come.

        Parameters
        ----------
        bank_queries : (n_bank, D)
            Queries that are not those to be scored: of a training set, a log, another split.
        gallery : (n_gallery, D)
            What will be searched: videos for text queries, texts for video queries.
        gallery_bank : (n, D), optional
            More items of the gallery's kind, best those that belong to the bank's queries.
        names : sequence of str, optional
            What the gallery's items are called; kept with them.
        progress : callable, optional
            Called with (stage, done, total).
        """
        self.report_: BankReport | Report
        self.corrector_, self.report_ = fit_corrector(
            bank_queries,
            gallery,
            gallery_bank=gallery_bank,
            names=tuple(names),
            progress=progress,
            **self.get_params(),
        )
        return self

    def transform(self, queries: Array) -> Array:
        """Corrected scores (n, n_gallery), of the library, dtype and device of ``queries``.

        Each row depends on its query alone, to the last bit.

        Warns
        -----
        LeakWarning
            If some of the queries are in the bank.
        """
        seen = self.corrector_.seen(queries)
        if seen:
            warn(leak(seen, len(queries), "queries"), LeakWarning)
        return self._out(queries, list(self.corrector_.scores(queries)))

    def search(self, queries: Array, k: int = 10, *, index: Any = None) -> tuple[Array, Array]:
        """The k best gallery items of every query, best first: scores and indices, (n, k).

        Parameters
        ----------
        queries : (n, D)
        k : int, default 10
        index : FAISS index, optional
            Search this one, made by :meth:`to_faiss`, in place of every gallery item. Where it
            finds fewer than k items, -1 stands for the others.
        """
        if index is not None:
            from emcl_plugin.index.faiss import search_faiss

            found: tuple[Array, Array] = search_faiss(self.corrector_, index, queries, k)
            return found
        scores, indices = self.corrector_.search(queries, k)
        numpy = isinstance(queries, np.ndarray)
        return self._out(queries, [scores]), indices.cpu().numpy() if numpy else indices

    def partial_fit(
        self,
        gallery: Array | None = None,
        bank_queries: Array | None = None,
        *,
        names: Sequence[str] = (),
        refit_at: float | None = None,
    ) -> Reranker:
        """Take in new gallery items, new bank queries, or both, without fitting anew.

        New items get the bias that the bank queries' potentials give them; new bank queries
        renew all biases by one iteration of NCL.

        Parameters
        ----------
        gallery : (n, D), optional
        bank_queries : (n, D), optional
        names : sequence of str, optional
            Of the new gallery items, where the others have names.
        refit_at : float, optional
            Fit anew where ``drift_`` is beyond this afterwards; 0.25 is sensible. Default:
            never, a drift beyond 0.25 is said.

        Warns
        -----
        DriftWarning
            If the drift is beyond 0.25 and ``refit_at`` is not given.
        """
        if gallery is None and bank_queries is None:
            raise InputValueError(
                "there is nothing new", "neither gallery nor bank_queries", "pass one of them"
            )
        corrector = self.corrector_
        if bank_queries is not None:
            corrector = corrector.with_queries(bank_queries)
        if gallery is not None:
            corrector = corrector.with_items(gallery, tuple(names))
        self.corrector_ = corrector
        return self._watch(refit_at)

    def remove(self, items: Sequence[int | str], *, refit_at: float | None = None) -> Reranker:
        """Take gallery items away, by index or by name; the others keep their order."""
        names = self.corrector_.names
        known = {name: index for index, name in enumerate(names)}
        count = Counter(names)
        for item in items:
            if isinstance(item, str) and count[item] != 1:
                how = "no gallery item has" if not count[item] else "several gallery items have"
                raise InputValueError(f"{how} this name", repr(item), "remove it by its index")
        indices = [known[item] if isinstance(item, str) else int(item) for item in items]
        self.corrector_ = self.corrector_.without(indices)
        return self._watch(refit_at)

    def refit(self, *, progress: Progress | None = None) -> Reranker:
        """Fit anew on the bank and the gallery as they are now."""
        old = self.corrector_
        auxiliary = old.auxiliary if len(old.auxiliary) else None
        return self.fit(
            old.bank, old.gallery, gallery_bank=auxiliary, names=old.names, progress=progress
        )

    @property
    def drift_(self) -> float:
        """How far one more iteration would move the biases: 0 after a fit, see Corrector.drift."""
        return self.corrector_.drift()

    def fit_transform(self, text: Array, video: Array) -> Array:
        """Re-scored (n_text, n_video) of two sets of features, transductive."""
        result = rescore(None, (text, video), **self.get_params())
        names = (name for name in Report.__dataclass_fields__)
        self.report_ = Report(**{name: getattr(result, name) for name in names})
        return result.scores

    # --- state and serving ----------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the fitted corrector to a folder, see :mod:`emcl_plugin.bank.persistence`."""
        from emcl_plugin.bank.persistence import save

        save(self, Path(folder), force=force)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> Reranker:
        """The Reranker that was saved in a folder; nothing in it is executed."""
        from emcl_plugin.bank.persistence import load

        return load(Path(folder), cls, device=device)

    def export_vectors(self) -> Array:
        """[M v, tau g], (n_gallery, D + 1): put these into any inner-product index."""
        return np.asarray(self.corrector_.vectors_of_gallery().cpu())

    def query_vectors(self, queries: Array) -> Array:
        """[M q, s], (n, D + 1): search that index by these; the ranking is ``search``'s."""
        return self._out(queries, list(self.corrector_.vectors(queries)), narrow=False)

    def to_faiss(self, factory: Any = "Flat") -> Any:
        """A FAISS index of the exported vectors, see :func:`emcl_plugin.index.faiss.to_faiss`."""
        from emcl_plugin.index.faiss import to_faiss

        return to_faiss(self.corrector_, factory)

    def _watch(self, refit_at: float | None) -> Reranker:
        drift = self.drift_
        if refit_at is not None and drift > refit_at:
            return self.refit()
        if refit_at is None and drift > DRIFT:
            warn(
                f"the biases have drifted by {100 * drift:.0f} % since the fit; refit() would "
                "renew them",
                DriftWarning,
            )
        return self

    @staticmethod
    def _out(like: Array, blocks: list[torch.Tensor], *, narrow: bool = True) -> Array:
        """One array of the kind of ``like`` (in at least float32 where not ``narrow``)."""
        kind = Kind.of(like)
        if not narrow:
            kind = replace(kind, dtype=blocks[0].dtype)
        out = kind.narrow(torch.cat(blocks))
        return out.numpy() if kind.numpy else out

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn's clone needs them (there is nothing deep)."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Reranker:
        """Change settings by name and return self."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputValueError(
                    "Reranker has no such setting", repr(name), f"use one of {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            raise NotFittedError(
                f"{name} is not there yet", "a Reranker that was not fitted", "call fit first"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not (usual := defaults[name].default)
            and not (isinstance(value, str) and value == usual)
        )
        return f"Reranker({', '.join(changed)})"
