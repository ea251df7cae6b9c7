"""The figures of a study: what each shows, in words, as a table and as a drawing.

Drawn with matplotlib's objects, never pyplot, so no global figure is left behind.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emcl_plugin.errors import EmclError, InputValueError
from emcl_plugin.hubness import Hubness
from emcl_plugin.io.atomic import atomic_writer, check_inside, check_target, settle
from emcl_plugin.metrics import DIRECTIONS, Placement
from emcl_plugin.reductions import logsumexp, moments
from emcl_plugin.similarity import Features, Similarity
from emcl_plugin.study import Study
from emcl_plugin.truth import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

# Each colour stands for one thing; on the page they become CSS variables of these names.
PALETTE = {
    "ink": "#24292f",
    "grid": "#d8dee4",
    "before": "#b8520a",
    "after": "#1b5fb8",
    "text": "#7d3fa6",
    "video": "#16765a",
}
RESULTS = 50  # the recall curve's last K
_BINS = 30
_DRAWN = 200  # points of a sorted curve
_POINTS = 800  # items of each side in the view of the features
_SHARES = (0, 1, 10, 25, 50, 75, 90, 99, 100)
_RANK_GROUPS = ((1, 1), (2, 5), (6, 10), (11, 50), (51, 0))


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes
    ----------
    name : str
        File name without suffix; also the prefix of the ids in the SVG.
    topic : str
        "hubness", "recall", "ranks" or "gap".
    title, caption : str
        What it shows, and how to read it.
    label : str
        The finding in words, for those who do not see it.
    header : list of str
    rows : list of list of str
        The same as a table.
    draw : callable
        Draws into axes.
    """

    name: str
    topic: str
    title: str
    caption: str
    label: str
    header: list[str]
    rows: list[list[str]]
    draw: Callable[[Axes], None]

    def figure(self, *, title: bool = True) -> Figure:
        """A new figure."""
        with _drawing():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(4.6, 3.2), layout="constrained", facecolor="none")
            axes = figure.add_subplot(facecolor="none")
            axes.grid(color=PALETTE["grid"], linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(which="both", length=0, colors=PALETTE["ink"])
            for side, spine in axes.spines.items():
                spine.set_visible(side in ("left", "bottom"))
                spine.set_color(PALETTE["ink"])
                spine.set_linewidth(0.8)
            self.draw(axes)
            for part in (axes.xaxis.label, axes.yaxis.label):
                part.set_color(PALETTE["ink"])
            if title:
                axes.set_title(self.title, loc="left", fontsize=10, color=PALETTE["ink"])
            return figure

    def svg(self) -> str:
        """For an HTML page: colours as CSS variables, ids of its own, text as text."""
        out = io.StringIO()
        with _drawing(**{"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure(title=False).savefig(out, format="svg", metadata=_NO_METADATA["svg"])
        return _inline(out.getvalue(), self.name, self.label)


def build(study: Study, features: tuple[Features, Features] | None = None) -> list[Plot]:
    """All figures of a study, measured but not drawn; six passes over the scores.

    Parameters
    ----------
    study : Study
    features : (Features, Features), optional
        Texts and videos, for the view of the modality gap.
    """
    first, last = study.rows[0].evaluation, study.rows[-1].evaluation
    plots = []
    sides = list(zip(DIRECTIONS, (("video", "texts"), ("text", "videos")), strict=True))
    for direction, (item, queries) in sides:
        plots.append(_occurrence(item, queries, *study.hubness[direction]))
    masses = zip(_probability(study.before), _probability(study.after), strict=True)
    for (_, (item, queries)), (before, after) in zip(sides, masses, strict=True):
        plots.append(_mass(item, queries, before, after))
    pairs = zip(first.directions, last.directions, strict=True)
    plots += [_recall(direction, a, b) for (direction, a), (_, b) in pairs]
    plots.append(_ranks(first.text_to_video.ranks(), last.text_to_video.ranks()))
    if features is not None:
        plots.append(_gap(*features))
    return plots


NAMES = (
    *(f"{what}-{side}" for what in ("occurrence", "probability") for side in ("videos", "texts")),
    "recall-text-to-video",
    "recall-video-to-text",
    "rank-change",
    "modality-gap",
)
"""What :func:`build` may call its figures."""


def check_plots(folder: Path, formats: Sequence[str] = FORMATS, *, force: bool) -> None:
    """Raise now, before the work, if the figures cannot be written to this folder."""
    check_inside(folder)
    for name in NAMES if folder.exists() else ():
        for form in formats:
            check_target(folder / f"{name}.{form}", 0, force=force)


def write_plots(
    folder: Path,
    study: Study,
    formats: Sequence[str] = FORMATS,
    *,
    force: bool = False,
    features: tuple[Features, Features] | None = None,
) -> list[Path]:
    """Write every figure in every format; the paths, figure by figure.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    study : Study
    formats : sequence of str
        Of "png", "svg" and "pdf".
    force : bool, default False
        Replace files that are there.
    features : (Features, Features), optional
        Texts and videos, for the view of the modality gap.

    Raises
    ------
    InputValueError
        If a format is not known.
    InputFileError
        If a file is there already or cannot be written.
    EmclError
        If matplotlib is not installed.
    """
    for form in formats:
        if form not in FORMATS:
            raise InputValueError("this format is not known", repr(form), ", ".join(FORMATS))
    with _drawing():
        pass  # before any work: is matplotlib there?
    plots = build(study, features)
    check_inside(folder)
    folder.mkdir(exist_ok=True)
    wanted = [(plot, form, folder / f"{plot.name}.{form}") for plot in plots for form in formats]
    for _, _, path in wanted:
        check_target(path, 1 << 18, force=force)
    with ExitStack() as files:  # put into their places at its end, all of them
        for plot, form, path in wanted:
            file = files.enter_context(atomic_writer(path, force=force))
            with _drawing(**{"svg.hashsalt": plot.name}):
                plot.figure().savefig(
                    file, format=form, dpi=200, facecolor="white", metadata=_NO_METADATA[form]
                )
            settle(file)
    return [path for _, _, path in wanted]


def require() -> None:
    """Raise now, before the work, where a package that the report needs is not installed."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def missing(package: str) -> EmclError:
    """What to say where an optional package is not installed."""
    return EmclError(
        "the report needs a package that is not installed",
        package,
        'pip install "emcl-plugin[report]"',
    )


_NO_METADATA: dict[str, dict[str, Any]] = {  # the same study gives the same file
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@contextmanager
def _drawing(**settings: Any) -> Iterator[None]:
    """Our settings in place of the user's own, for as long as a figure is made."""
    try:
        from matplotlib import rc_context, rcParamsDefault
    except ImportError as error:
        raise missing("matplotlib") from error
    plain = ("font.family", "text.usetex", "axes.titlesize")
    defaults: Any = rcParamsDefault  # Any: the stubs know its keys as literals only
    used: Any = {key: defaults[key] for key in plain}
    used.update({"font.size": 9.5, "pdf.fonttype": 42, "legend.frameon": False, **settings})
    with rc_context(used):
        yield


def _inline(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would reach the whole page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for use, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{use})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    words = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg role="img" aria-label="{words}" {box[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def _both(axes: Axes, x: Any, before: Any, after: Any) -> None:
    """Two curves that can be told apart where they coincide, and without colour."""
    axes.plot(x, after, color=PALETTE["after"], linewidth=1.8, label="after")
    axes.plot(x, before, color=PALETTE["before"], linewidth=1.6, linestyle=(0, (4, 2)),
              label="before")  # fmt: skip
    _legend(axes)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    order = np.argsort([label == "after" for label in labels], kind="stable")
    pairs = [handles[i] for i in order], [labels[i] for i in order]
    axes.legend(*pairs, labelcolor=PALETTE["ink"])


def _plain_ticks(axis: Any) -> None:
    """1, 10, 100 instead of powers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _occurrence(item: str, queries: str, before: Hubness, after: Hubness) -> Plot:
    counts = [h.occurrence.numpy() for h in (before, after)]
    width = -(-(int(max(c.max() for c in counts)) + 1) // _BINS)
    edges = np.arange(0, max(c.max() for c in counts) + width + 1, width)
    bars = [np.histogram(c, edges)[0] for c in counts]
    spans = [f"{a}" if width == 1 else f"{a} to {a + width - 1}" for a in edges[:-1]]
    k = before.k
    even = float(counts[0].mean())

    def draw(axes: Axes) -> None:
        # a log axis has no 0: an empty bar ends below the axis
        tall = [np.maximum(bar, 0.1) for bar in bars]
        shown = edges - 0.5
        axes.stairs(tall[1], shown, baseline=0.1, fill=True, color=PALETTE["after"], alpha=0.3)
        axes.stairs(tall[1], shown, baseline=0.1, color=PALETTE["after"], linewidth=1.6,
                    label="after")  # fmt: skip
        axes.stairs(tall[0], shown, baseline=0.1, color=PALETTE["before"], linewidth=1.5,
                    linestyle=(0, (4, 2)), label="before")  # fmt: skip
        axes.set_yscale("log")
        axes.set_ylim(0.7, max(bar.max() for bar in bars) * 1.6)
        axes.set_xlim(-0.5, shown[-1])
        axes.axvline(even, color=PALETTE["ink"], linewidth=0.8, linestyle=":")
        _plain_ticks(axes.yaxis)
        axes.set_xlabel(f"times among the first {k} results of the {queries}")
        axes.set_ylabel(f"number of {item}s")
        _legend(axes)

    never = [100 * h.anti_hub_share for h in (before, after)]
    finding = (
        f"skewness {before.skewness:.2f} before, {after.skewness:.2f} after; "
        f"never found {never[0]:.1f} % before, {never[1]:.1f} % after"
    )
    return Plot(
        name=f"occurrence-{item}s",
        topic="hubness",
        title=f"How often {item}s come up ({k}-occurrence)",
        caption=f"How many {item}s come up how often among the first {k} results of the "
        f"{queries}: a tail to the right is hubs, and without hubs all would lie near the dotted "
        f"mean of {even:.3g} ({finding}).",
        label=f"Histogram of the {k}-occurrence of the {item}s: {finding}.",
        header=[f"times among the first {k}", f"{item}s before", f"{item}s after"],
        rows=[[s, str(a), str(b)] for s, a, b in zip(spans, *bars, strict=True) if a or b],
        draw=draw,
    )


def _probability(source: Similarity) -> tuple[Floats, Floats]:
    """Summed retrieval probability of every video and text over its fair share, largest first.

    The probabilities are those of :func:`emcl_plugin.hubness.hubness`.
    """
    temperature = 0.15 * moments(source).std or 1.0
    rows, columns = logsumexp(source, temperature)
    videos = torch.zeros(source.shape[1], dtype=torch.float64, device=source.device)
    texts = torch.empty(source.shape[0], dtype=torch.float64, device=source.device)
    for start, stop, block in source.blocks():
        scaled = block / temperature
        videos += (scaled - rows[start:stop, None]).exp().sum(0, dtype=torch.float64)
        texts[start:stop] = (scaled - columns).exp().sum(1, dtype=torch.float64)
    ratio = source.shape[1] / source.shape[0]
    videos, texts = (
        (side * share).sort(descending=True).values.cpu()
        for side, share in ((videos, ratio), (texts, 1 / ratio))
    )
    return videos.numpy(), texts.numpy()


def _mass(item: str, queries: str, before: Floats, after: Floats) -> Plot:
    n = len(before)
    # the largest ones fall steeply: take them all, then ever fewer
    chosen = np.unique(np.geomspace(1, n, _DRAWN).astype(int)) - 1
    chosen = np.union1d(chosen, np.linspace(0, n - 1, min(n, _DRAWN)).astype(int))

    def draw(axes: Axes) -> None:
        _both(axes, 100 * (chosen + 0.5) / n, before[chosen], after[chosen])
        axes.axhline(1, color=PALETTE["ink"], linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        shown = np.concatenate([before, after])
        axes.set_ylim(max(float(shown.min()) / 1.3, 1e-4), max(float(shown.max()) * 1.3, 2))
        axes.set_xlim(0, 100)
        _plain_ticks(axes.yaxis)
        axes.set_xlabel(f"{item}s, most probable first, %")
        axes.set_ylabel("times the fair share")

    error = [float(np.abs(x - 1).mean()) for x in (before, after)]
    finding = (
        f"the largest has {before[0]:.3g} times its fair share before and {after[0]:.3g} after; "
        f"mean distance from 1: {error[0]:.2f} before, {error[1]:.2f} after"
    )

    def at(share: int) -> list[str]:
        place = round(share / 100 * (n - 1))
        return [f"{share} %", f"{before[place]:.3g}", f"{after[place]:.3g}"]

    return Plot(
        name=f"probability-{item}s",
        topic="hubness",
        title=f"Retrieval probability of the {item}s",
        caption=f"The probability that each {item} gets from all {queries} together (softmax of "
        "the scores at 0.15 standard deviations), sorted: a flat line on the dotted 1 is fully "
        f"normalised, a steep start is hubs ({finding}).",
        label=f"Sorted sums of retrieval probability per {item}: {finding}.",
        header=[f"share of the {item}s passed", "before", "after"],
        rows=[at(share) for share in _SHARES],
        draw=draw,
    )


def _recall(direction: str, before: Placement, after: Placement) -> Plot:
    last = min(RESULTS, before.truth.shape[1])
    cuts = np.arange(1, last + 1)
    curves = [
        100 * np.searchsorted(np.sort(ranks), cuts, side="right") / len(ranks)
        for ranks in (before.ranks(), after.ranks())
    ]

    def draw(axes: Axes) -> None:
        _both(axes, cuts, *curves)
        if last > 1:
            axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= last]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(0.95, max(last, 2))
        axes.set_xlabel("K")
        axes.set_ylabel("R@K, %")

    arrow = _spoken(direction)
    ends = [f"R@{k} {curves[0][k - 1]:.1f} before, {curves[1][k - 1]:.1f} after" for k in (1, last)]
    return Plot(
        name="recall-" + direction.replace(" -> ", "-to-"),
        topic="recall",
        title=f"Recall, {arrow}",
        caption=f"{arrow.capitalize()}: the share of queries with a right item among the first K "
        "results; the higher the better, and the distance between the curves is the gain.",
        label=f"Recall curves, {arrow}: {'; '.join(dict.fromkeys(ends))}.",
        header=["K", "R@K before", "R@K after"],
        rows=[
            [str(k), f"{a:.1f}", f"{b:.1f}"] for k, a, b in zip(cuts, *curves, strict=True)
        ],
        draw=draw,
    )  # fmt: skip


def _ranks(before: Floats, after: Floats) -> Plot:
    top = float(max(before.max(), after.max(), 2))

    def binned(ranks: Floats) -> Floats:
        """Ranks as they are up to 10, then twelve steps to a power of ten."""
        return np.where(ranks <= 10, ranks, 10 ** (np.round(np.log10(ranks) * 12) / 12))

    spots, counts = np.unique(
        np.stack([binned(before), binned(after)], axis=1), axis=0, return_counts=True
    )
    better, worse = int((after < before).sum()), int((after > before).sum())
    same = len(before) - better - worse

    def draw(axes: Axes) -> None:
        axes.plot([1, top], [1, top], color=PALETTE["ink"], linewidth=0.8, linestyle=":")
        size = 9 + 300 * counts / max(counts.max(), 40)
        gained = spots[:, 1] <= spots[:, 0]
        for here, colour in ((gained, "after"), (~gained, "before")):
            x, y = spots[here].T
            axes.scatter(x, y, size[here], PALETTE[colour], alpha=0.55, linewidth=0, zorder=3)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            _plain_ticks(axis)
        axes.set_xlim(0.7, top * 1.4)
        axes.set_ylim(0.7, top * 1.4)
        axes.set_xlabel("rank of the right video before")
        axes.set_ylabel("rank after")

    names = [f"{a}" if a == b else f"{a} to {b}" if b else f"over {a - 1}" for a, b in _RANK_GROUPS]
    starts = [a for a, _ in _RANK_GROUPS[1:]]
    groups = [np.searchsorted(np.array(starts) - 1, x, side="left") for x in (before, after)]
    table = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(table, (groups[0], groups[1]), 1)
    finding = f"{better} texts moved up, {worse} down, {same} stayed"
    return Plot(
        name="rank-change",
        topic="ranks",
        title="Rank of the right video, before and after",
        caption="Rank of the right video for every text: below the dotted line a text gained, "
        f"above it, it lost; the larger the mark, the more texts ({finding}).",
        label=f"Ranks before against ranks after: {finding}.",
        header=["rank before", *(f"{name} after" for name in names)],
        rows=[[name, *map(str, row)] for name, row in zip(names, table, strict=True)],
        draw=draw,
    )


def _gap(text: Features, video: Features) -> Plot:
    axes_found, share, mean = _principal_axes(text, video)
    sides = [_sample(side) for side in (text, video)]
    points = [((side.double().cpu() - mean) @ axes_found).numpy() for side in sides]
    centres = [x.mean(0) for x in points]

    def draw(axes: Axes) -> None:
        looks = (("text", "o", "texts"), ("video", "^", "videos"))
        for cloud, (colour, marker, _) in zip(points, looks, strict=True):
            axes.plot(*cloud.T, marker=marker, linestyle="", markersize=2.6, markeredgewidth=0,
                      alpha=0.45, color=PALETTE[colour])  # fmt: skip
        for centre, (colour, marker, name) in zip(centres, looks, strict=True):
            axes.plot(*centre, marker=marker, linestyle="", markersize=9, color=PALETTE[colour],
                      markeredgecolor=PALETTE["ink"], label=name)  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"first principal axis ({100 * share[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second ({100 * share[1]:.0f} %)")
        axes.legend(labelcolor=PALETTE["ink"])

    apart = float(np.linalg.norm(centres[0] - centres[1]))
    shown = ", ".join(f"{len(x)} {name}" for x, name in zip(points, ("texts", "videos"),
                                                            strict=True))  # fmt: skip
    return Plot(
        name="modality-gap",
        topic="gap",
        title="The features along their two principal axes",
        caption="The features as they came, along the two directions in which both sides together "
        "vary most, the large marks being the means: two separate clouds are a modality gap; a gap "
        f"along other directions is not seen here ({shown} shown; means {apart:.3f} apart).",
        label=f"Texts and videos along two principal axes; their means are {apart:.3f} apart.",
        header=["", "mean, axis 1", "mean, axis 2", "std, axis 1", "std, axis 2"],
        rows=[
            [name, *(f"{x:.3f}" for x in (*cloud.mean(0), *cloud.std(0)))]
            for name, cloud in zip(("texts", "videos"), points, strict=True)
        ],
        draw=draw,
    )


def _principal_axes(text: Features, video: Features) -> tuple[torch.Tensor, Floats, torch.Tensor]:
    """Two axes (dimension, 2), their shares of the variance, the mean; both sides count alike."""
    dimension = text.shape[1]
    mean = torch.zeros(dimension, dtype=torch.float64)
    second = torch.zeros(dimension, dimension, dtype=torch.float64)
    for side in (text, video):
        for _, _, block in side.blocks():
            mean += block.sum(0, dtype=torch.float64).cpu() / (2 * side.shape[0])
            second += (block.T @ block).double().cpu() / (2 * side.shape[0])
    values, vectors = torch.linalg.eigh(second - torch.outer(mean, mean))
    values = values.clamp(min=0)
    vectors = vectors[:, [-1, -2 if dimension > 1 else -1]]
    largest = vectors.abs().argmax(0)
    vectors = vectors * vectors[largest, [0, 1]].sign()  # an eigenvector's sign is arbitrary
    share = values[[-1, -2 if dimension > 1 else -1]] / values.sum().clamp(min=1e-300)
    return vectors, share.numpy(), mean


def _sample(side: Features) -> torch.Tensor:
    """Up to so many items, evenly spread."""
    count = min(_POINTS, side.shape[0])
    chosen: Ints = np.linspace(0, side.shape[0] - 1, count).round().astype(np.int64)
    return side.take(torch.from_numpy(chosen).to(side.device))


def _spoken(direction: str) -> str:
    return direction.replace("->", "to")
