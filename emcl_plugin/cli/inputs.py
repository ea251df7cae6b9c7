"""The files that options name: checked for contradictions, then opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from emcl_plugin.cli.options import TRUST, Group, refuse, wrong_usage
from emcl_plugin.errors import InputValueError, escaped

if TYPE_CHECKING:
    import numpy as np

    from emcl_plugin.evaluation.ablation import Names
    from emcl_plugin.ground_truth import GroundTruth
    from emcl_plugin.io.vectors import Ids, Vectors
    from emcl_plugin.scores import Scorer

    Matrix = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Inputs:
    """Scores, features or both, and what came with them; ``notes`` list the assumptions made."""

    sim: Matrix | Scorer | None
    feats: tuple[Matrix, Matrix] | None
    text_ids: Ids | None = None
    video_ids: Ids | None = None
    truth: GroundTruth | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_features(self) -> bool:
        """Whether EMCL has embeddings to work on."""
        from emcl_plugin.emcl.experts import Experts

        return self.feats is not None or isinstance(self.sim, Experts)

    @property
    def shape(self) -> tuple[int, int]:
        """(texts, videos)."""
        if self.sim is not None:
            return int(self.sim.shape[0]), int(self.sim.shape[-1])
        assert self.feats is not None
        return int(self.feats[0].shape[0]), int(self.feats[1].shape[0])


@dataclass(frozen=True, kw_only=True)
class Sources(Group):
    """Both sides, a similarity, or all three; or the output of a retriever."""

    text: str | None
    video: str | None
    sim: str | None
    source: tuple[str, str] | None
    orientation: str
    metric: str

    @property
    def named(self) -> list[str]:
        """All of them that are given."""
        _, path = self.source or (None, None)
        return [name for name in (self.text, self.video, self.sim, path) if name is not None]

    def check(self) -> None:
        """Refuse too little and too much."""
        lone, other = ("--text", "--video")[:: 1 if self.video is None else -1]
        several = self.source is not None and len(self.named) > 1
        half = (self.text is None) != (self.video is None)
        refuse({
            "--from provides scores and embeddings: omit --text, --video and --sim": several,
            "no input: give --text and --video, --sim, or --from; or try 'emcl-rerank demo'":
            not self.named,
            f"{lone} needs {other}: give both, or --sim": half,
        })  # fmt: skip

    def read(self) -> Inputs:
        """Open the files, memory-mapped where possible."""
        from emcl_plugin.adapters.orientation import oriented

        if self.source is not None:
            return _from_retriever(*self.source, self.orientation)
        texts = None if self.text is None else read_source(self.text)
        videos = None if self.video is None else read_source(self.video)
        notes: list[str] = []
        if self.text is not None and self.text == self.video:
            name = escaped(self.text)
            notes.append(f"--text and --video are the same file, {name}: each item matches itself")
        matrix, ids, column_ids = None, None, None
        if self.sim is not None:
            scores = read_source(self.sim)
            ids, column_ids = scores.ids, scores.column_ids
            counts = [None if side is None else len(side.array) for side in (texts, videos)]
            matrix = cast("Matrix", oriented(
                scores.array, self.orientation, notes, texts=counts[0], videos=counts[1],
                by_ids=ids is not None and column_ids is not None,
            ))  # fmt: skip
            if self.orientation == "video-text" or matrix.shape != scores.array.shape:  # turned
                ids, column_ids = column_ids, ids
        feats = None if texts is None or videos is None else (texts.array, videos.array)
        text_ids, video_ids = _agreed("text", texts, ids), _agreed("video", videos, column_ids)
        return Inputs(matrix, feats, text_ids, video_ids, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class Banks(Group):
    """Embeddings of other texts and of other videos."""

    text_bank: str | None
    video_bank: str | None

    def __bool__(self) -> bool:
        return self.text_bank is not None or self.video_bank is not None

    def read(self) -> tuple[Matrix | None, Matrix | None]:
        """Open the banks that are given, memory-mapped where possible."""
        return _read_array(self.text_bank), _read_array(self.video_bank)


@dataclass(frozen=True)
class Sides:
    """The files of a command in bank mode.

    ``asks`` is the option of the side that the queries will be of, --text or --video.
    """

    gallery: str
    bank: str
    gallery_bank: str | None
    asks: str

    @classmethod
    def of(cls, text: str | None, video: str | None, banks: Banks) -> Sides:
        """Take the side that is given as the gallery; its bank is of the other side."""
        if (text is None) == (video is None):
            raise wrong_usage(
                "give the gallery to search: --video for text queries, --text for video queries; "
                + ("not both" if text is not None else "neither is given")
            )
        forward = video is not None
        gallery = video if video is not None else text
        pair = (banks.text_bank, banks.video_bank)
        bank, other = pair if forward else pair[::-1]
        if bank is None:
            missing, given = ("--text-bank", "--video") if forward else ("--video-bank", "--text")
            what = f"a bank of queries for the gallery {given}"
            raise wrong_usage(f"{what} is missing: give {missing}")
        assert gallery is not None
        return cls(gallery, bank, other, "--text" if forward else "--video")

    def read(self) -> tuple[Vectors, Matrix, Matrix | None]:
        """Open the gallery, its bank, and the bank of its own side."""
        gallery = read_source(self.gallery)
        return gallery, read_source(self.bank).array, _read_array(self.gallery_bank)


@dataclass(frozen=True, kw_only=True)
class TruthFiles(Group):
    """Where the right pairs are, and the ids that they are given by."""

    gt: Path | None
    text_ids: Path | None = None
    video_ids: Path | None = None
    query_mask: Path | None = None

    def ids(self, given: Inputs, shape: tuple[int, int]) -> tuple[Ids | None, Ids | None]:
        """Return the ids of texts and videos, from the options or else from the inputs."""
        from emcl_plugin.io.truth import read_lines

        texts, videos = given.text_ids, given.video_ids
        if self.text_ids is not None:
            texts = tuple(read_lines(self.text_ids, shape[0], "text ids"))
        if self.video_ids is not None:
            videos = tuple(read_lines(self.video_ids, shape[1], "video ids"))
        return texts, videos

    def read(self, shape: tuple[int, int], given: Inputs | None = None) -> GroundTruth:
        """Return the pairs of ``gt``, else those of the inputs, else row i with row i."""
        from emcl_plugin.ground_truth import GroundTruth
        from emcl_plugin.io.truth import read_mask, read_truth, same_ids

        given = given or Inputs(None, None)
        ids = self.ids(given, shape)
        if self.gt is None and given.truth is not None:
            truth = given.truth
        elif self.gt is None or str(self.gt) == "diagonal":
            truth = GroundTruth.diagonal(shape)
        elif str(self.gt) == "ids":
            truth = same_ids(*ids)
        else:
            truth = read_truth(self.gt, shape, *ids)
        if self.query_mask is not None:
            truth = truth.keep_queries(read_mask(self.query_mask, shape[0]))
        if not len(truth.query):
            named = [str(path) for path in (self.gt, self.query_mask) if path is not None]
            problem = "no text has a relevant video: there is nothing to measure"
            remedy = "give relevant pairs a grade above 0, and a mask that keeps some texts"
            raise InputValueError(problem, " and ".join(named), remedy)
        return truth


@dataclass(frozen=True, kw_only=True)
class NameFiles(Group):
    """Names of the items, for the page."""

    text_names: Path | None
    video_names: Path | None
    video_links: Path | None

    def read(self, shape: tuple[int, int], ids: tuple[Ids | None, Ids | None]) -> Names:
        """Return the names; ids, where no option names a file."""
        from emcl_plugin.evaluation.ablation import Names

        return Names(
            _lines(self.text_names, shape[0], "text names", ids[0]),
            _lines(self.video_names, shape[1], "video names", ids[1]),
            _lines(self.video_links, shape[1], "video links", None),
        )


def _lines(path: Path | None, count: int, what: str, other: Ids | None) -> Sequence[str]:
    """Return the lines of a file, if there is one."""
    from emcl_plugin.io.truth import read_lines

    return other or () if path is None else read_lines(path, count, what)


def _read_array(source: str | None) -> Matrix | None:
    return None if source is None else read_source(source).array


def read_source(source: str) -> Vectors:
    """Read one file of vectors; pickles only with --trust-pickle."""
    from emcl_plugin.io.formats import read_vectors

    return read_vectors(source, trust_pickle=_trusted())


def names_of(gallery: Vectors, path: Path | None) -> list[str]:
    """Return the gallery's names: of this file, else the ids in its own."""
    return list(_lines(path, len(gallery.array), "names", gallery.ids))


