"""The demo data and what the main job makes of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.api import rescore
from emcl_plugin.errors import InputFileError
from emcl_plugin.evaluation.metrics import MEASURES, Placement, evaluate
from emcl_plugin.io.atomic import atomic_writer
from emcl_plugin.pipeline.report import Report
from emcl_plugin.scores import Dense, FeaturePair, Features


@dataclass(frozen=True)
class DemoData:
    """English (text) and Spanish ("video") names of the same emoji, embedded in one space.

    Row i of ``text`` belongs to row i of ``video``. The encoder was fitted on the bank's pairs,
    which are other emoji. Made by ``examples/make_demo_data.py``.

    Attributes
    ----------
    text, video : (n, 128) float16
    text_bank, video_bank : (m, 128) float16
    text_names, video_names : tuple of str
    """

    text: np.ndarray[Any, Any]
    video: np.ndarray[Any, Any]
    text_bank: np.ndarray[Any, Any]
    video_bank: np.ndarray[Any, Any]
    text_names: tuple[str, ...]
    video_names: tuple[str, ...]


def load_demo() -> DemoData:
    """The embeddings that ship with the package.

    >>> load_demo().text.shape[1]
    128
    """
    path = resources.files("emcl_plugin") / "data" / "demo.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return DemoData(
            **{name: data[name] for name in ("text", "video", "text_bank", "video_bank")},
            text_names=tuple(str(name) for name in data["text_names"]),
            video_names=tuple(str(name) for name in data["video_names"]),
        )


def save_demo(data: DemoData, folder: Path) -> None:
    """Write the embeddings as ``.npy`` files, to try the commands on files.

    Raises
    ------
    InputFileError
        There is another file of such a name, or it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_demo(load_demo(), Path(folder))
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['text.npy', 'text_bank.npy', 'video.npy', 'video_bank.npy']
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputFileError(
            "the folder cannot be made", f"{folder}: {error.strerror}", "name another one"
        ) from None
    wanted: dict[Path, bytes] = {}
    for name in ("text", "video", "text_bank", "video_bank"):
        content, path = io.BytesIO(), folder / f"{name}.npy"
        np.save(content, getattr(data, name))
        wanted[path] = content.getvalue()
        if path.exists() and not (path.is_file() and path.read_bytes() == wanted[path]):
            raise InputFileError(
                "another file of this name is there", str(path), "name a new folder"
            )
    for path, whole in wanted.items():
        with atomic_writer(path, force=True) as file:
            file.write(whole)


@dataclass(frozen=True)
class DemoOutcome:
    """The report, and rows of (direction, method, placement)."""

    report: Report
    rows: list[tuple[str, str, Placement]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        metrics = [
            {"direction": direction, "method": method, **{m: found.metric(m) for m in MEASURES}}
            for direction, method, found in self.rows
        ]
        return {"metrics": metrics, "report": self.report.to_dict()}


def run_demo(data: DemoData) -> DemoOutcome:
    """Cosine before, `rescore` with no option after, in both directions."""
    result = rescore(None, (data.text, data.video))
    before = FeaturePair(Features(data.text), Features(data.video))
    found = {"cosine": evaluate(before), "emcl_plugin": evaluate(Dense(result.scores))}
    rows = [
        (direction, method, dict(evaluation.directions)[direction])
        for direction in DIRECTIONS
        for method, evaluation in found.items()
    ]
    return DemoOutcome(result, rows)
