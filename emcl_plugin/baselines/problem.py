"""What a baseline is given, how it describes itself, and what several of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from emcl_plugin.errors import InputValueError
from emcl_plugin.scores import Biased, FeaturePair, Features, Similarity
from emcl_plugin.scores.reductions import logsumexp

FEATURES, QUERY_BANK, GALLERY_BANK = "features", "query bank", "gallery bank"


@dataclass(frozen=True)
class Direction:
    """One retrieval direction: queries x gallery and what else is known.

    Attributes
    ----------
    scores : Similarity, (n_query, n_gallery)
        What to correct. Published temperatures and weights are for cosines in [-1, 1]: divide
        scores that carry a logit scale by it first. Where there is a bank, the scores have to
        be the inner products of ``queries`` and ``gallery``, because the bank's are.
    queries, gallery : Features, optional
        Embeddings of the two sides.
    query_bank : Features, optional
        Other queries, of the side that ``queries`` are of. Needs ``gallery``.
    gallery_bank : Features, optional
        Other items, of the side that ``gallery`` is of. Needs ``gallery``.

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
        for name, count in (
            ("queries", 0),
            ("gallery", 1),
            ("query_bank", -1),
            ("gallery_bank", -1),
        ):
            features: Features | None = getattr(self, name)
            if features is None:
                continue
            if count >= 0 and features.shape[0] != self.scores.shape[count]:
                raise InputValueError(
                    f"the {name} and the scores do not belong together",
                    f"{name} {features.shape}, scores {self.scores.shape}",
                    "scores have one row per query and one column per gallery item",
                )
            if count < 0 and self.gallery is None:
                raise InputValueError(
                    f"the {name.replace('_', ' ')} has nothing to be compared with",
                    f"{name} {features.shape} and no gallery features",
                    "pass the features of the gallery too",
                )
            dimension = features.shape[1] if dimension is None else dimension
            if features.shape[1] != dimension:
                raise InputValueError(
                    f"the {name.replace('_', ' ')} has another dimension than the other features",
                    f"{features.shape[1]} instead of {dimension}",
                    "embed everything with the same model",
                )

    @property
    def T(self) -> Direction:
        """The opposite direction: the gallery's items ask for the queries."""
        return Direction(
            self.scores.T, self.gallery, self.queries, self.gallery_bank, self.query_bank
        )

    @property
    def protocol(self) -> str:
        """``"bank"``: corrected by other queries; ``"transductive"``: by the test queries."""
        return "transductive" if self.query_bank is None else "bank"

    @property
    def memory(self) -> int | None:
        """Memory budget in bytes of the scores; None is the default of 4 GiB."""
        return getattr(self.scores, "memory", None)

    @property
    def sides(self) -> tuple[Features, Features]:
        """Features of queries and gallery; raises where they are missing."""
        return self._there(self.queries, FEATURES), self._there(self.gallery, FEATURES)

    def probe(self) -> Similarity:
        """Scores that the gallery is judged by: the query bank's, else the test queries'."""
        if self.query_bank is None:
            return self.scores
        return self._against_gallery(self.query_bank)

    def query_probe(self) -> Similarity:
        """Bank queries x gallery; raises where there is no query bank."""
        return self._against_gallery(self._there(self.query_bank, QUERY_BANK))

    def gallery_probe(self) -> Similarity:
        """Gallery bank x gallery; raises where there is no gallery bank."""
        return self._against_gallery(self._there(self.gallery_bank, GALLERY_BANK))

    def bank_probe(self) -> Similarity:
        """Bank queries x gallery bank; raises where one is missing."""
        queries = self._there(self.query_bank, QUERY_BANK)
        return FeaturePair(
            queries, self._there(self.gallery_bank, GALLERY_BANK), memory=self.memory
        )

    def _against_gallery(self, bank: Features) -> FeaturePair:
        return FeaturePair(bank, self._there(self.gallery, FEATURES), memory=self.memory)

    @staticmethod
    def _there(features: Features | None, what: str) -> Features:
        if features is None:
            raise InputValueError(f"this method needs {what}", "none", f"pass the {what}")
        return features


@dataclass(frozen=True)
class Method:
    """A training-free correction and what a user has to know before choosing it.

    Attributes
    ----------
    name, title : str
        The field's short name, and the name in words.
    paper : str
        Authors, title, venue, year, and arXiv number where there is one.
    needs : tuple of str
        Of "features", "query bank", "gallery bank": without these it cannot run.
    bank : bool
        Whether it takes a query bank in place of the test queries.
    serves : bool
        Whether an inner-product index can serve it, as one more dimension of the vectors or as
        changed vectors. Otherwise all scores of a query have to be at hand, or all queries.
    correct : callable
        From a :class:`Direction` to the corrected :class:`~emcl_plugin.scores.Similarity`;
        the published settings are its keyword arguments' defaults. Rank its rows.
    """

    name: str
    title: str
    paper: str
    needs: tuple[str, ...]
    bank: bool
    serves: bool
    correct: Callable[..., Similarity]

    def missing(self, direction: Direction) -> tuple[str, ...]:
        """What it needs and is not there."""
        there = {
            FEATURES: direction.queries is not None and direction.gallery is not None,
            QUERY_BANK: direction.query_bank is not None,
            GALLERY_BANK: direction.gallery_bank is not None,
        }
        return tuple(need for need in self.needs if not there[need])


# --- what several methods share ---------------------------------------------------------------


def column_mean(source: Similarity, k: int) -> torch.Tensor:
    """Mean of the ``k`` largest scores of every column (of all, where there are fewer)."""
    out = torch.empty(source.shape[1], dtype=source.dtype, device=source.device)
    for start, stop, block in source.T.blocks():
        out[start:stop] = torch.topk(block, min(k, source.shape[0]), dim=1).values.mean(1)
    return out


def column_softmax(source: Similarity, temperature: float) -> torch.Tensor:
    """``temperature * log sum_i exp(S_ij / temperature)`` of every column, in units of S."""
    return temperature * logsumexp(source, temperature)[1]


def add_to_columns(source: Similarity, bias: torch.Tensor) -> Biased:
    """The source with one number added to each gallery item."""
    return Biased(source, bias.new_zeros(source.shape[0]), bias)


def check_positive(**settings: float) -> None:
    """Raise where a setting is not a positive, finite number."""
    for name, value in settings.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputValueError(
                f"{name} must be a positive number", f"{name}={value}", "leave it out"
            )
