"""Bank mode: biases from other queries than those that will be asked.

EMCL and the guard as in :mod:`emcl_plugin.pipeline.correct`, on the scores of bank queries x
gallery; NCL with the gentler settings of :data:`BANK`; then three questions that only
arise here, because the queries to come are not these.

How much of the biases would another bank teach, too? See :mod:`emcl_plugin.bank.fit`.

Is the gallery of the bank's kind? Where a gallery bank is given (videos that belong to the bank's
texts), the mean of :class:`~emcl_plugin.bank.ood_gate.OODGate` of the gallery to it says so.

Is the query? That is asked of every query by itself, when it comes.
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
