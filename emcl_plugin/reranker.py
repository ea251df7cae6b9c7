"""`Reranker`: an estimator that corrects future queries, in the style of scikit-learn."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emcl_plugin._internal.arrays import Arr, Array, Kind
from emcl_plugin._internal.progress import Progress
from emcl_plugin._internal.warn import warn
from emcl_plugin.api import rescore
from emcl_plugin.bank import BankReport, fit_corrector, overlap_message
from emcl_plugin.bank.corrector import DRIFT
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import DriftWarning, InputValueError, NotFittedError, OverlapWarning
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.report import Report

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's from Python 3.11 on


class Reranker:
    """Estimator that corrects future queries by a bank of others, in the style of scikit-learn.

    ``fit`` learns from a bank of queries and the gallery (protocol "bank"); ``transform`` and
    ``search`` then score each query independently. ``fit_transform`` is :func:`rescore`: the
    correction is learnt from the texts that are scored (protocol "transductive").

    Parameters
    ----------
    emcl, ncl, prior, guard, metric, device, memory
        As in :func:`rerank`. In bank mode NCL's "auto" is :data:`emcl_plugin.bank.BANK`, because
        future queries need not request the same items as the bank.

    Attributes
    ----------
    corrector_ : Corrector
        After ``fit``: vectors, biases and gate, see :mod:`emcl_plugin.bank.corrector`.
    report_ : BankReport or Report
        After ``fit`` or ``fit_transform``: what was applied and why.

    Raises
    ------
    NotFittedError
        A method that needs it is called before ``fit``.
    InputValueError, InputTypeError
        An array has another dimension than the gallery, or a setting is wrong.

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
    ) -> Self:
        """Fit the correction on a bank of queries, and return self.

        Errors and warnings are those of :func:`rerank`; names must match the gallery.

        Parameters
        ----------
        bank_queries : (n_bank, D)
            Queries that will not be scored: of a training set, a log or another split.
        gallery : (n_gallery, D)
            The items that will be searched: videos for text queries, texts for video queries.
        gallery_bank : (n, D), optional
            More items of the gallery's kind, ideally those that the bank's queries ask for.
        names : sequence of str, optional
            One name per gallery item.
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

    def transform(self, queries: Arr) -> Arr:
        """Return corrected scores (n, n_gallery) in the library, dtype and device of ``queries``.

        Each row depends on its query alone, bit for bit. Warn (OverlapWarning) if some of the
        queries are in the bank.
        """
        seen = self.corrector_.seen(queries)
        if seen:
            warn(overlap_message(seen, len(queries), "queries"), OverlapWarning)
        return self._out(queries, list(self.corrector_.scores(queries)))

    def search(self, queries: Arr, k: int = 10, *, index: Any = None) -> tuple[Arr, Arr]:
        """Return scores and indices of the k best gallery items per query, (n, k), best first.

        Parameters
        ----------
        queries : (n, D)
        k : int, default 10
            At most the size of the gallery.
        index : FAISS index, optional
            An index from :meth:`to_faiss`. Default: score every gallery item. Where the index
            finds fewer than k items, the rest are -1.
        """
        if index is not None:
            from emcl_plugin.index.faiss import search_faiss

            found: Any = search_faiss(self.corrector_, index, queries, k)
            return found[0], found[1]
        scores, indices = self.corrector_.search(queries, k)
        places: Any = indices.cpu().numpy() if isinstance(queries, np.ndarray) else indices
        return self._out(queries, [scores]), places

    def partial_fit(
        self,
        gallery: Array | None = None,
        bank_queries: Array | None = None,
        *,
        names: Sequence[str] = (),
        refit_at: float | None = None,
    ) -> Self:
        """Add gallery items, bank queries or both, at least one, without a new fit.

        New items get the bias that the bank queries' potentials give them. New bank queries update
        all biases by one Sinkhorn iteration.

        Parameters
        ----------
        gallery, bank_queries : (n, D), optional
        names : sequence of str, optional
            One per new gallery item, if the others have names.
        refit_at : float, optional
            Refit if ``drift_`` exceeds this afterwards, e.g. 0.25. Default: never; warn
            (DriftWarning) if it exceeds 0.25.
        """
        if gallery is None and bank_queries is None:
            raise InputValueError(
                "nothing to add", "neither gallery nor bank_queries", "pass one of them"
            )
        corrector = self.corrector_
        if bank_queries is not None:
            corrector = corrector.with_queries(bank_queries)
        if gallery is not None:
            corrector = corrector.with_items(gallery, tuple(names))
        self.corrector_ = corrector
        return self._watch(refit_at)

    def remove(self, items: Sequence[int | str], *, refit_at: float | None = None) -> Self:
        """Remove gallery items by index or by name; the others keep their order.

        ``refit_at`` is as in :meth:`partial_fit`. Raise InputValueError if no item, or more than
        one, has this name, an index is out of range, or none would remain.
        """
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

    def refit(self, *, progress: Progress | None = None) -> Self:
        """Fit again on the current bank and gallery."""
        old = self.corrector_
        auxiliary = old.auxiliary if len(old.auxiliary) else None
        return self.fit(
            old.bank, old.gallery, gallery_bank=auxiliary, names=old.names, progress=progress
        )

    @property
    def drift_(self) -> float:
        """How far one more iteration would move the biases (0 after a fit), see Corrector.drift."""
        return self.corrector_.drift()

    def fit_transform(self, text: Arr, video: Arr) -> Arr:
        """Return corrected scores (n_text, n_video) of two sets of features, transductive."""
        result = rescore(None, (text, video), **self.get_params())
        names = Report.__dataclass_fields__
        self.report_ = Report(**{name: getattr(result, name) for name in names})
        scores: Arr = result.scores
        return scores

    # --- state and serving ----------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the fitted corrector to a folder, see :mod:`emcl_plugin.bank.persistence`.

        Raise InputFileError if the folder exists (without ``force``) or cannot be written.
        """
        from emcl_plugin.bank.persistence import save

        save(self, Path(folder), force=force)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | None = None) -> Self:
        """Load a Reranker from a folder; no code in it is executed.

        Raise InputFileError if the folder does not hold an intact saved corrector.
        """
        from emcl_plugin.bank.persistence import load

        return load(Path(folder), cls, device=device)

    def export_vectors(self) -> Array:
        """Return [M v, tau g], (n_gallery, D + 1), for any inner-product index."""
        return np.asarray(self.corrector_.vectors_of_gallery().cpu())

    def query_vectors(self, queries: Arr) -> Arr:
        """Return [M q, s], (n, D + 1), to query that index; it ranks as :meth:`search` does."""
        return self._out(queries, list(self.corrector_.vectors(queries)), narrow=False)

    def to_faiss(self, factory: Any = "Flat") -> Any:
        """Return a FAISS index of the exported vectors, see :mod:`emcl_plugin.index.faiss`."""
        from emcl_plugin.index.faiss import to_faiss

        return to_faiss(self.corrector_, factory)

    def _watch(self, refit_at: float | None) -> Self:
        drift = self.drift_
        if refit_at is not None and drift > refit_at:
            return self.refit()
        if refit_at is None and drift > DRIFT:
            warn(
                f"the biases have drifted by {100 * drift:.0f} % since the fit; call refit()",
                DriftWarning,
            )
        return self

    @staticmethod
    def _out(like: Arr, blocks: list[torch.Tensor], *, narrow: bool = True) -> Arr:
        """Return one array of the kind of ``like`` (in at least float32 unless ``narrow``)."""
        kind = Kind.of(like)
        if not narrow:
            kind = replace(kind, dtype=blocks[0].dtype)
        out: Any = kind.narrow(torch.cat(blocks))
        found: Arr = out.numpy() if kind.numpy else out
        return found

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings by name, as scikit-learn's clone needs them."""
        del deep
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change settings by name and return self; raise InputValueError for an unknown one."""
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
                f"{name} does not exist yet", "a Reranker that is not fitted", "call fit first"
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
