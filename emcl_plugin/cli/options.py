"""Options that several commands share, each with a default and an example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

ORIENTATIONS = ("auto", "text-video", "video-text")
NAMES = (
    "mmt",
    "collaborative-experts",
    "clip4clip",
    "clip2video",
    "x-clip",
    "drl",
    "emcl-net",
    "dbsn",
    "open_clip",
    "huggingface",
    "sentence-transformers",
    "clip-retrieval",
)
"""What the adapters are called; they are not loaded for the help."""

F = TypeVar("F", bound=Callable[..., Any])


_PATH = click.Path(path_type=Path)

TRUST = "emcl_plugin.trust_pickle"
"""Where the context keeps whether pickles may be read."""


class _Source(click.types.StringParamType):
    """A file of vectors, kept as it was written: a path would make one slash of ``s3://``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text:
            self.fail("the name of the file is empty", param, ctx)
        if ctx is not None and (text == "-" or text.startswith("-:")):
            first = ctx.meta.setdefault("emcl_plugin.stdin", param)
            if first is not param:
                self.fail("standard input can be one of the options only", param, ctx)
        return text


SOURCE = _Source()


def _trust(context: click.Context, _: click.Parameter, given: bool) -> None:
    context.meta[TRUST] = given


trust_option = click.option(
    "--trust-pickle",
    is_flag=True,
    expose_value=False,
    callback=_trust,
    help="Also read pickles (.pkl, .npy of objects): arrays, lists, dictionaries, texts and "
    "numbers in them, and nothing else.",
)


