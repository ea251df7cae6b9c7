"""corrector.json of a saved corrector: its keys, with the types and ranges of their values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_type_hints

import numpy as np
from msgspec import Meta

from emcl_plugin.bank import BankReport
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.emcl import EMCL, PRESETS
from emcl_plugin.evidence.prior import MODES
from emcl_plugin.io.strict_json import bad, parse_json, read_as, saved_fields
from emcl_plugin.ncl import NCL
from emcl_plugin.version import __version__

KIND = "emcl_plugin corrector"
FORMAT = 1
CODES = {"float32": "F32", "float64": "F64"}

SCALARS = ("metric", "renormalize", "level", "temperature", "rho", "strength")


class Fitted(Protocol):
    """A fitted Reranker, with the attributes that :class:`Settings` names."""

    corrector_: Corrector
    report_: Any


if TYPE_CHECKING:
    SavedNCL = NCL
else:
    SavedNCL = make_dataclass(
        "SavedNCL",
        [(name, get_type_hints(NCL)[name]) for name in saved_fields(NCL).values()],
        namespace={"__post_init__": lambda self: NCL(**vars(self)) and None},
    )


Count = Annotated[int, Meta(ge=0, lt=1 << 48)]
Some = Annotated[int, Meta(ge=1, lt=1 << 48)]
Share = Annotated[float, Meta(ge=0, le=1)]
Metric = Literal["cosine", "dot"]
Auto = Annotated[str, Meta(pattern="^auto$")]
Preset = Annotated[str, Meta(pattern=f"^({'|'.join(('auto', *PRESETS))})$")]
Mode = Annotated[str, Meta(pattern=f"^({'|'.join(MODES)})$")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the Reranker, without device and memory."""

    emcl: EMCL | Preset | None
    ncl: SavedNCL | Auto | None
    prior: Mode
    guard: bool
    metric: Metric

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of the Reranker."""
        plain = self.ncl is None or isinstance(self.ncl, str)
        return {**vars(self), "ncl": self.ncl if plain else NCL(**vars(self.ncl))}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of corrector.json, key by key."""

    kind: str
    format_version: int
    package_version: str
    protocol: Literal["bank"]
    dtype: Literal["float32", "float64"]
    dimension: Some
    n_bank: Some
    n_gallery: Some
    n_directions: Count
    n_known: Count
    n_plane: Count
    n_beside: Count
    metric: Metric
    renormalize: bool
    level: float
    temperature: Annotated[float, Meta(gt=0)]
    rho: Annotated[float, Meta(gt=0, le=1)]
    strength: Share
    likeness_low: float
    likeness_high: float
    likeness_within: tuple[float, float, float]
    settings: Settings
    report: BankReport | None
    named: bool
    tensors: dict[str, str]
    gallery_order: str
    sha256: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors."""
        return {
            "gallery": (self.n_gallery, self.dimension),
            "bias": (self.n_gallery,),
            "basis": (self.dimension, self.n_directions),
            "change": (self.n_directions,),
            "bank": (self.n_bank, self.dimension),
            "potential": (self.n_bank,),
            "weight": (self.n_bank,),
            "beside": (self.n_beside, self.dimension),
            "beside_bias": (self.n_beside,),
            "likeness.known": (self.n_known, self.dimension),
            "likeness.plane": (self.dimension, self.n_plane),
        }


def content_of(reranker: Fitted) -> dict[str, Any]:
    """Return the content of corrector.json without the checksums."""
    corrector = reranker.corrector_
    content: dict[str, Any] = {
        "kind": KIND,
        "format_version": FORMAT,
        "package_version": __version__,
        "protocol": "bank",
        "dtype": str(corrector.gallery.dtype)[6:],
        "dimension": corrector.dimension,
        "n_bank": len(corrector.bank),
        "n_gallery": len(corrector),
        "n_directions": len(corrector.change),
        "n_known": len(corrector.ood_gate.known),
        "n_plane": corrector.ood_gate.plane.shape[1],
        "n_beside": len(corrector.auxiliary),
        **{name: getattr(corrector, name) for name in SCALARS},
        "likeness_low": corrector.ood_gate.low,
        "likeness_high": corrector.ood_gate.high,
        "likeness_within": corrector.ood_gate.within,
        "settings": {field.name: getattr(reranker, field.name) for field in fields(Settings)},
        "report": corrector.facts or None,
        "named": bool(corrector.names),
    }
    plain: dict[str, Any] = parse_json(json.dumps(content, default=_plain).encode(), "the fit")
    return plain


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, EMCL | NCL):
        kept = saved_fields(type(value))
        left_out = {f.name for f in fields(value)} - set(kept.values())
        if all(getattr(value, name) is None for name in left_out):
            return {key: getattr(value, name) for key, name in kept.items()}
    raise bad("these settings cannot be saved", shown(value), "omit marginals: a bank has none")


def checked(content: Any, path: Path) -> Manifest:
    """Return the content of corrector.json as a manifest, or raise an error."""
    check_kind(content, path)
    version = read_as(int, content.get("format_version"), f"{path}: format_version")
    if version > FORMAT:
        raise bad(
            "the corrector was written by a newer version of emcl_plugin",
            f"{path}: format {version} of version {shown(content.get('package_version'))}; this "
            f"is {__version__!r}, which reads formats up to {FORMAT}",
            "upgrade: pip install --upgrade emcl-plugin",
        )
    if version < FORMAT:
        raise bad("there is no such format", f"{path}: format_version {version}")
    if seal(content) != content.get("sha256"):
        raise bad("the file was changed after it was saved", f"{path}: another sha256")
    nested = {"report": _nested(content["report"])} if "report" in content else {}
    return read_as(Manifest, content | nested, f"{path}")


def check_kind(content: Any, path: Path) -> None:
    """Raise an error if this is not the content of a corrector.json."""
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise bad("this is not a saved corrector", f"{path}: no kind {KIND!r}", "check the path")


def seal(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in corrector.json but itself."""
    text = as_json({key: value for key, value in content.items() if key != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()


def as_json(value: Any) -> str:
    """Return canonical JSON, for checksums."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _nested(report: Any) -> Any:
    """Return a report's ``to_dict`` in the layout of its dataclasses, if it looks like one."""
    try:
        out = dict(report)
        out["in_domain"] = out.pop("kinship")
        hubs = out.pop("hubs")
        out |= {f"hubs_{when}": hubs[when] for when in ("before", "after")}
        out["guard"] = {key: value for key, value in out["guard"].items() if key != "applied"}
        if out["emcl"] is not None:
            tried = [[t["strength"], t["mutual_nearest_neighbours"]] for t in out["emcl"]["tried"]]
            out["emcl"] = {**out["emcl"], "tried": tried}
    except (AttributeError, KeyError, TypeError, ValueError):
        return report
    return out
