"""Options that several commands share, in sections of the help page, and their typed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from emcl_plugin._internal.sizes import parse_size
from emcl_plugin.errors import EmclError

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
"""Names of the adapters, which the help page does not import."""

F = TypeVar("F", bound=Callable[..., Any])
G = TypeVar("G", bound="Group")

TRUST = "emcl_plugin.trust_pickle"
"""Key of the click context under which --trust-pickle is stored."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Values of related options; each field has the name of its option."""

    @classmethod
    def of(cls: type[G], options: Mapping[str, Any]) -> G:
        """Pick this group's values out of a command's options."""
        return cls(**{field.name: options[field.name] for field in fields(cls)})


def wrong_usage(message: str) -> click.UsageError:
    """Return an error that shows the usage line of the running command."""
    return click.UsageError(message, click.get_current_context(silent=True))


def refuse(contradictions: Mapping[str, object]) -> None:
    """Raise wrong usage with the first message whose condition holds."""
    for message, wrong in contradictions.items():
        if wrong:
            raise wrong_usage(message)


class _Source(click.types.StringParamType):
    """A file of vectors, kept as a string: a path would turn ``s3://`` into ``s3:/``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text:
            self.fail("the file name is empty", param, ctx)
        if ctx is not None and (text == "-" or text.startswith("-:")):
            first = ctx.meta.setdefault("emcl_plugin.stdin", param)
            if first is not param:
                self.fail("only one option can read standard input", param, ctx)
        return text


class _Size(click.types.StringParamType):
    """A size such as 4G, in bytes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if isinstance(value, int) else parse_size(value)
        except EmclError as error:
            self.fail(str(error), param, ctx)


SOURCE = _Source()
PATH = click.Path(path_type=Path)
_COUNT = click.IntRange(min=1)


class Sections(click.Command):
    """A command whose help page groups options under the titles given to :func:`section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per title, in the order of the options."""
        found: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                found.setdefault(getattr(param, "section", "Other options"), []).append(record)
        for title, records in found.items():
            with formatter.section("Options" if len(found) == 1 else title):
                formatter.write_dl(records)


