"""A fitted corrector in a folder, none of whose files can run anything:

    corrector.json          settings, scalars, report, and a SHA-256 of every tensor and of itself
    corrector.safetensors   the tensors of :class:`~emcl_plugin.corrector.Corrector`
    names.json              what the gallery's items are called, where they have names

The JSON must be the dataclass :class:`_Facts` below, key by key, and says what the other two
hold, down to the byte. So whatever is missing, cut short, swapped, edited or not ours is found
before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from emcl_plugin import __version__
from emcl_plugin.arrays import Kind
from emcl_plugin.bank import BankReport
from emcl_plugin.corrector import Corrector
from emcl_plugin.emcl import EMCL, PRESETS
from emcl_plugin.io.atomic import atomic_folder, check_folder_target
from emcl_plugin.io.members import utf8_name
from emcl_plugin.io.strict_json import (
    bad,
    check_size,
    opened,
    read_as,
    read_json,
    same_keys,
    saved_fields,
)
from emcl_plugin.job import pick_device
from emcl_plugin.likeness import Likeness
from emcl_plugin.ncl import NCL
from emcl_plugin.prior import MODES
from emcl_plugin.reranker import Reranker
from emcl_plugin.sizes import format_size, physical_memory

KIND = "emcl_plugin corrector"
FORMAT = 1
FACTS, TENSORS, NAMES = FILES = ("corrector.json", "corrector.safetensors", "names.json")
LARGEST = {FACTS: 1 << 20, NAMES: 64 << 20}
"""Bytes of JSON that are read of each file."""
CODES = {"float32": "F32", "float64": "F64"}
UNIT = 1e-4
"""How far a unit vector's length may be from 1."""

_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Step k makes the content of format k + 1 from that of format k."""
_SCALARS = ("metric", "renormalize", "level", "temperature", "rho", "strength")
_METRICS = ("cosine", "dot")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Of the Reranker; device and memory are the machine's."""

    emcl: EMCL | str | None
    ncl: NCL | str | None
    prior: str
    guard: bool
    metric: str


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What corrector.json holds, key by key."""

    kind: str
    format_version: int
    package_version: str
    protocol: str
    dtype: str
    dimension: int
    n_bank: int
    n_gallery: int
    n_directions: int
    n_known: int
    n_plane: int
    n_beside: int
    metric: str
    renormalize: bool
    level: float
    temperature: float
    rho: float
    strength: float
    likeness_low: float
    likeness_high: float
    likeness_within: tuple[float, float, float]
    settings: _Settings
    report: BankReport | None
    named: bool
    tensors: dict[str, str]
    gallery_order: str
    sha256: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors."""
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

    def check(self, path: Path) -> None:
        """That every value can be what it says it is."""
        same_keys(self.tensors, list(self.shapes()), f"{path}: tensors")
        emcl, ncl, prior = self.settings.emcl, self.settings.ncl, self.settings.prior
        sizes = (
            ("dimension", self.dimension, 1),
            ("n_bank", self.n_bank, 1),
            ("n_gallery", self.n_gallery, 1),
            ("n_directions", self.n_directions, 0),
            ("n_known", self.n_known, 0),
            ("n_plane", self.n_plane, 0),
            ("n_beside", self.n_beside, 0),
        )
        for name, value, good, allowed in (
            ("protocol", self.protocol, self.protocol == "bank", "bank"),
            ("dtype", self.dtype, self.dtype in CODES, tuple(CODES)),
            *((name, size, low <= size < 1 << 48, f"from {low}") for name, size, low in sizes),
            ("metric", self.metric, self.metric in _METRICS, _METRICS),
            ("temperature", self.temperature, self.temperature > 0, "above 0"),
            ("rho", self.rho, 0 < self.rho <= 1, "above 0 and at most 1"),
            ("strength", self.strength, 0 <= self.strength <= 1, "0 to 1"),
            ("likeness_low", self.likeness_low, self.likeness_low < self.likeness_high,
             "below likeness_high"),
            ("likeness_within", self.likeness_within,
             list(self.likeness_within) == sorted(self.likeness_within), "rising"),
            ("emcl", emcl, not isinstance(emcl, str) or emcl in ("auto", *PRESETS), "a preset"),
            ("ncl", ncl, not isinstance(ncl, str) or ncl == "auto", "auto"),
            ("prior", prior, prior in MODES, MODES),
            ("settings' metric", self.settings.metric, self.settings.metric in _METRICS, _METRICS),
        ):  # fmt: skip
            if not good:
                raise bad(
                    f"the {name} is out of its range", f"{path}: {shown(value)}, not {allowed}"
                )


