"""The other training-free corrections, to compare with: a registry, and one call for arrays.

Each method is a function from a :class:`Direction` to a corrected similarity, in a file of its
own; :data:`METHODS` lists them with what they need. Corrections are for the ranking of rows,
from queries to gallery: the opposite direction is corrected on its own (``direction.T``).
Published settings are the defaults and are meant for cosines in [-1, 1].
"""

from emcl_plugin.baselines.front import correct
from emcl_plugin.baselines.problem import Direction, Method
from emcl_plugin.baselines.registry import METHODS, applicable

__all__ = ["METHODS", "Direction", "Method", "applicable", "correct"]
