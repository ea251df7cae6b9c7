"""Candidate pairs in place of all scores, for sets too large for a dense pass.

Candidates are the top k videos of every text and the top k texts of every video
(:mod:`~.search`). Best matches, EMCL's strength and the guard use only these. The mean and the
spread of all scores follow from second moments (:mod:`~.moments`). In Sinkhorn's sums, a sample
stands for the other pairs (:mod:`~.sampled_complement`).
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