# --- the two ways ---------------------------------------------------------------------------------


def save(reranker: Reranker, folder: Path, *, force: bool = False) -> None:
    """Write a fitted Reranker to a folder, whole or not at all.

    Parameters
    ----------
    reranker : Reranker
        Fitted on a bank. Its device and memory budget are not saved.
    folder : Path
        To be made, in a folder that is there.
    force : bool
        Replace a saved corrector, or an empty folder. Nothing else is ever replaced.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    InputFileError
        It cannot be written there, or the disk is full. Then nothing is.
    StateError
        It could not be loaded again: it holds NaN or infinity, marginals, names that are not
        text. Also where ``force`` is to replace what is no saved corrector.

    Examples
    --------
    >>> import tempfile
    >>> from emcl_plugin.demo import load_demo
    >>> fitted = Reranker().fit(load_demo().text_bank, load_demo().video)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save(fitted, Path(place) / "corrector")
    ...     again = load(Path(place) / "corrector")
    >>> bool((again.transform(load_demo().text) == fitted.transform(load_demo().text)).all())
    True
    """
    folder, corrector = Path(folder), reranker.corrector_
    tensors = _tensors(corrector)
    check_folder_target(folder, sum(x.nbytes for x in tensors.values()), force=force, files=FILES)
    if folder.exists() and any(folder.iterdir()):
        _check_kind(read_json(folder / FACTS, LARGEST[FACTS]), folder / FACTS)
    count = len(corrector) if corrector.names else 0
    names = _check_names(list(corrector.names), count, folder / NAMES)
    digests = _digests(tensors)
    content = _content(reranker)
    content["tensors"] = {name: digest.hexdigest() for name, digest in digests.items()}
    content["gallery_order"] = _order(digests["gallery"], names)
    content["sha256"] = _seal(content)
    facts = _checked(content, folder / FACTS)  # what could not be loaded is not saved
    _check_tensors(tensors, digests, facts, folder / TENSORS)
    texts = {FACTS: json.dumps(content, indent=2).encode(), NAMES: _json(names).encode()}
    for name, text in texts.items():
        check_size(folder / name, len(text), LARGEST[name])
    with atomic_folder(folder, force=force, files=FILES) as part:
        _write(part / FACTS, texts[FACTS])
        _write(part / TENSORS, to_bytes(tensors))
        if names:
            _write(part / NAMES, texts[NAMES])