def section(title: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine options into one decorator; the help page lists them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
            vars(function)["__click_params__"][-1].section = title
        return function

    return decorate


def option(declared: str, text: str, kind: Any = None, **more: Any) -> Callable[[F], F]:
    """Option such as "--output -o OUT.npy": its names, then the word for its value, if any."""
    names = declared.split()
    if names[-1] != names[-1].lower():
        more["metavar"] = names.pop()
    more.setdefault("show_default", "default" in more)
    return click.option(*names, type=kind, help=text, **more)


file = partial(option, kind=PATH)
source = partial(option, kind=SOURCE)  # a file, file:name, a folder, - or an address
number = partial(option, kind=_COUNT)  # at least 1 unless kind says otherwise


def choice(name: str, values: Sequence[str], text: str) -> Callable[[F], F]:
    """Option with a few values, of which the first is the default."""
    return option(name, text, click.Choice(values), default=values[0])


def flag(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """Option without a value."""
    return click.option(*name.split(), is_flag=True, help=text, **more)


trust_option = flag(
    "--trust-pickle",
    "Also read pickles (.pkl, .npy of objects), restricted to arrays, lists, dictionaries, texts "
    "and numbers.",
    expose_value=False,
    callback=lambda context, _, given: context.meta.update({TRUST: given}),
)
metric_option = choice("--metric", ["cosine", "dot"], "Similarity of two embeddings.")
device_option = option("--device", "auto, cpu, cuda or cuda:1.", default="auto")
force_option = flag("--force", "Replace existing outputs.")
json_option = flag("--json as_json", "Print a JSON report on standard output.")
quiet_option = flag("--quiet -q", "Print nothing but errors.")

input_options = section(
    "Input",
    source("--text T.npy", "Text embeddings, texts x dimensions; any norm."),
    source("--video V.npy", "Video embeddings, videos x dimensions."),
    source(
        "--sim S.npy", "Similarity matrix, texts x videos, at any scale; alone or with embeddings."
    ),
    option(
        "--from source",
        "Output of a retriever, in place of --text, --video and --sim. E.g. --from "
        f"clip4clip run.npz. NAME: {', '.join(NAMES)}.",
        (click.Choice(NAMES), SOURCE),
        metavar="NAME PATH",
    ),
    choice(
        "--orientation",
        ORIENTATIONS,
        "Orientation of the similarity matrix. auto: inferred from its shape or ids; where these "
        "do not decide, texts x videos, and a note says so.",
    ),
    metric_option,
    trust_option,
)

bank_options = section(
    "Query banks",
    source(
        "--text-bank TB.npy",
        "Embeddings of other texts (training set, query log): learn the video biases from these "
        "texts; each test text is then scored independently.",
    ),
    source(
        "--video-bank VB.npy",
        "Embeddings of other videos: learn the text biases from these videos.",
    ),
)


def saved_options(*, required: bool) -> Callable[[F], F]:
    """Return the options of a gallery and of the folder for its corrector."""
    return section(
        "Gallery and corrector",
        source("--video V.npy", "The gallery, for text queries: video embeddings."),
        source("--text T.npy", "The gallery, for video queries: text embeddings."),
        file(
            "--names FILE",
            "Names or ids of the gallery items, one per line, saved with them. Default: the ids in "
            "the gallery's file.",
        ),
        metric_option,
        file("--save DIR", "Folder to save the corrector in.", required=required),
        flag("--force", "Replace an existing corrector."),
        trust_option,
    )


truth_options = section(
    "Ground truth and metrics",
    file(
        "--gt FILE",
        "Ground truth: .npy (the video of each text, or pairs), .csv, .tsv, .jsonl or .parquet "
        "with columns text and video, or TREC .qrels. E.g. --gt gt.npy. 'diagonal': row i matches "
        "row i. 'ids': a text matches the video with the same id.",
    ),
    file(
        "--text-ids FILE",
        "Ids of the texts, one per line, for a ground truth of ids. Default: the ids in the input "
        "files.",
    ),
    file("--video-ids FILE", "Ids of the videos, one per line."),
    file("--query-mask M.npy", "One number per text; texts with 0 are not evaluated."),
)

measure_options = section(
    "Ground truth and metrics",
    option(
        "--measures",
        "Comma-separated: R@K, MdR, MnR, MRR, mAP, mAP@K, nDCG, nDCG@K, GM.",
        default="R@1,R@5,R@10,MdR,MnR",
    ),
    choice(
        "--several",
        ["best", "mean", "worst"],
        "Rank of a query with several relevant items, such as a video with many captions.",
    ),
)

report_options = section(
    "Report",
    file("--report OUT.html", "Write a self-contained page on the result (needs --gt)."),
    file("--plots FOLDER", "Write the page's figures as PNG, SVG and PDF (needs --gt)."),
    file("--text-names FILE", "Captions for the page, one per line."),
    file("--video-names FILE", "Video titles for the page, one per line."),
    file("--video-links FILE", "URLs of thumbnails or videos, one per line."),
    flag(
        "--check-leak",
        "Permutation check: shuffle all items, run again, and report whether any rank changes.",
    ),
)

device_options = section(
    "Device",
    device_option,
    option("--memory SIZE", "Memory budget, e.g. 4G. Default: half of the free memory.", _Size()),
)

candidate_options = section(
    "Large collections",
    number(
        "--candidates K",
        "Score only the K best videos of each text and the K best texts of each video, found "
        "by FAISS, where a matrix would be too large; needs --run. E.g. 100.",
    ),
    option(
        "--index FACTORY",
        "FAISS index for --candidates, e.g. 'IVF4096,Flat;nprobe=32'. Default: Flat (exact).",
    ),
)

output_options = section(
    "Output",
    file(
        "--output -o OUT.npy",
        "File for the re-scored matrix: .npy, .npz, .safetensors or .parquet.",
        show_default="reranked.npy, or no matrix with --run or --run-v2t",
    ),
    file(
        "--run RUN.csv",
        "File for the best videos of each text: .csv, .tsv, .jsonl, .parquet, or .trec (TREC).",
    ),
    file("--run-v2t RUN.csv", "File for the best texts of each video."),
    number("--top K", "Number of results per query in a run.", show_default="100"),
    force_option,
    file(
        "--resume FILE",
        "Checkpoint file. After a kill, the same command continues from it and loses at most one "
        "iteration, or 10 seconds of shorter ones. Removed once the results are written. E.g. "
        "run.safetensors.",
    ),
    choice(
        "--dtype",
        ["auto", "float16", "float32", "float64"],
        "Precision of the output; float64 also computes in it. auto: that of the input.",
    ),
    flag("--plan", "Print the expected time and memory, then exit."),
    json_option,
    quiet_option,
    flag("--verbose -v", "Also print the strengths tried and the plan."),
)