def all_of(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    """Several options as one decorator; the help lists them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


input_options = all_of(
    [
        click.option(
            "--text",
            type=SOURCE,
            metavar="T.npy",
            help="Text embeddings, texts x dimensions, of any length.",
        ),
        click.option(
            "--video", type=SOURCE, metavar="V.npy", help="Video embeddings, videos x dimensions."
        ),
        click.option(
            "--sim",
            type=SOURCE,
            metavar="S.npy",
            help="Similarity, texts x videos, at any scale; alone or with embeddings.",
        ),
        click.option(
            "--from",
            "source",
            type=(click.Choice(NAMES), SOURCE),
            metavar="NAME PATH",
            help="What a retriever wrote, in place of --text, --video and --sim. E.g. --from "
            f"clip4clip run.npz. NAME: {', '.join(NAMES)}.",
        ),
        click.option(
            "--orientation",
            type=click.Choice(ORIENTATIONS),
            default="auto",
            show_default=True,
            help="Of a similarity. auto: by its shape or ids; where they do not tell, texts x "
            "videos, and a note says so.",
        ),
        click.option(
            "--metric",
            type=click.Choice(["cosine", "dot"]),
            default="cosine",
            show_default=True,
            help="Similarity of embeddings.",
        ),
        trust_option,
    ]
)

bank_options = all_of(
    [
        click.option(
            "--text-bank",
            type=SOURCE,
            metavar="TB.npy",
            help="Other texts' embeddings, of a training set or a log: they make the videos' "
            "biases, and no text depends on the other texts any more.",
        ),
        click.option(
            "--video-bank",
            type=SOURCE,
            metavar="VB.npy",
            help="Other videos' embeddings: they make the texts' biases.",
        ),
    ]
)


def saved_options(*, required: bool) -> Callable[[F], F]:
    """A gallery, and the folder of its corrector."""
    return all_of(
        [
            click.option(
                "--video",
                type=SOURCE,
                metavar="V.npy",
                help="The gallery, where texts will ask: video embeddings.",
            ),
            click.option(
                "--text",
                type=SOURCE,
                metavar="T.npy",
                help="The gallery, where videos will ask: text embeddings.",
            ),
            click.option(
                "--names",
                type=_PATH,
                metavar="FILE",
                help="Names or ids of the gallery's items, one per line; kept with them. Default: "
                "the ids that its file holds.",
            ),
            click.option(
                "--metric",
                type=click.Choice(["cosine", "dot"]),
                default="cosine",
                show_default=True,
                help="Similarity of embeddings.",
            ),
            click.option(
                "--save",
                type=_PATH,
                required=required,
                metavar="DIR",
                help="Folder for the corrector.",
            ),
            click.option("--force", is_flag=True, help="Replace a corrector that is there."),
            trust_option,
        ]
    )


truth_options = all_of(
    [
        click.option(
            "--gt",
            type=_PATH,
            metavar="FILE",
            help="Ground truth: .npy of every text's video or of pairs, .csv, .tsv, .jsonl or "
            ".parquet with columns text and video, or TREC .qrels. E.g. --gt gt.npy. "
            "'diagonal': row i belongs to row i. 'ids': a text belongs to the video of its id.",
        ),
        click.option(
            "--text-ids",
            type=_PATH,
            metavar="FILE",
            help="Ids of the texts, one per line, where the ground truth names ids. Default: those "
            "that the files of vectors hold.",
        ),
        click.option(
            "--video-ids", type=_PATH, metavar="FILE", help="Ids of the videos, one per line."
        ),
        click.option(
            "--query-mask",
            type=_PATH,
            metavar="M.npy",
            help="One number per text; texts with 0 are not evaluated.",
        ),
    ]
)

measure_options = all_of(
    [
        click.option(
            "--measures",
            default="R@1,R@5,R@10,MdR,MnR",
            show_default=True,
            help="Comma-separated: R@K, MdR, MnR, MRR, mAP, mAP@K, nDCG, nDCG@K, GM.",
        ),
        click.option(
            "--several",
            type=click.Choice(["best", "mean", "worst"]),
            default="best",
            show_default=True,
            help="Rank of a query with several right items, such as a video with many captions.",
        ),
    ]
)

report_options = all_of(
    [
        click.option(
            "--report",
            type=_PATH,
            metavar="OUT.html",
            help="One self-contained page that explains the result (needs --gt).",
        ),
        click.option(
            "--plots", type=_PATH, metavar="FOLDER", help="Its figures as PNG, SVG and PDF."
        ),
        click.option(
            "--text-names", type=_PATH, metavar="FILE", help="Captions for the page, one per line."
        ),
        click.option("--video-names", type=_PATH, metavar="FILE", help="Titles, one per line."),
        click.option(
            "--video-links",
            type=_PATH,
            metavar="FILE",
            help="Addresses of thumbnails or videos, one per line.",
        ),
        click.option(
            "--check-leak",
            is_flag=True,
            help="Shuffle all items, run again, and tell whether any best match changes.",
        ),
    ]
)

device_options = all_of(
    [
        click.option(
            "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
        ),
        click.option(
            "--memory",
            metavar="SIZE",
            help="Memory to keep within, e.g. 4G. Default: half of what is free.",
        ),
    ]
)

candidate_options = all_of(
    [
        click.option(
            "--candidates",
            type=click.IntRange(min=1),
            metavar="K",
            help="Look at the K best videos of every text and texts of every video only, found "
            "by FAISS: for sets too large for a matrix; needs --run. E.g. 100.",
        ),
        click.option(
            "--index",
            metavar="FACTORY",
            help="FAISS index for --candidates, e.g. 'IVF4096,Flat;nprobe=32'. Default: Flat, "
            "which is exact.",
        ),
    ]
)


output_options = all_of(
    [
        click.option(
            "--output",
            "-o",
            type=_PATH,
            show_default="reranked.npy, or no matrix with --run or --run-v2t",
            metavar="OUT.npy",
            help="Where the re-scored matrix goes: .npy, .npz, .safetensors or .parquet.",
        ),
        click.option(
            "--run",
            type=_PATH,
            metavar="RUN.csv",
            help="Where the best videos of every text go: .csv, .tsv, .jsonl, .parquet, or .trec "
            "(TREC).",
        ),
        click.option(
            "--run-v2t",
            type=_PATH,
            metavar="RUN.csv",
            help="Where the best texts of every video go.",
        ),
        click.option(
            "--top",
            type=click.IntRange(min=1),
            metavar="K",
            show_default="100",
            help="How many best a run lists.",
        ),
        click.option("--force", is_flag=True, help="Replace existing outputs."),
        click.option(
            "--resume",
            type=_PATH,
            metavar="FILE",
            help="Where a run keeps how far it is, so that the same command goes on after a kill "
            "and loses one iteration, or 10 seconds of shorter ones. Removed when the results are "
            "written. E.g. run.safetensors.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float16", "float32", "float64"]),
            default="auto",
            show_default=True,
            help="Numbers of the output; float64 also computes in it. auto: as the input.",
        ),
        click.option(
            "--plan",
            is_flag=True,
            help="Say what the run would take, in time and memory, and stop.",
        ),
        click.option("--json", "as_json", is_flag=True, help="A report on standard output."),
        click.option("--quiet", "-q", is_flag=True, help="No summary, no progress."),
        click.option("--verbose", "-v", is_flag=True, help="Also what was tried, and the plan."),
    ]
)