def load(folder: Path, *, device: str | None = None, kind: type[Reranker] = Reranker) -> Reranker:
    """The fitted Reranker of a folder; nothing in it is executed, and nothing is guessed.

    Parameters
    ----------
    folder : Path
        As :func:`save` wrote it. Other files in it are not looked at.
    device : str, optional
        Where to hold it. Default: "cpu".
    kind : type
        What to make of it: Reranker, or a class that is one.

    Returns
    -------
    Reranker
        Its scores are those of the one that was saved, bit for bit.

    Raises
    ------
    StateError
        Anything is missing, damaged, of a newer version, or not a saved corrector.
    InputValueError
        There is no such device.

    Examples
    --------
    >>> load(Path("nowhere"))
    Traceback (most recent call last):
        ...
    emcl_plugin.errors.StateError: there is no saved corrector
      received: nowhere does not exist
      to do:    check the path
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise bad("there is no saved corrector", f"{folder} {what}", "check the path")
    facts = _checked(read_json(folder / FACTS, LARGEST[FACTS]), folder / FACTS)
    tensors = _read_tensors(folder / TENSORS, facts)
    digests = _digests(tensors)
    _check_tensors(tensors, digests, facts, folder / TENSORS)
    names: list[str] = []
    if facts.named:
        names = _check_names(
            read_json(folder / NAMES, LARGEST[NAMES]), facts.n_gallery, folder / NAMES
        )
    if _order(digests["gallery"], names) != facts.gallery_order:
        raise bad(
            "the gallery's items or names are not those that were saved, in their order",
            f"{folder}: another gallery_order",
        )
    place = pick_device(device or "cpu", Kind.of(tensors["gallery"]))
    held: dict[str, Any] = {name: x.to(place) for name, x in tensors.items()}
    known, plane = held.pop("likeness.known"), held.pop("likeness.plane")
    reranker = kind(device=device, **vars(facts.settings))
    reranker.corrector_ = Corrector(
        **held,
        **{name: getattr(facts, name) for name in _SCALARS},
        likeness=Likeness(
            known, facts.likeness_low, facts.likeness_high, plane, facts.likeness_within
        ),
        names=tuple(names),
        facts={} if facts.report is None else facts.report.to_dict(),
    )
    if facts.report is not None:
        reranker.report_ = facts.report
    return reranker


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# --- corrector.json -------------------------------------------------------------------------------


def _content(reranker: Reranker) -> dict[str, Any]:
    """The content of corrector.json, but for the checksums."""
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
        "n_known": len(corrector.likeness.known),
        "n_plane": corrector.likeness.plane.shape[1],
        "n_beside": len(corrector.beside),
        **{name: getattr(corrector, name) for name in _SCALARS},
        "likeness_low": corrector.likeness.low,
        "likeness_high": corrector.likeness.high,
        "likeness_within": corrector.likeness.within,
        "settings": {field.name: getattr(reranker, field.name) for field in fields(_Settings)},
        "report": corrector.facts or None,
        "named": bool(corrector.names),
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, default=_plain))
    return plain


def _plain(value: object) -> Any:
    """What JSON has for settings, and for NumPy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, EMCL | NCL):
        kept = saved_fields(type(value))
        if all(getattr(value, f.name) is None for f in fields(value) if f.name not in kept):
            return {name: getattr(value, name) for name in kept}
    raise bad(
        "these settings cannot be saved", shown(value), "leave marginals out: a bank has none"
    )


def _checked(content: Any, path: Path) -> _Facts:
    """The facts that the content of corrector.json amounts to, or what is wrong with it."""
    _check_kind(content, path)
    version = read_as(int, content.get("format_version"), f"{path}: format_version")
    if version > FORMAT:
        raise bad(
            "the corrector was written by a newer version of emcl_plugin",
            f"{path}: format {version} of version {shown(content.get('package_version'))}; this "
            f"is {__version__!r}, which knows formats up to {FORMAT}",
            "upgrade: pip install --upgrade emcl-plugin",
        )
    if version < FORMAT and version not in _UPGRADES:
        raise bad("there never was such a format", f"{path}: format_version {version}")
    current = content
    try:
        for step in range(version, FORMAT):
            current = _UPGRADES[step](current)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        received = f"{path}: {shown(error)}"
        raise bad(f"this is not what format {version} looks like", received) from None
    nested = {"report": _nested(current["report"])} if "report" in current else {}
    facts: _Facts = read_as(_Facts, current | nested, f"{path}")
    facts.check(path)
    if current["report"] != (None if facts.report is None else facts.report.to_dict()):
        raise bad("the report is not that of a fit", f"{path}: report")
    if _seal(content) != content["sha256"]:
        raise bad("the file was changed after it was saved", f"{path}: another sha256")
    return facts


def _check_kind(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise bad("this is not a saved corrector", f"{path}: no kind {KIND!r}", "check the path")


def _seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of everything in corrector.json but itself."""
    text = _json({key: value for key, value in content.items() if key != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()


def _order(gallery: Any, names: list[str]) -> str:
    """SHA-256 of the gallery, whose own is given, and its names, in their order."""
    digest = gallery.copy()
    digest.update(_json(names).encode())
    return str(digest.hexdigest())


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _nested(report: Any) -> Any:
    """A report's ``to_dict`` as its dataclasses are nested, as far as it looks like one."""
    try:
        out = dict(report)
        hubs = out.pop("hubs")
        out |= {f"hubs_{when}": hubs[when] for when in ("before", "after")}
        out["guard"] = {key: value for key, value in out["guard"].items() if key != "applied"}
        if out["emcl"] is not None:
            tried = [[t["strength"], t["mutual_nearest_neighbours"]] for t in out["emcl"]["tried"]]
            out["emcl"] = {**out["emcl"], "tried": tried}
    except (AttributeError, KeyError, TypeError, ValueError):
        return report
    return out


# --- tensors and names ----------------------------------------------------------------------------


def _tensors(corrector: Corrector) -> dict[str, torch.Tensor]:
    """All tensors by name, contiguous and on the CPU."""
    names = [f.name for f in fields(Corrector) if f.type == "torch.Tensor"]
    every = {name: getattr(corrector, name) for name in names}
    every["likeness.known"] = corrector.likeness.known
    every["likeness.plane"] = corrector.likeness.plane
    return {name: x.detach().cpu().contiguous() for name, x in every.items()}


def _digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: hashlib.sha256(x.numpy().reshape(-1).data) for name, x in tensors.items()}


