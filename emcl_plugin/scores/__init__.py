"""Similarity sources: scores (texts x videos) in blocks of rows, in bounded memory.

Sinkhorn, metrics, hubness and agreement are written once, over :class:`Similarity`.
"""

from emcl_plugin.scores.base import (
    Biased,
    LowRank,
    OutOfMemory,
    Rows,
    Scorer,
    Similarity,
    beside,
)
from emcl_plugin.scores.block_sizes import ranges_in_cache, rows_per_block
from emcl_plugin.scores.feature_pair import FeaturePair
from emcl_plugin.scores.features import Features, check_lengths
from emcl_plugin.scores.matrices import Dense, Shard

__all__ = [
    "Biased",
    "Dense",
    "FeaturePair",
    "Features",
    "LowRank",
    "OutOfMemory",
    "Rows",
    "Scorer",
    "Shard",
    "Similarity",
    "beside",
    "check_lengths",
    "ranges_in_cache",
    "rows_per_block",
]