def _trusted() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(TRUST))


def _from_retriever(name: str, path: str, orientation: str) -> Inputs:
    from emcl_plugin import adapters
    from emcl_plugin.emcl.experts import Experts

    chosen = {} if orientation == "auto" else {"orientation": orientation}
    found = adapters.read(name, path, trust_pickle=_trusted(), **chosen)
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
    """Return the ids of a side; refuse files that disagree on them."""
    ids = None if embeddings is None else embeddings.ids
    if ids is None or scores is None or ids == scores:
        return scores if ids is None else ids
    places = enumerate(zip(ids, scores, strict=False))
    where = next((f"{i}: {a!r} and {b!r}" for i, (a, b) in places if a != b), "not as many")
    problem = f"--{side} and --sim have different {side} ids"
    raise InputValueError(problem, f"{side} {where}", "save both in the same order")


def check_gallery(gallery: Matrix, bank: Matrix, metric: str) -> None:
    """Check every vector of the gallery, before hours of work on the bank."""
    from emcl_plugin._internal.arrays import check_matrix
    from emcl_plugin.scores import Features

    vectors = check_matrix(gallery, "gallery")
    if vectors.shape[1:] != bank.shape[1:]:
        problem = "the gallery and the bank have different dimensions"
        received = f"{tuple(vectors.shape)} against {tuple(bank.shape)}"
        raise InputValueError(problem, received, "embed both with the same model")
    Features(vectors, name="gallery", metric=metric)


def read_measures(text: str, option: str = "--measures") -> list[str]:
    """Return the names in a comma-separated list."""
    from emcl_plugin.evaluation.metrics import is_measure

    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not is_measure(name)]
    if wrong or not names:
        raise wrong_usage(
            f"{option}: unknown measure {', '.join(wrong) or 'none'}; use "
            "R@K, MdR, MnR, MRR, mAP, mAP@K, nDCG, nDCG@K or GM, separated by commas"
        )
    return names
