"""Input and description of a baseline, and helpers that several share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch

from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Biased, FeaturePair, Features, Similarity
from emcl_plugin.scores.reductions import logsumexp

FEATURES, QUERY_BANK, GALLERY_BANK = "features", "query bank", "gallery bank"


@dataclass(frozen=True)
class Direction:
    """One retrieval direction: scores of queries x gallery, with features and banks if known.

    Attributes
    ----------
    scores : Similarity, (n_query, n_gallery)
        Scores to correct. Published settings are for cosines in [-1, 1]: divide by the logit
        scale first. With a bank, they must be the inner products of ``queries`` and ``gallery``.
    queries, gallery : Features, optional
        Embeddings.
    query_bank : Features, optional
        Other queries. Needs ``gallery``.
    gallery_bank : Features, optional
        Other items. Needs ``gallery``.

    Examples
    --------
    >>> from emcl_plugin.scores import Dense
    >>> Direction(Dense(torch.eye(2))).protocol
    'transductive'
    """

    scores: Similarity
    queries: Features | None = None
    gallery: Features | None = None
    query_bank: Features | None = None
    gallery_bank: Features | None = None

    def __post_init__(self) -> None:
        dimension = None
        axes = {"queries": 0, "gallery": 1, "query_bank": None, "gallery_bank": None}
        for name, axis in axes.items():
            features: Features | None = getattr(self, name)
            if features is None:
                continue
            spoken = name.replace("_", " ")
            if axis is not None and features.shape[0] != self.scores.shape[axis]:
                raise InputValueError(
                    f"the {name} and the scores do not belong together",
                    f"{name} {features.shape}, scores {self.scores.shape}",
                    "scores have one row per query and one column per gallery item",
                )
            if axis is None and self.gallery is None:
                problem = f"the {spoken} has nothing to be compared with"
                received = f"{name} {features.shape} and no gallery features"
                raise InputValueError(problem, received, "pass the features of the gallery too")
            dimension = features.shape[1] if dimension is None else dimension
            if features.shape[1] != dimension:
                problem = f"the {spoken} has another dimension than the other features"
                received = f"{features.shape[1]} instead of {dimension}"
                raise InputValueError(problem, received, "embed everything with the same model")

    @property
    def T(self) -> Direction:
        """The opposite direction: the gallery items are the queries."""
        return Direction(
            self.scores.T, self.gallery, self.queries, self.gallery_bank, self.query_bank
        )

    @property
    def protocol(self) -> str:
        """``"bank"`` if corrected by other queries, ``"transductive"`` if by the test queries."""
        return "transductive" if self.query_bank is None else "bank"

    @property
    def memory(self) -> int | None:
        """Memory budget of the scores in bytes; None is 4 GiB."""
        return getattr(self.scores, "memory", None)

    @property
    def sides(self) -> tuple[Features, Features]:
        """Features of queries and gallery; raises if they are missing."""
        return _there(self.queries, FEATURES), _there(self.gallery, FEATURES)

    @property
    def references(self) -> tuple[Features, Features]:
        """Features that statistics of both sides are taken of: the bank, where given."""
        queries, gallery = self.sides
        return self.query_bank or queries, self.gallery_bank or gallery

    def probe(self) -> Similarity:
        """Return query bank x gallery, or the scores of the test queries."""
        return self.scores if self.query_bank is None else self.query_probe()

    def query_probe(self) -> Similarity:
        """Return query bank x gallery."""
        return self._pair(_there(self.query_bank, QUERY_BANK), _there(self.gallery, FEATURES))

    def gallery_probe(self) -> Similarity:
        """Return gallery bank x gallery."""
        return self._pair(_there(self.gallery_bank, GALLERY_BANK), _there(self.gallery, FEATURES))

    def bank_probe(self) -> Similarity:
        """Return query bank x gallery bank."""
        queries = _there(self.query_bank, QUERY_BANK)
        return self._pair(queries, _there(self.gallery_bank, GALLERY_BANK))

    def _pair(self, queries: Features, gallery: Features) -> FeaturePair:
        return FeaturePair(queries, gallery, memory=self.memory)


def _there(features: Features | None, what: str) -> Features:
    if features is None:
        raise InputValueError(f"this method needs {what}", "none", f"pass the {what}")
    return features


@dataclass(frozen=True)
class Method:
    """A training-free correction and its requirements.

    Attributes
    ----------
    name, title : str
        Short name and full name.
    needs : tuple of str
        Required inputs, of "features", "query bank" and "gallery bank".
    bank : bool
        True if it accepts a query bank in place of the test queries.
    serves : bool
        True if an inner-product index can serve it, with an extra dimension or changed vectors.
    correct : callable
        From a :class:`Direction` to the corrected :class:`~emcl_plugin.scores.Similarity`, of
        which to rank the rows. The published settings are its defaults.
    """

    name: str
    title: str
    correct: Callable[..., Similarity]
    _: KW_ONLY
    needs: tuple[str, ...] = ()
    bank: bool = True
    serves: bool = True

    @property
    def paper(self) -> str:
        """Authors, title, venue, year and arXiv number, from the docstring of ``correct``."""
        text = (inspect.getdoc(self.correct) or "").partition("References\n----------\n")[2]
        return " ".join(text.partition("\n\n")[0].split()).rstrip(".")

    def missing(self, direction: Direction) -> tuple[str, ...]:
        """Return the required inputs that are missing."""
        there = {
            FEATURES: direction.queries is not None and direction.gallery is not None,
            QUERY_BANK: direction.query_bank is not None,
            GALLERY_BANK: direction.gallery_bank is not None,
        }
        return tuple(need for need in self.needs if not there[need])


# --- helpers of several methods ---


def column_mean(source: Similarity, k: int) -> torch.Tensor:
    """Return the mean of the ``k`` largest scores of every column."""
    out = torch.empty(source.shape[1], dtype=source.dtype, device=source.device)
    for start, stop, block in source.T.blocks():
        out[start:stop] = torch.topk(block, min(k, source.shape[0]), dim=1).values.mean(1)
    return out


def column_softmax(source: Similarity, temperature: float) -> torch.Tensor:
    """Return ``temperature * log sum_i exp(S_ij / temperature)`` of every column."""
    return temperature * logsumexp(source, temperature)[1]


def add_to_columns(source: Similarity, bias: torch.Tensor) -> Biased:
    """Add one number to each gallery item."""
    return Biased(source, bias.new_zeros(source.shape[0]), bias)


def check_positive(**settings: float) -> None:
    """Raise if a setting is not positive and finite."""
    for name, value in settings.items():
        if not (value > 0 and math.isfinite(value)):
            problem = f"{name} must be a positive number"
            raise InputValueError(problem, f"{name}={value}", "leave it out")
