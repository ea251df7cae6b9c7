"""Settings chosen by cross-validation inside the bank, where that shows a difference.

The bank has pairs: queries and the items that belong to them. It is cut in two at random, again
and again. Every candidate is fitted as :mod:`emcl_plugin.bank` fits, and judged by the reciprocal
rank of the right item, which is steadier than R@1 and rises with it.
"""

from emcl_plugin.tune.choice import Tuning, tune
from emcl_plugin.tune.trials import NOTHING

__all__ = ["NOTHING", "Tuning", "tune"]
