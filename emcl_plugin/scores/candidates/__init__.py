"""Scores of a few promising pairs in the place of all, for sets too large for a dense sweep.

Which pairs: the k best videos of every text and the k best texts of every video, which
:mod:`~.search` finds. Best matches, EMCL's strength and the guard are looked for among
these only; the mean and the spread of all scores follow from the features' second moments. In
Sinkhorn's sums a sample stands for all other pairs, see
:mod:`~.sampled_complement`.
"""

from emcl_plugin.scores.candidates.moments import SAMPLE, AllPairs
from emcl_plugin.scores.candidates.pairs import Pairs
from emcl_plugin.scores.candidates.recall_estimate import RecallEstimate, estimate_recall
from emcl_plugin.scores.candidates.sampled_complement import SampledComplement
from emcl_plugin.scores.candidates.scores import Candidates

__all__ = [
    "SAMPLE",
    "AllPairs",
    "Candidates",
    "Pairs",
    "RecallEstimate",
    "SampledComplement",
    "estimate_recall",
]
