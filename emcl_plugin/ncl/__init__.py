"""NCL: one bias per text and per video by Sinkhorn-Knopp, which removes hubs.

Equations and iterations: :mod:`emcl_plugin.ncl.sinkhorn`. The kernels read the scores.
"""

from emcl_plugin.ncl.biases import Biases, Problem, fit_biases
from emcl_plugin.ncl.settings import NCL
from emcl_plugin.ncl.sinkhorn import Journal, Reached

__all__ = ["NCL", "Biases", "Journal", "Problem", "Reached", "fit_biases"]
