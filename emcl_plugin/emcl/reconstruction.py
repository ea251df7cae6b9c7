"""Scores after EMCL's map at any strength, from one projection of each side."""

from __future__ import annotations

import torch

from emcl_plugin.emcl.subspaces import NORM_FLOOR, Subspaces
from emcl_plugin.scores import Features, Similarity
from emcl_plugin.scores.candidates import Candidates


class Reconstruction:
    """Scores after EMCL at any strength, from one projection of each side.

    With c_k = (1 + beta lambda_k)^2 - 1, a_i = U^T t_i and b_j = U^T v_j,

        <t_i (I + beta W), v_j (I + beta W)> = <t_i, v_j> + sum_k c_k a_ik b_jk
        |t_i (I + beta W)|^2                 = |t_i|^2    + sum_k c_k a_ik^2

    so each strength costs a product of rank r, not of dimension D. For a similarity that is not
    the features' inner product, the same sum is added as a residual in its scale.

    Parameters
    ----------
    text, video : Features
    subspaces : Subspaces
    renormalize : bool
        Divide by the lengths of the reconstructed vectors (only for the features' own scores).
    scale : float, default 1
        Units of the similarity per unit of the features' inner product.
    """

    def __init__(
        self,
        text: Features,
        video: Features,
        subspaces: Subspaces,
        *,
        renormalize: bool,
        scale: float = 1.0,
    ) -> None:
        self.subspaces = subspaces = subspaces.above_rounding(text.dtype)
        self.scale = scale
        self._text = text.project(subspaces.basis)
        self._video = video.project(subspaces.basis)
        self._of_candidates: list[torch.Tensor] | None = None
        self._norms: tuple[torch.Tensor, torch.Tensor] | None = None
        if renormalize:
            self._norms = text.squared_norms(), video.squared_norms()

    def scores(self, base: Similarity, strength: float) -> Similarity:
        """Return ``base`` after the map of this strength."""
        gain = ((1 + self.subspaces.factors(strength)).square() - 1).to(self._text)
        left = self._text * (gain * self.scale)
        scales = [
            renormalizing(norms, projected, gain)
            for projected, norms in zip((self._text, self._video), self._norms or (), strict=False)
        ]
        if isinstance(base, Candidates):  # c_k = 2 s l_k + s^2 l_k^2: two products do for every s
            once, twice = self._products(base)
            change = self.scale * (2 * strength * once + strength**2 * twice)
            return base.with_values(base.values + change, left, self._video, *scales)
        return base.changed(left, self._video, *scales)

    def _products(self, base: Candidates) -> list[torch.Tensor]:
        """Return sum_k l_k a_ik b_jk and sum_k l_k^2 a_ik b_jk of every candidate."""
        if self._of_candidates is None:
            shares = self.subspaces.factors(1.0).to(self._text)
            lefts = self._text * shares, self._text * shares.square()
            self._of_candidates = base.products(*lefts, self._video)
        return self._of_candidates


def renormalizing(norms: torch.Tensor, projected: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Return 1 / new length, (n,), from squared lengths and projections."""
    squared = norms + projected.square() @ gain
    return torch.maximum(squared, NORM_FLOOR * norms).rsqrt()
