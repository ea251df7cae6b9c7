"""Saved correctors: a folder of files that cannot execute code.

    corrector.json          settings, scalars, report, and a SHA-256 of every tensor and of itself
    corrector.safetensors   the tensors of :class:`~emcl_plugin.bank.corrector.Corrector`
    names.json              names of the gallery items, if they have names

corrector.json is a :class:`~emcl_plugin.bank.manifest.Manifest`, key by key, and has checksums of
the other files. Missing, truncated, swapped or edited content is detected before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from emcl_plugin._internal.arrays import Kind
from emcl_plugin._internal.sizes import format_size, physical_memory
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.bank.manifest import (
    CODES,
    SCALARS,
    Fitted,
    Manifest,
    as_json,
    check_kind,
    checked,
    content_of,
    seal,
)
from emcl_plugin.bank.ood_gate import OODGate
from emcl_plugin.io.atomic import atomic_folder, check_folder_target
from emcl_plugin.io.members import utf8_name
from emcl_plugin.io.strict_json import bad, check_size, opened, read_json, same_keys
from emcl_plugin.pipeline.settings import Resources

MANIFEST, TENSORS, NAMES = FILES = ("corrector.json", "corrector.safetensors", "names.json")
LARGEST = {MANIFEST: 1 << 20, NAMES: 64 << 20}
"""Maximum size of the JSON files, in bytes."""
RENAMED = {"auxiliary": "beside", "auxiliary_bias": "beside_bias"}
"""Tensors that format 1 stores under another name."""

AnyFitted = TypeVar("AnyFitted", bound=Fitted)


def save(reranker: Fitted, folder: Path, *, force: bool = False) -> None:
    """Write a fitted Reranker to a new folder, completely or not at all.

    Its device and memory budget are not saved. With ``force`` a saved corrector or an empty folder
    is replaced, and never anything else. Raise NotFittedError before ``fit``, InputFileError if the
    folder cannot be written, StateError if the result could not be loaded (it holds NaN, infinity,
    marginals, or names that are not text) or would replace something that is not a saved corrector.
    """
    folder, corrector = Path(folder), reranker.corrector_
    tensors = _tensors(corrector)
    check_folder_target(folder, sum(x.nbytes for x in tensors.values()), force=force, files=FILES)
    if folder.exists() and any(folder.iterdir()):
        check_kind(read_json(folder / MANIFEST, LARGEST[MANIFEST]), folder / MANIFEST)
    count = len(corrector) if corrector.names else 0
    names = _check_names(list(corrector.names), count, folder / NAMES)
    digests = _digests(tensors)
    content = content_of(reranker)
    content["tensors"] = {name: digest.hexdigest() for name, digest in digests.items()}
    content["gallery_order"] = _order(digests["gallery"], names)
    content["sha256"] = seal(content)
    manifest = checked(content, folder / MANIFEST)
    _check_tensors(tensors, digests, manifest, folder / TENSORS)
    texts = {MANIFEST: json.dumps(content, indent=2).encode(), NAMES: as_json(names).encode()}
    for name, text in texts.items():
        check_size(folder / name, len(text), LARGEST[name])
    with atomic_folder(folder, force=force, files=FILES) as part:
        (part / MANIFEST).write_bytes(texts[MANIFEST])
        (part / TENSORS).write_bytes(to_bytes(tensors))
        if names:
            (part / NAMES).write_bytes(texts[NAMES])


def load(folder: Path, kind: Callable[..., AnyFitted], *, device: str | None = None) -> AnyFitted:
    """Return the fitted Reranker that :func:`save` wrote; no code in the folder is executed.

    ``kind`` is Reranker or a subclass; its scores equal those of the saved one, bit for bit. Other
    files in the folder are ignored. Raise StateError if a file is missing, damaged, of a newer
    version or not a saved corrector, InputValueError if the device does not exist.

    >>> import tempfile
    >>> from emcl_plugin import Reranker
    >>> from emcl_plugin.data.demo import load_demo
    >>> fitted = Reranker().fit(load_demo().text_bank, load_demo().video)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save(fitted, Path(place) / "corrector")
    ...     again = load(Path(place) / "corrector", Reranker)
    >>> bool((again.transform(load_demo().text) == fitted.transform(load_demo().text)).all())
    True
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise bad("there is no saved corrector", f"{folder} {what}", "check the path")
    manifest = checked(read_json(folder / MANIFEST, LARGEST[MANIFEST]), folder / MANIFEST)
    tensors = _read_tensors(folder / TENSORS, manifest)
    digests = _digests(tensors)
    _check_tensors(tensors, digests, manifest, folder / TENSORS)
    names: list[str] = []
    if manifest.named:
        saved = read_json(folder / NAMES, LARGEST[NAMES])
        names = _check_names(saved, manifest.n_gallery, folder / NAMES)
    if _order(digests["gallery"], names) != manifest.gallery_order:
        raise bad(
            "the gallery items or their names are not the saved ones, in the saved order",
            f"{folder}: another gallery_order",
        )
    place = Resources(device=device or "cpu").device_for(Kind.of(tensors["gallery"]))
    held: dict[str, Any] = {name: x.to(place) for name, x in tensors.items()}
    known, plane = held.pop("likeness.known"), held.pop("likeness.plane")
    low, high = manifest.likeness_low, manifest.likeness_high
    reranker = kind(device=device, **manifest.settings.parameters())
    reranker.corrector_ = Corrector(
        **{name: held.pop(stored) for name, stored in RENAMED.items()},
        **held,
        **{name: getattr(manifest, name) for name in SCALARS},
        ood_gate=OODGate(known, low, high, plane, manifest.likeness_within),
        names=tuple(names),
        facts={} if manifest.report is None else manifest.report.to_dict(),
    )
    if manifest.report is not None:
        reranker.report_ = manifest.report
    return reranker


