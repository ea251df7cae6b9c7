"""Plots of hubness: k-occurrence and retrieval probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from emcl_plugin.evaluation.hubness import Hubness
from emcl_plugin.ground_truth import Floats
from emcl_plugin.report.figure import PALETTE, Plot, both, legend, plain_ticks
from emcl_plugin.scores import Similarity
from emcl_plugin.scores.reductions import logsumexp, moments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 30
_DRAWN = 200  # points per curve
_SHARES = (0, 1, 10, 25, 50, 75, 90, 99, 100)


def occurrence(item: str, queries: str, before: Hubness, after: Hubness) -> Plot:
    """Return the histogram of the k-occurrence of one side, before and after."""
    counts = [h.occurrence.numpy() for h in (before, after)]
    width = -(-(int(max(c.max() for c in counts)) + 1) // _BINS)
    edges = np.arange(0, max(c.max() for c in counts) + width + 1, width)
    bars = [np.histogram(c, edges)[0] for c in counts]
    spans = [f"{a}" if width == 1 else f"{a} to {a + width - 1}" for a in edges[:-1]]
    k = before.k
    even = float(counts[0].mean())

    def draw(axes: Axes) -> None:
        tall = [np.maximum(bar, 0.1) for bar in bars]  # a log axis has no 0
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
        plain_ticks(axes.yaxis)
        axes.set_xlabel(f"times among the first {k} results of the {queries}")
        axes.set_ylabel(f"number of {item}s")
        legend(axes)

    never = [100 * h.anti_hub_share for h in (before, after)]
    finding = (
        f"skewness {before.skewness:.2f} before, {after.skewness:.2f} after; "
        f"{item}s never retrieved {never[0]:.1f} % before, {never[1]:.1f} % after"
    )
    return Plot(
        name=f"occurrence-{item}s",
        topic="hubness",
        title=f"How often {item}s are retrieved ({k}-occurrence)",
        caption=f"Number of {item}s by how often they are among the first {k} results of the "
        f"{queries}. A tail to the right means hubs. Without hubs, all {item}s lie near the dotted "
        f"mean of {even:.3g}. {finding.capitalize()}.",
        label=f"Histogram of the {k}-occurrence of the {item}s: {finding}.",
        header=[f"times among the first {k}", f"{item}s before", f"{item}s after"],
        rows=[[s, str(a), str(b)] for s, a, b in zip(spans, *bars, strict=True) if a or b],
        draw=draw,
    )


def probability(source: Similarity) -> tuple[Floats, Floats]:
    """Return the retrieval probability of videos and texts over their fair share, largest first.

    The probabilities are those of :func:`emcl_plugin.evaluation.hubness.hubness`.
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


def mass(item: str, queries: str, before: Floats, after: Floats) -> Plot:
    """Return the plot of the sorted :func:`probability` of one side, before and after."""
    n = len(before)
    # dense at the steep start, evenly spaced after it
    chosen = np.unique(np.geomspace(1, n, _DRAWN).astype(int)) - 1
    chosen = np.union1d(chosen, np.linspace(0, n - 1, min(n, _DRAWN)).astype(int))

    def draw(axes: Axes) -> None:
        both(axes, 100 * (chosen + 0.5) / n, before[chosen], after[chosen])
        axes.axhline(1, color=PALETTE["ink"], linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        shown = np.concatenate([before, after])
        axes.set_ylim(max(float(shown.min()) / 1.3, 1e-4), max(float(shown.max()) * 1.3, 2))
        axes.set_xlim(0, 100)
        plain_ticks(axes.yaxis)
        axes.set_xlabel(f"{item}s, most probable first (%)")
        axes.set_ylabel("probability / fair share")

    error = [float(np.abs(x - 1).mean()) for x in (before, after)]
    finding = (
        f"largest value {before[0]:.3g} before, {after[0]:.3g} after; "
        f"mean distance from 1 {error[0]:.2f} before, {error[1]:.2f} after"
    )

    def at(share: int) -> list[str]:
        place = round(share / 100 * (n - 1))
        return [f"{share} %", f"{before[place]:.3g}", f"{after[place]:.3g}"]

    return Plot(
        name=f"probability-{item}s",
        topic="hubness",
        title=f"Retrieval probability of the {item}s",
        caption=f"Total probability of each {item} over all {queries} (softmax of the scores at "
        "0.15 standard deviations), relative to its fair share and sorted. A flat line at the "
        f"dotted 1 is fully normalized; a steep start means hubs. {finding.capitalize()}.",
        label=f"Sorted retrieval probability of the {item}s: {finding}.",
        header=[f"rank among the {item}s", "before", "after"],
        rows=[at(share) for share in _SHARES],
        draw=draw,
    )
