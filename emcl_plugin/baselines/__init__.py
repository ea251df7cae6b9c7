"""Other training-free corrections, for comparison.

Each method is a function from a :class:`Direction` to a corrected similarity; :data:`METHODS`
lists them with their requirements. A correction is for ranking rows (queries to gallery); correct
the opposite direction (``direction.T``) separately. Published settings, for cosines in [-1, 1],
are the defaults.
"""

from emcl_plugin.baselines.front import correct
from emcl_plugin.baselines.problem import Direction, Method
from emcl_plugin.baselines.registry import METHODS, applicable

__all__ = ["METHODS", "Direction", "Method", "applicable", "correct"]