def _read_tensors(path: Path, facts: _Facts) -> dict[str, torch.Tensor]:
    """The tensors, once their names, shapes and dtypes are what they must be."""
    shapes, code = facts.shapes(), CODES[facts.dtype]
    with opened(path) as (file, size):
        start = file.read(8)
    if size > physical_memory():
        raise bad("the corrector does not fit into the memory", f"{path}: {format_size(size)}")
    try:
        with utf8_name(path) as named, safe_open(named, framework="pt") as stored:
            same_keys(dict.fromkeys(stored.keys()), list(shapes), f"{path}")
            for name, shape in shapes.items():
                entry = stored.get_slice(name)
                if entry.get_dtype() != code:
                    received = f"{path}: {name} {entry.get_dtype()}, not {code}"
                    raise bad("a tensor has another dtype", received)
                if tuple(entry.get_shape()) != shape:
                    received = f"{path}: {name} {tuple(entry.get_shape())}, not {shape}"
                    raise bad("a tensor has another shape", received)
            return {name: stored.get_tensor(name).clone() for name in shapes}
    except SafetensorError as error:
        problem = "the file is damaged, cut short, or not a safetensors file"
        if start[:1] == b"\x80":
            problem = "the file is a pickle, which could run any code, or damaged"
        elif start[:2] == b"PK":
            problem = "the file is a zip archive, as of torch.save, not a safetensors file"
        received = f"{path}: {size} bytes that begin with {start!r}; {error}"
        raise bad(problem, received) from None


def _check_tensors(
    tensors: Mapping[str, torch.Tensor], digests: Mapping[str, Any], facts: _Facts, path: Path
) -> None:
    """That the tensors can be a corrector's, and are those that were saved."""
    for name, x in tensors.items():
        if tuple(x.shape) != facts.shapes()[name] or str(x.dtype)[6:] != facts.dtype:
            received = f"{path}: {name} {tuple(x.shape)}, {x.dtype}"
            raise bad("a tensor's shape or dtype does not go with the others'", received)
        _all(torch.isfinite(x), name, x, "a tensor holds NaN or infinity", path)
    weight = tensors["weight"]
    _all((weight > 0) & (weight <= 1), "weight", weight, "a weight is not in (0, 1]", path)
    for name in ("gallery", "bank", "beside", "likeness.known") if facts.metric == "cosine" else ():
        length = torch.linalg.vector_norm(tensors[name], dim=1)
        _all((length - 1).abs() <= UNIT, f"length of {name}", length, "no unit vector", path)
    for name, digest in digests.items():
        if digest.hexdigest() != facts.tensors.get(name):
            raise bad("a tensor is not the one that was saved", f"{path}: {name}, another sha256")


def _all(good: torch.Tensor, name: str, x: torch.Tensor, problem: str, path: Path) -> None:
    """Raise at the first place that is not good."""
    if not bool(good.all()):
        place = [int(i) for i in (~good).nonzero()[0]]
        raise bad(problem, f"{path}: {name}{place} = {float(x[tuple(place)]):g}")


def _check_names(names: Any, count: int, path: Path) -> list[str]:
    """The names, if they are texts, ``count`` of them."""
    if not isinstance(names, list):
        raise bad("the names are not a list", f"{path}: {shown(names)}")
    wrong = [(i, name) for i, name in enumerate(names) if not isinstance(name, str)]
    if wrong:
        raise bad("a name is not text", f"{path}: names[{wrong[0][0]}] = {shown(wrong[0][1])}")
    if len(names) != count:
        raise bad("there must be one name per item", f"{path}: {len(names)} for {count} items")
    return names
