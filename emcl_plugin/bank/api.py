"""Arrays in, a corrector and a report out: a bank's fit from the outside."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch

from emcl_plugin._internal.arrays import Array, check_matrix
from emcl_plugin._internal.progress import Progress
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.bank.fit import BankFit
from emcl_plugin.bank.report import BankReport
from emcl_plugin.bank.settings import default_ncl
from emcl_plugin.emcl import EMCL
from emcl_plugin.errors import InputTypeError, InputValueError, RepeatedItemsWarning
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources, Settings


@torch.no_grad()
def fit_corrector(
    bank: Array,
    gallery: Array,
    *,
    gallery_bank: Array | None = None,
    emcl: EMCL | str | None = "auto",
    ncl: NCL | str | None = "auto",
    prior: str = "auto",
    guard: bool = True,
    metric: str = "cosine",
    device: str | torch.device | None = None,
    memory: int | None = None,
    names: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> tuple[Corrector, BankReport]:
    """Learn from a bank of queries how to correct the scores of queries to come.

    Parameters
    ----------
    bank : (n_bank, D)
        Queries that are not those to be scored: of a training set, a log, another split.
    gallery : (n_gallery, D)
        What will be searched.
    gallery_bank : (n, D), optional
        More items of the gallery's kind, best those that belong to the bank's queries: NCL then
        runs over both and they take the mass that is theirs (dual-bank Sinkhorn).
    emcl, ncl, prior, guard, metric, device, memory, progress
        As in :func:`emcl_plugin.rerank`, but that NCL's own settings are :data:`BANK`.
        ``guard=False`` also sets reliability and the in-domain score to 1 and opens the gate.
    names : tuple of str
        What the gallery's items are called.

    Returns
    -------
    Corrector, BankReport
    """
    n = int(check_matrix(gallery, "gallery").shape[0])
    if not all(isinstance(name, str) for name in names):
        raise InputTypeError(
            "the names are not all text", repr(names[:3]), "pass str(name) of each"
        )
    if names and len(names) != n:
        raise InputValueError(
            "there must be one name per gallery item", f"{len(names)} for {n}", "add the others"
        )
    if isinstance(ncl, NCL) and (ncl.text_marginal is not None or ncl.video_marginal is not None):
        raise InputValueError(
            "a bank's biases take no marginals",
            "NCL(text_marginal=...) or NCL(video_marginal=...)",
            "leave them out; repeated bank queries are weighed by themselves",
        )
    given = default_ncl(prior) if ncl == "auto" else ncl
    settings = Settings.of(emcl, given, prior, guard, metric)
    job = Job(
        None,
        (bank, gallery if gallery_bank is None else _stacked(gallery, gallery_bank)),
        replace(settings, prior=prior if prior in ("even", "off") else "gentle"),
        Resources(device=device, memory=memory),
        names=("bank", "gallery" if gallery_bank is None else "gallery and gallery bank"),
    )
    with warnings.catch_warnings():
        if gallery_bank is not None:  # it may well hold items of the gallery
            warnings.simplefilter("ignore", RepeatedItemsWarning)
        fit = BankFit(job, n, progress)
    corrector, trust = fit.corrector(job.settings.ncl)
    report = fit.report(corrector, trust)
    return replace(corrector, names=tuple(names), facts=report.to_dict()), report


def _stacked(gallery: Array, gallery_bank: Array) -> Array:
    """Both in one array of the gallery's kind."""
    check_matrix(gallery_bank, "gallery bank")
    if gallery_bank.shape[1] != gallery.shape[1]:
        raise InputValueError(
            "the gallery bank has another dimension than the gallery",
            f"{tuple(gallery_bank.shape)} against {tuple(gallery.shape)}",
            "embed it with the same model",
        )
    if isinstance(gallery, torch.Tensor):
        other = torch.as_tensor(gallery_bank).to(gallery.device)
        dtype = torch.promote_types(gallery.dtype, other.dtype)
        return torch.cat([gallery.to(dtype), other.to(dtype)])
    return np.concatenate([gallery, np.asarray(gallery_bank)])


def leak(count: int, total: int, what: str) -> str:
    """What to say where the bank holds items that are scored.

    >>> leak(3, 50, "queries")
    '3 of the 50 queries are in the bank: what they gain says little about new ones'
    """
    verb = "is" if count == 1 else "are"
    return (
        f"{count} of the {total} {what} {verb} in the bank: what they gain says "
        "little about new ones"
    )
