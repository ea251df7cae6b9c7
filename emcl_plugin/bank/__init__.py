"""Bank mode: biases learnt from a bank of queries, for future queries.

EMCL and the guard run as in :mod:`emcl_plugin.pipeline.correct`, on the scores of bank queries x
gallery, and NCL with the gentler settings of :data:`BANK`. Because future queries differ from the
bank's, three factors in [0, 1] shrink the correction:

- the reliability: agreement between two halves of the bank, see :mod:`emcl_plugin.bank.fit`
- the in-domain score of the gallery: with a gallery bank (items that the bank's queries ask for),
  the mean over the gallery of its :class:`~emcl_plugin.bank.ood_gate.OODGate`
- the out-of-distribution gate of each query
"""

from emcl_plugin.bank.fit import BankFit, fit_corrector, overlap_message
from emcl_plugin.bank.report import BankReport
from emcl_plugin.bank.settings import BANK, GENTLE, default_ncl

__all__ = [
    "BANK",
    "GENTLE",
    "BankFit",
    "BankReport",
    "default_ncl",
    "fit_corrector",
    "overlap_message",
]
