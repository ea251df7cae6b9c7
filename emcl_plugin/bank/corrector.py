"""What a bank taught, ready for queries that nobody has seen: state, scores, growth.

With the map M of EMCL, the biases g that NCL found for the gallery with the bank's queries, and
the gate s of :mod:`emcl_plugin.bank.ood_gate`, the score of a query q and a gallery item v_j is

    <M q, M v_j> + s(q) tau g_j  =  < [M q, s(q)],  [M v_j, tau g_j] >                     (e)

a plain inner product in one more dimension, which any vector index can rank by. Nothing but the
query itself enters, so its scores are the same, bit for bit, alone and among others
(:mod:`emcl_plugin.scores.batch_invariant`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from emcl_plugin._internal.arrays import Array, check_finite, check_matrix
from emcl_plugin._internal.renamed import field as renamed_field
from emcl_plugin._internal.sizes import DEFAULT_MEMORY
from emcl_plugin.bank.ood_gate import OODGate, directions, fit_ood_gate
from emcl_plugin.emcl import renormalized
from emcl_plugin.errors import InputValueError
from emcl_plugin.evidence.mutual_neighbours import nearest
from emcl_plugin.evidence.near_duplicates import weights as duplicate_weights
from emcl_plugin.scores import Biased, FeaturePair, Features, Similarity
from emcl_plugin.scores.batch_invariant import TILE, padded, tiles
from emcl_plugin.scores.reductions import logsumexp

DRIFT = 0.25
"""Drift from which a fit is worth its time: the biases are a quarter of their spread off."""
SAME = 1e-4
"""Squared distance of unit vectors up to which two items are the same one (float16 rounding)."""
_SHORTEST, _LONGEST = 1e-15, 1e15  # of vectors whose squares float32 can add up


@renamed_field("likeness", "ood_gate")
@renamed_field("beside", "auxiliary")
@renamed_field("beside_bias", "auxiliary_bias")
@dataclass(frozen=True)
class Corrector:
    """A fitted correction for one direction: queries ask, the gallery answers.

    Attributes
    ----------
    metric : {"cosine", "dot"}
        With "cosine" all vectors are held at unit length.
    gallery : (n_gallery, D)
    bias : (n_gallery,)
        tau g, in the units of the scores, times ``strength``.
    basis, change : (D, r), (r,)
        EMCL's directions and their relative change; r = 0 where EMCL changes nothing.
    renormalize : bool
        Whether vectors are brought to unit length again after EMCL.
    ood_gate : OODGate
        How far a query is corrected: only where it resembles the bank's queries.
    bank : (n_bank, D)
        The bank's queries, to give new gallery items a bias and to fit anew.
    potential, weight : (n_bank,)
        The bank queries' own biases tau f_i, and as how many queries each counts.
    auxiliary, auxiliary_bias : (n_auxiliary, D), (n_auxiliary,)
        The auxiliary gallery (``gallery_bank``) and its unscaled tau g; empty without one.
    level : float
        A constant of tau g, such that its mean over the gallery was 0.
    temperature, rho, strength : float
        tau and relaxation of NCL, and how much of tau g is applied, in [0, 1].
    names : tuple of str
        What the gallery's items are called; empty where not known.
    facts : dict
        The report of the fit, for people.

    Examples
    --------
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> demo = load_demo()
    >>> corrector = Reranker().fit(demo.text_bank, demo.video).corrector_
    >>> len(corrector), corrector.dimension, corrector.drift() < 0.25
    (945, 128, True)
    """

    metric: str
    gallery: torch.Tensor
    bias: torch.Tensor
    basis: torch.Tensor
    change: torch.Tensor
    renormalize: bool
    ood_gate: OODGate
    bank: torch.Tensor
    potential: torch.Tensor
    weight: torch.Tensor
    auxiliary: torch.Tensor
    auxiliary_bias: torch.Tensor
    level: float
    temperature: float
    rho: float
    strength: float
    names: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.gallery)

    @property
    def dimension(self) -> int:
        """D, of queries and gallery items."""
        return int(self.gallery.shape[1])

    # --- scores -------------------------------------------------------------------------------

    @torch.no_grad()
    def vectors(self, queries: Array, *, gate: bool = True) -> Iterator[torch.Tensor]:
        """Blocks of [M q, s(q)] of (e), in all (n, D + 1); ``gate=False`` takes s = 1."""
        for count, rows, strength in self._mapped(queries, gate):
            yield torch.cat([rows[:count, : self.dimension], strength[:count, None]], 1)

    @torch.no_grad()
    def scores(self, queries: Array, *, gate: bool = True) -> Iterator[torch.Tensor]:
        """Blocks of corrected scores (e), in all (n, n_gallery)."""
        for count, rows, strength in self._mapped(queries, gate):
            scores = (rows @ self._mapped_gallery.T)[:, : len(self)]
            # not fused: the last columns would be rounded otherwise than the first
            yield (scores + strength[:, None] * self.bias)[:count]

    @torch.no_grad()
    def gate(self, queries: Array) -> torch.Tensor:
        """s(q) of every query, (n,): how like the bank's it is."""
        return torch.cat([block[:, -1] for block in self.vectors(queries)])

    @torch.no_grad()
    def search(self, queries: Array, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best gallery items of every query: scores and indices, (n, k), best first."""
        if not 1 <= k <= len(self):
            raise InputValueError(
                "k must be at least 1 and at most the number of gallery items",
                f"k={k}, {len(self)} items",
                "10 is usual",
            )
        best = [torch.topk(block, k, dim=1) for block in self.scores(queries)]
        return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])

    def vectors_of_gallery(self) -> torch.Tensor:
        """[M v_j, tau g_j] of (e), (n_gallery, D + 1)."""
        mapped = self._mapped_gallery[: len(self), : self.dimension]
        return torch.cat([mapped, self.bias[:, None]], 1)

    @cached_property
    def _mapped_gallery(self) -> torch.Tensor:
        return padded(self.map(self.gallery))

    def map(self, x: torch.Tensor) -> torch.Tensor:
        """M x of unit vectors (any vectors for "dot"), (n, D)."""
        if not len(self.change):
            return x
        out = x + ((x @ self.basis) * self.change) @ self.basis.T
        if not self.renormalize:
            return out
        return renormalized(out, torch.linalg.vector_norm(x, dim=1, keepdim=True))

    def _mapped(
        self, queries: Array, gate: bool
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """How many rows of the tile are queries, the tile after M, and s of its rows.

        As :meth:`map` and :meth:`OODGate.of`, from one product: a single query is served in
        the time of a few small steps, so there are few.
        """
        self._check(queries, "queries")
        asked = len(self.ood_gate.rows) if gate else 0
        first = len(self.ood_gate.rows)
        for start, stop, tile in tiles(queries, self.gallery.dtype, self.gallery.device):
            unit, length = _directions(tile, stop - start, start, self.metric)
            out = unit if self.metric == "cosine" else tile
            both = unit @ self._ahead.T
            strength = self.ood_gate.opened(both[:, :asked]) if asked else tile.new_ones(TILE)
            if len(self.change):
                along = both[:, first : first + len(self.change)]
                if self.metric == "dot":
                    along = along * length
                out = torch.addmm(out, along, self._back)
                if self.renormalize:  # unit vectors then
                    out = renormalized(out, 1.0)
            yield stop - start, out, strength

    @cached_property
    def _ahead(self) -> torch.Tensor:
        """The gate's rows, and EMCL's directions as rows."""
        return padded(torch.cat([self.ood_gate.rows, self.basis.T]))

    @cached_property
    def _back(self) -> torch.Tensor:
        """EMCL's directions times their change, as rows of the tile's width."""
        back = self.change[:, None] * self.basis.T
        return torch.nn.functional.pad(back, (0, self._ahead.shape[1] - self.dimension))

    def _check(self, x: Array, name: str) -> None:
        if check_matrix(x, name).shape[1] != self.dimension:
            raise InputValueError(
                f"the {name} have another dimension than the gallery",
                f"{tuple(x.shape)}, the gallery {tuple(self.gallery.shape)}",
                "embed them with the model that the gallery was embedded with",
            )

    # --- growth -------------------------------------------------------------------------------

    @torch.no_grad()
    def with_items(self, items: Array, names: Sequence[str] = ()) -> Corrector:
        """With new gallery items, whose biases follow from the bank queries' potentials."""
        self._check(items, "new items")
        self._check_names(names, len(items))
        new = self._read(items, "gallery")
        bias = self.strength * self._full_bias(new)
        return replace(
            self,
            gallery=torch.cat([self.gallery, new]),
            bias=torch.cat([self.bias, bias]),
            names=(*self.names, *names),
        )

    @torch.no_grad()
    def with_queries(self, queries: Array) -> Corrector:
        """With new bank queries: their potentials, all biases by one iteration, and the gate."""
        self._check(queries, "new bank queries")
        new = self._read(queries, "bank")
        found, known = self._full_potential(new), self._full_potential(self.bank)
        found += (self.potential - known).mean()  # the same constant as those that are there
        dtype, device = self.gallery.dtype, self.gallery.device
        bank, gallery = (
            Features(x, metric="dot", dtype=dtype, device=device)
            for x in (torch.cat([self.bank, new]), self.gallery)
        )
        best = nearest(FeaturePair(bank, gallery))
        weight = duplicate_weights(bank, best.video_of_text, memory=DEFAULT_MEMORY)
        ood_gate = self.ood_gate
        if len(ood_gate.known):  # they are of the bank's kind now
            ood_gate = fit_ood_gate(bank, best.video_of_text, best.text_score, ood_gate.plane)
        return replace(
            self,
            bank=bank.rows(0, bank.shape[0]),
            potential=torch.cat([self.potential, found]),
            weight=bank.rows(0, bank.shape[0]).new_ones(bank.shape[0])
            if weight is None
            else weight,
            ood_gate=ood_gate,
        ).renewed()

    @torch.no_grad()
    def without(self, indices: Sequence[int]) -> Corrector:
        """Without these gallery items, by index."""
        gone = sorted(set(indices))
        if gone and (gone[0] < 0 or gone[-1] >= len(self)):
            wrong = gone[0] if gone[0] < 0 else gone[-1]
            raise InputValueError(
                "there is no such gallery item", f"{wrong}", f"0 to {len(self) - 1}"
            )
        if len(gone) == len(self):
            raise InputValueError(
                "this would leave no gallery", f"all {len(gone)} items", "keep at least one"
            )
        keep = torch.ones(len(self), dtype=torch.bool, device=self.gallery.device)
        keep[torch.tensor(gone, dtype=torch.long, device=keep.device)] = False
        names = tuple(n for n, kept in zip(self.names, keep.tolist(), strict=False) if kept)
        return replace(self, gallery=self.gallery[keep], bias=self.bias[keep], names=names)

    @torch.no_grad()
    def drift(self) -> float:
        """How far one more iteration of NCL would move the biases, relative to their spread.

        0 right after the fit (up to its tolerance); it grows with what was added and removed
        since. Root mean square over the gallery; costs two passes over bank x gallery.
        """
        if self.strength == 0 or len(self) < 2:
            return 0.0
        now = self.bias / self.strength
        potential = self._full_potential(self.bank)
        then = replace(self, potential=potential)._full_bias(self.gallery)
        change, now = (then - now).double(), (now - now.mean()).double()  # squares may overflow
        spread = float(now.square().mean().sqrt())
        change -= change.mean()
        return float(change.square().mean().sqrt()) / spread if spread > 0 else 0.0

    def renewed(self) -> Corrector:
        """With all biases computed anew from the bank's potentials, and centred."""
        full = self._full_bias(self.gallery)
        mean = float(full.mean())
        out = replace(self, bias=self.strength * (full - mean), level=self.level - mean)
        return (
            replace(out, auxiliary_bias=out._full_bias(self.auxiliary))
            if len(self.auxiliary)
            else out
        )

    def weakened(self, share: float) -> Corrector:
        """With this share of its biases."""
        return replace(self, bias=share * self.bias, strength=share * self.strength)

    def _full_bias(self, items: torch.Tensor) -> torch.Tensor:
        """tau g of gallery items from the bank's potentials, see (g) of Sinkhorn's iterations."""
        counted = self.potential + self.temperature * self.weight.log()
        source = Biased(self._source(self.bank, items), counted, counted.new_zeros(len(items)))
        lse = logsumexp(source, self.temperature)[1]
        return self.level - self.rho * self.temperature * lse

    def _full_potential(self, queries: torch.Tensor) -> torch.Tensor:
        """tau f of bank queries from the gallery's biases, up to a constant: (f)."""
        full = self.bias / self.strength if self.strength else self.bias
        bias = torch.cat([full, self.auxiliary_bias])
        items = torch.cat([self.gallery, self.auxiliary])
        source = Biased(self._source(queries, items), bias.new_zeros(len(queries)), bias)
        return -self.rho * self.temperature * logsumexp(source, self.temperature)[0]

    def _source(self, queries: torch.Tensor, items: torch.Tensor) -> FeaturePair:
        sides = (Features(self.map(x), metric="dot", dtype=x.dtype) for x in (queries, items))
        return FeaturePair(*sides)

    def _read(self, x: Array, name: str) -> torch.Tensor:
        features = Features(
            x, name=name, metric=self.metric, dtype=self.gallery.dtype, device=self.gallery.device
        )
        return features.rows(0, len(x)).clone()

    def _check_names(self, names: Sequence[str], count: int) -> None:
        if bool(self.names) != bool(names) or (names and len(names) != count):
            raise InputValueError(
                "every gallery item needs a name, or none has one",
                f"{len(self.names)} names of {len(self)} items, {len(names)} of {count} new ones",
                "give one name per new item" if self.names else "leave the names out",
            )

    # --- the same items on both sides -----------------------------------------------------------

    @torch.no_grad()
    def seen(self, queries: Array) -> int:
        """How many of these queries are in the bank: what they gain says nothing of new ones."""
        self._check(queries, "queries")
        count = 0
        bank = directions(self.bank)
        for start, stop, tile in tiles(queries, bank.dtype, bank.device):
            unit = directions(tile[: stop - start, : self.dimension])
            cosines = (unit @ part.T for part in torch.split(bank, 8192))
            nearest = torch.stack([block.amax(1) for block in cosines]).amax(0)
            count += int((2 - 2 * nearest < SAME).sum())
        return count


class Scores(Similarity):
    """A corrector's scores of these queries, as a source for metrics; rows only."""

    def __init__(self, corrector: Corrector, queries: Array) -> None:
        self.corrector, self.queries = corrector, queries
        self.shape = len(queries), len(corrector)
        self.dtype, self.device = corrector.gallery.dtype, corrector.gallery.device
        self.block_rows = TILE

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return torch.cat(list(self.corrector.scores(self.queries[start:stop])))

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("each query is scored by itself: there are no columns")


def _directions(
    tile: torch.Tensor, count: int, start: int, metric: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tile's rows at unit length, and their lengths (n, 1), after checks of the first ones."""
    length = torch.linalg.vector_norm(tile, dim=1, keepdim=True)
    if all(_SHORTEST < x < _LONGEST for x in length.flatten().tolist()[:count]):
        return tile / length.clamp(min=_SHORTEST), length
    check_finite(tile[:count], "queries", start)
    largest = tile.abs().amax(1, keepdim=True)
    if metric == "cosine" and bool((largest[:count] == 0).any()):
        row = start + int((largest[:count, 0] == 0).nonzero()[0, 0])
        raise InputValueError(
            "a query vector is all zeros, so its cosine is not defined",
            f"queries[{row}]",
            'drop that query, or fit with metric="dot"',
        )
    odd = ~((length > _SHORTEST) & (length < _LONGEST)) & (largest > 0)
    scale = torch.where(odd, largest, 1)  # by 1 where the squares are in range: the same bits
    length = torch.linalg.vector_norm(tile / scale, dim=1, keepdim=True)
    return tile / scale / length.clamp(min=_SHORTEST), scale * length
