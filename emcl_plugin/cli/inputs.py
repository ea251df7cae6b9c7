"""Reading what the options name: arrays, ground truth, sizes; contradictions are wrong usage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emcl_plugin.errors import EmclError
from emcl_plugin.sizes import parse_size

if TYPE_CHECKING:
    import numpy as np

    from emcl_plugin.study import Names
    from emcl_plugin.truth import GroundTruth

    Matrix = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """Scores, features or both, as they are in the files."""

    sim: Matrix | None
    feats: tuple[Matrix, Matrix] | None

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        if self.sim is not None:
            return int(self.sim.shape[0]), int(self.sim.shape[-1])
        assert self.feats is not None
        return int(self.feats[0].shape[0]), int(self.feats[1].shape[0])


def check_names(
    context: click.Context, text: Path | None, video: Path | None, sim: Path | None
) -> None:
    """Either both sides, or a similarity, or all three."""
    if text is None and video is None and sim is None:
        raise click.UsageError(
            "there is nothing to work on: give --text and --video, or --sim, or try "
            "'emcl-rerank demo'",
            context,
        )
    if (text is None) != (video is None):
        lone = "--text" if video is None else "--video"
        raise click.UsageError(f"{lone} alone is one side only: give both, or --sim", context)


def check_banks(
    context: click.Context, text: Path | None, sim: Path | None, check_leak: bool
) -> None:
    """Banks hold embeddings and are compared with embeddings."""
    if text is None or sim is not None:
        raise click.UsageError(
            "--text-bank and --video-bank hold embeddings: give --text and --video, without --sim",
            context,
        )
    if check_leak:
        raise click.UsageError(
            "--check-leak asks whether the order of the texts leaks into the result; with a bank "
            "no text depends on another",
            context,
        )


@dataclass(frozen=True)
class Sides:
    """Which files a bank-mode command works on.

    ``asks`` is the option of the side whose queries will come, --text or --video.
    """

    gallery: Path
    bank: Path
    gallery_bank: Path | None
    asks: str


def sides(
    context: click.Context,
    text: Path | None,
    video: Path | None,
    text_bank: Path | None,
    video_bank: Path | None,
) -> Sides:
    """The gallery is the side that is given; its bank is of the other side."""
    if (text is None) == (video is None):
        raise click.UsageError(
            "give the gallery that will be searched: --video where texts will ask, --text where "
            "videos will; " + ("not both" if text is not None else "neither is there"),
            context,
        )
    forward = video is not None
    gallery = video if video is not None else text
    bank, other = (text_bank, video_bank) if forward else (video_bank, text_bank)
    if bank is None:
        missing = "--text-bank" if forward else "--video-bank"
        given = "--video" if forward else "--text"
        raise click.UsageError(
            f"{given} is searched by the other side, whose bank is missing: give {missing}", context
        )
    assert gallery is not None
    return Sides(gallery, bank, other, "--text" if forward else "--video")


def read_inputs(text: Path | None, video: Path | None, sim: Path | None) -> Inputs:
    """Open the files, memory-mapped."""
    from emcl_plugin.io.formats import read_array

    feats = None
    if text is not None and video is not None:
        feats = (read_array(text), read_array(video))
    return Inputs(None if sim is None else read_array(sim), feats)


def read_banks(
    text_bank: Path | None, video_bank: Path | None
) -> tuple[Matrix | None, Matrix | None]:
    """Open the banks that are given, memory-mapped."""
    from emcl_plugin.io.formats import read_array

    return (
        None if text_bank is None else read_array(text_bank),
        None if video_bank is None else read_array(video_bank),
    )


def check_gallery(gallery: Matrix, bank: Matrix, metric: str) -> None:
    """Look at every vector of the gallery, before hours of work on the bank."""
    from emcl_plugin.arrays import check_matrix
    from emcl_plugin.errors import InputValueError
    from emcl_plugin.similarity import Features

    vectors = check_matrix(gallery, "gallery")
    if vectors.shape[1:] != bank.shape[1:]:
        raise InputValueError(
            "the gallery has another dimension than the bank",
            f"{tuple(vectors.shape)} against {tuple(bank.shape)}",
            "embed it with the same model",
        )
    Features(vectors, name="gallery", metric=metric)


def read_ground_truth(
    shape: tuple[int, int],
    gt: Path | None,
    text_ids: Path | None,
    video_ids: Path | None,
    query_mask: Path | None,
) -> GroundTruth:
    """The right pairs; without a file, row i belongs to row i."""
    from emcl_plugin.io.truth import read_lines, read_mask, read_truth
    from emcl_plugin.truth import GroundTruth

    ids = [
        None if path is None else read_lines(path, count, what)
        for path, count, what in zip(
            (text_ids, video_ids), shape, ("text ids", "video ids"), strict=True
        )
    ]
    if gt is None or str(gt) == "diagonal":
        truth = GroundTruth.diagonal(shape)
    else:
        truth = read_truth(gt, shape, *ids)
    if query_mask is not None:
        truth = truth.keep_queries(read_mask(query_mask, shape[0]))
    return truth


def read_names(
    shape: tuple[int, int],
    text_names: Path | None,
    video_names: Path | None,
    video_links: Path | None,
) -> Names:
    """What people call the items."""
    from emcl_plugin.io.truth import read_lines
    from emcl_plugin.study import Names

    def lines(path: Path | None, count: int, what: str) -> list[str]:
        return [] if path is None else read_lines(path, count, what)

    return Names(
        lines(text_names, shape[0], "text names"),
        lines(video_names, shape[1], "video names"),
        lines(video_links, shape[1], "video links"),
    )


def read_size(context: click.Context, memory: str | None) -> int | None:
    """Bytes of --memory."""
    try:
        return None if memory is None else parse_size(memory)
    except EmclError as error:
        raise click.UsageError(str(error), context) from None


def read_measures(context: click.Context, text: str) -> list[str]:
    """The names in a comma-separated list."""
    from emcl_plugin.metrics import is_measure

    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not is_measure(name)]
    if wrong or not names:
        raise click.UsageError(
            f"--measures: {', '.join(wrong) or 'nothing'} is not known; "
            "R@K, MdR, MnR, MRR, mAP, mAP@K, nDCG, nDCG@K or GM, with a comma between",
            context,
        )
    return names
