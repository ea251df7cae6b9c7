"""Reading what the options name: arrays, ground truth, sizes; contradictions are wrong usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import click

from emcl_plugin._internal.sizes import parse_size
from emcl_plugin.cli.options import TRUST
from emcl_plugin.errors import EmclError, InputValueError, escaped

if TYPE_CHECKING:
    import numpy as np

    from emcl_plugin.evaluation.ablation import Names
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.io.vectors import Ids, Vectors
    from emcl_plugin.scores import Scorer

    Matrix = np.ndarray[Any, Any]

Source: TypeAlias = "str | Path"
"""What an option for vectors holds: a file, ``file:name``, a folder, ``-``, an address."""


@dataclass(frozen=True)
class Inputs:
    """Scores, features or both, and what else the files hold: ids, and the right pairs.

    ``notes`` are decisions that could be otherwise.
    """

    sim: Matrix | Scorer | None
    feats: tuple[Matrix, Matrix] | None
    text_ids: Ids | None = None
    video_ids: Ids | None = None
    truth: GroundTruth | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_features(self) -> bool:
        """Whether EMCL has something to work on."""
        from emcl_plugin.emcl.experts import Experts

        return self.feats is not None or isinstance(self.sim, Experts)

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        if self.sim is not None:
            return int(self.sim.shape[0]), int(self.sim.shape[-1])
        assert self.feats is not None
        return int(self.feats[0].shape[0]), int(self.feats[1].shape[0])


def check_names(
    context: click.Context,
    text: Source | None,
    video: Source | None,
    sim: Source | None,
    source: tuple[str, Source] | None,
) -> None:
    """Either both sides, or a similarity, or all three; or what a retriever wrote."""
    named = [text, video, sim]
    if source is not None and named != [None] * 3:
        raise click.UsageError(
            "--from brings scores and embeddings: leave --text, --video and --sim out", context
        )
    if source is not None:
        return
    if named == [None] * 3:
        raise click.UsageError(
            "there is nothing to work on: give --text and --video, --sim, or --from; or try "
            "'emcl-rerank demo'",
            context,
        )
    if (text is None) != (video is None):
        lone = "--text" if video is None else "--video"
        raise click.UsageError(f"{lone} alone is one side only: give both, or --sim", context)


def check_banks(
    context: click.Context, text: Source | None, sim: Source | None, check_leak: bool
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

    gallery: Source
    bank: Source
    gallery_bank: Source | None
    asks: str


def sides(
    context: click.Context,
    text: Source | None,
    video: Source | None,
    text_bank: Source | None,
    video_bank: Source | None,
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


def read_source(source: Source) -> Vectors:
    """One file of vectors; pickles only with --trust-pickle."""
    from emcl_plugin.io.formats import read_vectors

    return read_vectors(source, trust_pickle=trusted())


def trusted() -> bool:
    """Whether --trust-pickle is given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(TRUST))


def read_inputs(
    text: Source | None,
    video: Source | None,
    sim: Source | None,
    source: tuple[str, Source] | None = None,
    orientation: str = "auto",
) -> Inputs:
    """Open the files, memory-mapped where that can be."""
    if source is not None:
        return _from_retriever(*source, orientation)
    texts = videos = scores = None
    if text is not None and video is not None:
        texts, videos = read_source(text), read_source(video)
    if sim is not None:
        scores = read_source(sim)
    notes: list[str] = []
    if text is not None and text == video:
        name = escaped(str(text))
        notes.append(f"--text and --video are the same, {name}: each item is its own best match")
    matrix, ids, column_ids = None, None, None
    if scores is not None:
        matrix = _oriented(scores, texts, videos, orientation, notes)
        ids, column_ids = scores.ids, scores.column_ids
        if orientation == "video-text" or matrix.shape != scores.array.shape:  # turned
            ids, column_ids = column_ids, ids
    return Inputs(
        matrix,
        None if texts is None or videos is None else (texts.array, videos.array),
        _agreed("text", texts, ids),
        _agreed("video", videos, column_ids),
        notes=tuple(notes),
    )


def _oriented(
    scores: Vectors,
    texts: Vectors | None,
    videos: Vectors | None,
    orientation: str,
    notes: list[str],
) -> Matrix:
    from emcl_plugin.adapters.orientation import oriented

    found = oriented(
        scores.array,
        orientation,
        notes,
        texts=None if texts is None else len(texts.array),
        videos=None if videos is None else len(videos.array),
        by_ids=scores.ids is not None and scores.column_ids is not None,
    )
    return cast("Matrix", found)