def _order(gallery: Any, names: list[str]) -> str:
    digest = gallery.copy()
    digest.update(as_json(names).encode())
    return str(digest.hexdigest())


def _tensors(corrector: Corrector) -> dict[str, torch.Tensor]:
    names = [f.name for f in fields(Corrector) if f.type == "torch.Tensor"]
    every = {RENAMED.get(name, name): getattr(corrector, name) for name in names}
    every["likeness.known"] = corrector.ood_gate.known
    every["likeness.plane"] = corrector.ood_gate.plane
    return {name: x.detach().cpu().contiguous() for name, x in every.items()}


def _digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: hashlib.sha256(x.numpy().reshape(-1).data) for name, x in tensors.items()}


def _read_tensors(path: Path, manifest: Manifest) -> dict[str, torch.Tensor]:
    """Return the tensors if their names, shapes and dtypes match the manifest."""
    shapes, code = manifest.shapes(), CODES[manifest.dtype]
    with opened(path) as (file, size):
        start = file.read(8)
    if size > physical_memory():
        raise bad("the corrector does not fit into memory", f"{path}: {format_size(size)}")
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
        problem = "the file is damaged, truncated, or not a safetensors file"
        if start[:1] == b"\x80":
            problem = "the file is a pickle, which could run any code, or damaged"
        elif start[:2] == b"PK":
            problem = "the file is a zip archive, as torch.save writes, not a safetensors file"
        received = f"{path}: {size} bytes that begin with {start!r}; {error}"
        raise bad(problem, received) from None


def _check_tensors(
    tensors: Mapping[str, torch.Tensor], digests: Mapping[str, Any], manifest: Manifest, path: Path
) -> None:
    """Raise an error if a tensor is not finite or not the saved one."""
    for name, x in tensors.items():
        if not bool(torch.isfinite(x).all()):
            place = [int(i) for i in (~torch.isfinite(x)).nonzero()[0]]
            received = f"{path}: {name}{place} = {float(x[tuple(place)]):g}"
            raise bad("a tensor holds NaN or infinity", received)
        if digests[name].hexdigest() != manifest.tensors.get(name):
            raise bad("a tensor is not the saved one", f"{path}: {name}, another sha256")


def _check_names(names: Any, count: int, path: Path) -> list[str]:
    if not isinstance(names, list):
        raise bad("the names are not a list", f"{path}: {shown(names)}")
    wrong = [(i, name) for i, name in enumerate(names) if not isinstance(name, str)]
    if wrong:
        raise bad("a name is not text", f"{path}: names[{wrong[0][0]}] = {shown(wrong[0][1])}")
    if len(names) != count:
        raise bad("there must be one name per item", f"{path}: {len(names)} for {count} items")
    return names
