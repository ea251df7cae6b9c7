"""Papers to cite with results of this package."""

from __future__ import annotations

CITATIONS = (
    "EMCL: Jin et al., Expectation-Maximization Contrastive Learning for Compact "
    "Video-and-Language Representations, NeurIPS 2022, arXiv 2211.11427",
    "NCL: Park et al., Normalized Contrastive Learning for Text-Video Retrieval, "
    "EMNLP 2022, arXiv 2212.11790",
)
