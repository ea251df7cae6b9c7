"""The options that choose the method, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.cli.options import Group, choice, number, option, section, wrong_usage
from emcl_plugin.errors import InputValueError

if TYPE_CHECKING:
    from emcl_plugin.emcl import EMCL
    from emcl_plugin.ncl import NCL
    from emcl_plugin.pipeline.settings import Settings

EMCL_NAMES = ("auto", "off", "clip2video", "emcl-net", "mmt", "mmt-lsmdc")

method_options = section(
    "Method",
    choice("--emcl", EMCL_NAMES, "EMCL: auto, off, or a preset."),
    number(
        "--emcl-strength S",
        "Fix EMCL's strength: negative removes the shared component (-1: fully), positive "
        "amplifies it. E.g. -0.5. Default: 0; with --ncl off, chosen.",
        kind=click.FLOAT,
    ),
    number("--subspaces K", "Number of EM bases, e.g. 16. Default: 32, or that of the preset."),
    number(
        "--seed N",
        "Start EM from Gaussian bases with this seed. Default: eigenvectors, no seed.",
        kind=click.IntRange(min=0),
    ),
    choice("--ncl", ["auto", "off"], "NCL normalisation, or none."),
    choice(
        "--prior",
        ["auto", "even", "gentle", "off"],
        "How often each video is requested. auto: estimated from the scores. even: equally often, "
        "as in benchmarks and in the NCL paper. gentle: unknown, correct hubs only. off: no NCL.",
    ),
    number(
        "--temperature TAU",
        "NCL temperature in the units of the scores, e.g. 0.01. Default: 0.15 of their "
        "standard deviation.",
        kind=click.FloatRange(min=0, min_open=True),
    ),
    number(
        "--iterations",
        "Maximum number of Sinkhorn iterations; stops early on convergence.",
        default=200,
    ),
    number("--rounds", "The old name of --iterations.", hidden=True),
    choice(
        "--storage",
        ["scores", "bfloat16"],
        "Precision of the stored Sinkhorn kernel; bfloat16 halves its memory.",
    ),
    choice("--products", ["scores", "bfloat16"], "Precision for recomputing scores."),
    option(
        "--guard/--no-guard",
        "Limit the correction to what label-free evidence supports.",
        default=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Method(Group):
    """The method options, checked for contradictions by :meth:`settings`."""

    emcl: str
    emcl_strength: float | None
    subspaces: int | None
    seed: int | None
    ncl: str
    prior: str
    temperature: float | None
    iterations: int
    storage: str
    products: str
    guard: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Method:
        """Pick the values; the old name --rounds still works, with a note."""
        rounds = options["rounds"]
        if rounds is None:
            return super().of(options)
        if not options["quiet"]:
            click.echo("Note: --rounds is deprecated, use --iterations", err=True)
        return super().of({**options, "iterations": rounds})

    @property
    def normalises(self) -> bool:
        """Whether NCL is on."""
        return self.ncl != "off" and self.prior != "off"

    def check(self, *, features: bool) -> None:
        """Refuse options that contradict one another, or need embeddings that are not there."""
        given = {
            "--emcl-strength": self.emcl_strength,
            "--subspaces": self.subspaces,
            "--seed": self.seed,
        }
        names = [name for name, value in given.items() if value is not None]
        if names and (self.emcl == "off" or not features):
            why = "does not go with --emcl off"
            if self.emcl != "off":
                why = "needs embeddings: give --text and --video"
            raise wrong_usage(f"{', '.join(names)} {why}")
        if self.temperature is not None and not self.normalises:
            off = "--ncl off" if self.ncl == "off" else "--prior off"
            raise wrong_usage(f"--temperature does not go with {off}")
        if self.ncl == "off" and self.prior in ("even", "gentle"):
            raise wrong_usage(f"--prior {self.prior} does not go with --ncl off")

    def settings(self, *, features: bool, metric: str) -> Settings:
        """Return the settings that the options stand for."""
        self.check(features=features)
        from emcl_plugin.pipeline.settings import Settings

        try:
            return Settings(
                emcl=self._emcl(),
                ncl=self._ncl(),
                prior=self.prior,
                guard=self.guard,
                metric=metric,
            )
        except InputValueError as error:
            raise wrong_usage(str(error)) from None

    def _emcl(self) -> EMCL | None:
        from emcl_plugin.emcl import EMCL

        if self.emcl == "off":
            return None
        method = EMCL() if self.emcl == "auto" else EMCL.preset(self.emcl)
        if self.subspaces is not None:
            method = replace(method, subspaces=self.subspaces)
        if self.emcl_strength is not None:
            method = replace(method, strength=self.emcl_strength, beta=None)
        if self.seed is not None:
            start = "gaussian" if self.emcl == "auto" else method.start
            method = replace(method, start=start, seed=self.seed)
        return method

    def _ncl(self) -> NCL | None:
        from emcl_plugin.ncl import NCL

        if self.ncl == "off":
            return None
        return NCL(
            temperature=self.temperature,
            iterations=self.iterations,
            storage=self.storage,
            products=self.products,
        )


def bank_ncl(ncl: NCL | None, prior: str) -> NCL | None:
    """Return bank mode's NCL with the temperature, iterations and precision of ``ncl``."""
    from emcl_plugin.bank import default_ncl

    if ncl is None:
        return None
    names = ("temperature", "iterations", "storage", "products")
    return replace(default_ncl(prior), **{name: getattr(ncl, name) for name in names})
