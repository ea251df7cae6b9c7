"""Scores of a few promising pairs in the place of all, for sets too large for a dense sweep.

Which pairs: the k best videos of every text and the k best texts of every video, which
:mod:`emcl_plugin.search` finds. Best matches, EMCL's strength and the guard are looked for among
these only; the mean and the spread of all scores follow from the features' second moments. In
Sinkhorn's sums a sample stands for all other pairs, see :mod:`emcl_plugin.candidates.others`.
"""

from emcl_plugin.candidates.all_pairs import SAMPLE, AllPairs
from emcl_plugin.candidates.missed import Coverage, coverage
from emcl_plugin.candidates.others import Others
from emcl_plugin.candidates.pairs import Pairs
from emcl_plugin.candidates.scores import Candidates

__all__ = ["SAMPLE", "AllPairs", "Candidates", "Coverage", "Others", "Pairs", "coverage"]