def _from_retriever(name: str, path: Source, orientation: str) -> Inputs:
    """What a retriever wrote."""
    from emcl_plugin import adapters
    from emcl_plugin.emcl.experts import Experts

    chosen = {} if orientation == "auto" else {"orientation": orientation}
    found = adapters.read(name, path, trust_pickle=trusted(), **chosen)
    own = isinstance(found.similarity, Experts)  # they bring their features
    return Inputs(
        cast("Matrix | None", found.similarity),
        None if own else cast("tuple[Matrix, Matrix] | None", found.features),
        found.text_ids,
        found.video_ids,
        found.ground_truth,
        tuple(found.notes),
    )


def _agreed(side: str, embeddings: Vectors | None, scores: Ids | None) -> Ids | None:
    """The ids of a side; refuse files that list other items, or the same in another order."""
    ids = None if embeddings is None else embeddings.ids
    if ids is None or scores is None or ids == scores:
        return scores if ids is None else ids
    places = enumerate(zip(ids, scores, strict=False))
    where = next((f"{i}: {a!r} and {b!r}" for i, (a, b) in places if a != b), "of another number")
    raise InputValueError(
        f"--{side} and --sim are not of the same {side}s, by their ids",
        f"{side} {where}",
        "save both in one order",
    )


def known_ids(
    given: Inputs, shape: tuple[int, int], text_ids: Path | None, video_ids: Path | None
) -> tuple[Ids | None, Ids | None]:
    """Ids of texts and videos: of --text-ids and --video-ids, else those in the files."""
    from emcl_plugin.io.truth import read_lines

    texts, videos = given.text_ids, given.video_ids
    if text_ids is not None:
        texts = tuple(read_lines(text_ids, shape[0], "text ids"))
    if video_ids is not None:
        videos = tuple(read_lines(video_ids, shape[1], "video ids"))
    return texts, videos


def read_banks(
    text_bank: Source | None, video_bank: Source | None
) -> tuple[Matrix | None, Matrix | None]:
    """Open the banks that are given, memory-mapped where that can be."""
    return (
        None if text_bank is None else read_source(text_bank).array,
        None if video_bank is None else read_source(video_bank).array,
    )


def check_gallery(gallery: Matrix, bank: Matrix, metric: str) -> None:
    """Look at every vector of the gallery, before hours of work on the bank."""
    from emcl_plugin._internal.arrays import check_matrix
    from emcl_plugin.scores import Features

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
    given: Inputs | None = None,
) -> GroundTruth:
    """The right pairs: of ``gt``, else those that came with the input, else row i's is row i.

    Ids that came with the input are used where no option names others.
    """
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.io.truth import read_mask, read_truth, same_ids

    given = given or Inputs(None, None)
    ids = known_ids(given, shape, text_ids, video_ids)
    if gt is None and given.truth is not None:
        truth = given.truth
    elif gt is None or str(gt) == "diagonal":
        truth = GroundTruth.diagonal(shape)
    elif str(gt) == "ids":
        truth = same_ids(*ids)
    else:
        truth = read_truth(gt, shape, *ids)
    if query_mask is not None:
        truth = truth.keep_queries(read_mask(query_mask, shape[0]))
    if not len(truth.query):
        raise InputValueError(
            "no text has a right video, so that there is nothing to measure",
            f"{' and '.join(str(path) for path in (gt, query_mask) if path is not None)}",
            "give a grade above 0 to what is right, and a mask that keeps some texts",
        )
    return truth


def read_names(
    shape: tuple[int, int],
    ids: tuple[Ids | None, Ids | None],
    text_names: Path | None,
    video_names: Path | None,
    video_links: Path | None,
) -> Names:
    """What people call the items; their ids, where no option names a file."""
    from emcl_plugin.evaluation.ablation import Names
    from emcl_plugin.io.truth import read_lines

    def lines(path: Path | None, count: int, what: str, other: Ids | None = None) -> Sequence[str]:
        return other or () if path is None else read_lines(path, count, what)

    return Names(
        lines(text_names, shape[0], "text names", ids[0]),
        lines(video_names, shape[1], "video names", ids[1]),
        lines(video_links, shape[1], "video links"),
    )


def read_size(context: click.Context, memory: str | None) -> int | None:
    """Bytes of --memory."""
    try:
        return None if memory is None else parse_size(memory)
    except EmclError as error:
        raise click.UsageError(str(error), context) from None


def read_measures(context: click.Context, text: str, option: str = "--measures") -> list[str]:
    """The names in a comma-separated list."""
    from emcl_plugin.evaluation.metrics import is_measure

    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not is_measure(name)]
    if wrong or not names:
        raise click.UsageError(
            f"{option}: {', '.join(wrong) or 'nothing'} is not known; "
            "R@K, MdR, MnR, MRR, mAP, mAP@K, nDCG, nDCG@K or GM, with a comma between",
            context,
        )
    return names
