"""Fitted corrector for one direction: scores of new queries, and updates of gallery and bank.

With the map M of EMCL, the biases g that NCL learned for the gallery from the bank, and the gate
s of :mod:`emcl_plugin.bank.ood_gate`, the score of a query q and a gallery item v_j is

    <M q, M v_j> + s(q) tau g_j  =  < [M q, s(q)],  [M v_j, tau g_j] >                     (e)

an inner product in one more dimension, so any vector index can rank by it. The scores of a query
depend on no other query; they are the same bits alone and in any batch
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
"""Drift from which a new fit pays: the biases are off by a quarter of their spread."""
SAME = 1e-4
"""Squared distance of unit vectors up to which two items are identical (float16 rounding)."""
_SHORTEST, _LONGEST = 1e-15, 1e15  # lengths whose squares float32 can sum


@renamed_field("likeness", "ood_gate")
@renamed_field("beside", "auxiliary")
@renamed_field("beside_bias", "auxiliary_bias")
@dataclass(frozen=True)
class Corrector:
    """Fitted correction for one direction, from queries to a gallery.

    Attributes
    ----------
    metric : {"cosine", "dot"}
        With "cosine" all vectors have unit length.
    gallery : (n_gallery, D)
    bias : (n_gallery,)
        tau g, in the units of the scores, times ``strength``.
    basis, change : (D, r), (r,)
        EMCL's directions and their relative change; r = 0 if EMCL changes nothing.
    renormalize : bool
        Whether vectors are normalized again after EMCL.
    ood_gate : OODGate
        Out-of-distribution gate: only queries that resemble the bank are corrected.
    bank : (n_bank, D)
        The bank's queries, for the biases of new gallery items and for refits.
    potential, weight : (n_bank,)
        Biases tau f_i of the bank queries, and the weight of each query.
    auxiliary, auxiliary_bias : (n_auxiliary, D), (n_auxiliary,)
        The auxiliary gallery (``gallery_bank``) and its unscaled tau g; empty without one.
    level : float
        Constant of tau g that made its mean over the gallery 0.
    temperature, rho, strength : float
        NCL's tau and relaxation, and the share of tau g that is applied, in [0, 1].
    names : tuple of str
        Names of the gallery items; empty if unknown.
    facts : dict
        The report of the fit, as a dict.

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
        """Return the dimension D of queries and gallery items."""
        return int(self.gallery.shape[1])

    @torch.no_grad()
    def vectors(self, queries: Array, *, gate: bool = True) -> Iterator[torch.Tensor]:
        """Yield blocks of [M q, s(q)] of (e), in all (n, D + 1); ``gate=False`` sets s = 1."""
        for count, rows, strength in self._mapped(queries, gate):
            yield torch.cat([rows[:count, : self.dimension], strength[:count, None]], 1)

    @torch.no_grad()
    def scores(self, queries: Array, *, gate: bool = True) -> Iterator[torch.Tensor]:
        """Yield blocks of corrected scores (e), in all (n, n_gallery)."""
        for count, rows, strength in self._mapped(queries, gate):
            scores = (rows @ self._mapped_gallery.T)[:, : len(self)]
            # not fused: the last columns would be rounded differently
            yield (scores + strength[:, None] * self.bias)[:count]

    @torch.no_grad()
    def gate(self, queries: Array) -> torch.Tensor:
        """Return the gate s(q) of every query, (n,)."""
        return torch.cat([block[:, -1] for block in self.vectors(queries)])

    @torch.no_grad()
    def search(self, queries: Array, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and indices of the k best items per query, (n, k), best first."""
        if not 1 <= k <= len(self):
            problem = "k must be at least 1 and at most the number of gallery items"
            raise InputValueError(problem, f"k={k}, {len(self)} items", "10 is usual")
        best = [torch.topk(block, k, dim=1) for block in self.scores(queries)]
        return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])

    def vectors_of_gallery(self) -> torch.Tensor:
        """Return [M v_j, tau g_j] of (e), (n_gallery, D + 1)."""
        mapped = self._mapped_gallery[: len(self), : self.dimension]
        return torch.cat([mapped, self.bias[:, None]], 1)

    @cached_property
    def _mapped_gallery(self) -> torch.Tensor:
        return padded(self.map(self.gallery))

    def map(self, x: torch.Tensor) -> torch.Tensor:
        """Return M x of unit vectors (any vectors for "dot"), (n, D)."""
        if not len(self.change):
            return x
        out = x + ((x @ self.basis) * self.change) @ self.basis.T
        if not self.renormalize:
            return out
        return renormalized(out, torch.linalg.vector_norm(x, dim=1, keepdim=True))

    def _mapped(
        self, queries: Array, gate: bool
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield per tile: the number of queries, its rows after M, and their s.

        Computes :meth:`map` and :meth:`OODGate.of` from one product, because the number of steps
        decides how long a single query takes.
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
        """Return the gate's rows and EMCL's directions as rows."""
        return padded(torch.cat([self.ood_gate.rows, self.basis.T]))

    @cached_property
    def _back(self) -> torch.Tensor:
        """Return EMCL's directions times their change, as rows of the tile's width."""
        back = self.change[:, None] * self.basis.T
        return torch.nn.functional.pad(back, (0, self._ahead.shape[1] - self.dimension))

    def _check(self, x: Array, name: str) -> None:
        if check_matrix(x, name).shape[1] != self.dimension:
            problem = f"the {name} have another dimension than the gallery"
            received = f"{tuple(x.shape)}, the gallery {tuple(self.gallery.shape)}"
            raise InputValueError(problem, received, "embed them with the model of the gallery")

    @torch.no_grad()
    def with_items(self, items: Array, names: Sequence[str] = ()) -> Corrector:
        """Return a copy with new gallery items; their biases follow from the potentials."""
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
        """Return a copy with new bank queries: one Sinkhorn iteration, and a new gate."""
        self._check(queries, "new bank queries")
        new = self._read(queries, "bank")
        found, known = self._full_potential(new), self._full_potential(self.bank)
        found += (self.potential - known).mean()  # the constant of the others
        like: dict[str, Any] = {"dtype": new.dtype, "device": new.device}
        bank, gallery = (
            Features(x, metric="dot", **like) for x in (torch.cat([self.bank, new]), self.gallery)
        )
        best = nearest(FeaturePair(bank, gallery))
        rows = bank.rows(0, bank.shape[0])
        weight = duplicate_weights(bank, best.video_of_text, memory=DEFAULT_MEMORY)
        ood_gate = self.ood_gate
        if len(ood_gate.known):  # otherwise it is open
            ood_gate = fit_ood_gate(bank, best.video_of_text, best.text_score, ood_gate.plane)
        return replace(
            self,
            bank=rows,
            potential=torch.cat([self.potential, found]),
            weight=rows.new_ones(len(rows)) if weight is None else weight,
            ood_gate=ood_gate,
        ).renewed()

    @torch.no_grad()
    def without(self, indices: Sequence[int]) -> Corrector:
        """Return a copy without these gallery items, given by index."""
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
        """Return how far one more iteration of NCL would move the biases, over their spread.

        Root mean square over the gallery. It is 0 after the fit, up to the tolerance, and grows
        with every update. Costs two passes over bank x gallery.
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
        """Return a copy with all biases recomputed from the potentials, and centred."""
        full = self._full_bias(self.gallery)
        mean = float(full.mean())
        out = replace(self, bias=self.strength * (full - mean), level=self.level - mean)
        if not len(self.auxiliary):
            return out
        return replace(out, auxiliary_bias=out._full_bias(self.auxiliary))

    def weakened(self, share: float) -> Corrector:
        """Return a copy with this share of the biases."""
        return replace(self, bias=share * self.bias, strength=share * self.strength)

    def _full_bias(self, items: torch.Tensor) -> torch.Tensor:
        """Return tau g of gallery items from the potentials: (g) of Sinkhorn's iterations."""
        counted = self.potential + self.temperature * self.weight.log()
        source = Biased(self._source(self.bank, items), counted, counted.new_zeros(len(items)))
        lse = logsumexp(source, self.temperature)[1]
        return self.level - self.rho * self.temperature * lse

    def _full_potential(self, queries: torch.Tensor) -> torch.Tensor:
        """Return tau f of bank queries from the gallery's biases, up to a constant: (f)."""
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

    @torch.no_grad()
    def seen(self, queries: Array) -> int:
        """Return how many of these queries are in the bank."""
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
    """Similarity source of a corrector's scores, for metrics; rows only."""

    def __init__(self, corrector: Corrector, queries: Array) -> None:
        self.corrector, self.queries = corrector, queries
        self.shape = len(queries), len(corrector)
        self.dtype, self.device = corrector.gallery.dtype, corrector.gallery.device
        self.block_rows = TILE

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return torch.cat(list(self.corrector.scores(self.queries[start:stop])))

    @property
    def T(self) -> Similarity:
        raise NotImplementedError("each query is scored on its own: there are no columns")


def _directions(
    tile: torch.Tensor, count: int, start: int, metric: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the first ``count`` rows; return all rows at unit length, and their lengths (n, 1)."""
    length = torch.linalg.vector_norm(tile, dim=1, keepdim=True)
    if all(_SHORTEST < x < _LONGEST for x in length.flatten().tolist()[:count]):
        return tile / length.clamp(min=_SHORTEST), length
    check_finite(tile[:count], "queries", start)
    largest = tile.abs().amax(1, keepdim=True)
    if metric == "cosine" and bool((largest[:count] == 0).any()):
        row = start + int((largest[:count, 0] == 0).nonzero()[0, 0])
        problem = "a query vector is all zeros, so its cosine is not defined"
        remedy = 'drop that query, or fit with metric="dot"'
        raise InputValueError(problem, f"queries[{row}]", remedy)
    odd = ~((length > _SHORTEST) & (length < _LONGEST)) & (largest > 0)
    scale = torch.where(odd, largest, 1)  # by 1 where the squares are in range: the same bits
    length = torch.linalg.vector_norm(tile / scale, dim=1, keepdim=True)
    return tile / scale / length.clamp(min=_SHORTEST), scale * length
