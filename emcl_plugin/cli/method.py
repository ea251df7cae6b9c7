"""The options that choose the method, and the settings that they stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from emcl_plugin.cli.options import all_of
from emcl_plugin.errors import InputValueError

if TYPE_CHECKING:
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL

EMCL_NAMES = ("auto", "off", "clip2video", "emcl-net", "mmt", "mmt-lsmdc")

method_options = all_of(
    [
        click.option(
            "--emcl",
            type=click.Choice(EMCL_NAMES),
            default="auto",
            show_default=True,
            help="EMCL: strength chosen without labels, none, or a published setting.",
        ),
        click.option(
            "--emcl-strength",
            type=float,
            metavar="S",
            help="Fix EMCL's strength: below 0 weakens what texts and videos share, -1 most, above "
            "0 strengthens it. E.g. -0.5. Default: chosen.",
        ),
        click.option(
            "--subspaces",
            type=click.IntRange(min=1),
            metavar="K",
            help="Number of EM bases, e.g. 16. Default: 32, or the published setting's.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            metavar="N",
            help="Start EM from Gaussian bases of this seed. Default: eigenvectors, no seed.",
        ),
        click.option(
            "--ncl",
            type=click.Choice(["auto", "off"]),
            default="auto",
            show_default=True,
            help="NCL normalisation, or none.",
        ),
        click.option(
            "--prior",
            type=click.Choice(["auto", "even", "gentle", "off"]),
            default="auto",
            show_default=True,
            help="How often each video is asked for. auto: found from the scores. even: equally "
            "often, as benchmarks are and NCL was published. gentle: unknown, only hubs are "
            "corrected. off: no NCL.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(min=0, min_open=True),
            metavar="TAU",
            help="NCL temperature in the units of the scores, e.g. 0.01. Default: 0.15 of "
            "their standard deviation.",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(min=1),
            default=200,
            show_default=True,
            help="Most Sinkhorn rounds; it stops when converged.",
        ),
        click.option(
            "--storage",
            type=click.Choice(["scores", "bfloat16"]),
            default="scores",
            show_default=True,
            help="Numbers of Sinkhorn's kernel: as the scores, or bfloat16 in half of the memory.",
        ),
        click.option(
            "--products",
            type=click.Choice(["scores", "bfloat16"]),
            default="scores",
            show_default=True,
            help="Numbers in which recomputed scores are multiplied for Sinkhorn's sums.",
        ),
        click.option(
            "--guard/--no-guard",
            default=True,
            show_default=True,
            help="Correct no more than the agreement of texts and videos bears out.",
        ),
    ]
)


def settings(
    context: click.Context,
    *,
    features: bool,
    emcl: str,
    emcl_strength: float | None,
    subspaces: int | None,
    seed: int | None,
    ncl: str,
    prior: str,
    temperature: float | None,
    rounds: int,
    storage: str,
    products: str,
    guard: bool,
) -> tuple[EMCL | None, NCL | None]:
    """EMCL's and NCL's settings from the options; contradictions are wrong usage."""
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL

    del guard
    given = {
        "--emcl-strength": emcl_strength,
        "--subspaces": subspaces,
        "--seed": seed,
    }
    names = [name for name, value in given.items() if value is not None]
    if names and (emcl == "off" or not features):
        why = "--emcl off" if emcl == "off" else "no embeddings (--text, --video)"
        raise click.UsageError(f"{', '.join(names)} cannot work with {why}", context)
    off = "--ncl off" if ncl == "off" else "--prior off" if prior == "off" else ""
    if temperature is not None and off:
        raise click.UsageError(f"--temperature cannot work with {off}", context)
    if ncl == "off" and prior in ("even", "gentle"):
        raise click.UsageError(f"--prior {prior} cannot work with --ncl off", context)
    try:
        method = None
        if emcl != "off":
            method = EMCL() if emcl == "auto" else EMCL.preset(emcl)
            if subspaces is not None:
                method = replace(method, subspaces=subspaces)
            if emcl_strength is not None:
                method = replace(method, strength=emcl_strength, beta=None)
            if seed is not None:
                start = "gaussian" if emcl == "auto" else method.start
                method = replace(method, start=start, seed=seed)
        normalisation = None
        if ncl != "off":
            normalisation = NCL(
                temperature=temperature, iterations=rounds, storage=storage, products=products
            )
    except InputValueError as error:
        raise click.UsageError(str(error), context) from None
    return method, normalisation


def bank_ncl(ncl: NCL, prior: str) -> NCL:
    """Bank mode's NCL with what the options say of it."""
    from emcl_plugin.bank import default_ncl

    return replace(
        default_ncl(prior),
        temperature=ncl.temperature,
        iterations=ncl.iterations,
        storage=ncl.storage,
        products=ncl.products,
    )
