"""Plot of the modality gap: texts and videos along their two principal axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from emcl_plugin.ground_truth import Floats, Ints
from emcl_plugin.report.figure import PALETTE, Plot
from emcl_plugin.scores import Features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 800  # plotted per side


def gap(text: Features, video: Features) -> Plot:
    """Return the plot of both sides along the two principal axes of their union."""
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
        title="Features along two principal axes",
        caption="The input features along the two directions of largest variance of both sides "
        "together; large marks are the means. Two separate clouds are a modality gap. A gap along "
        f"other directions is not visible here. {shown} shown; distance of means {apart:.3f}.",
        label=f"Texts and videos along two principal axes; distance of the means {apart:.3f}.",
        header=["", "mean, axis 1", "mean, axis 2", "std, axis 1", "std, axis 2"],
        rows=[
            [name, *(f"{x:.3f}" for x in (*cloud.mean(0), *cloud.std(0)))]
            for name, cloud in zip(("texts", "videos"), points, strict=True)
        ],
        draw=draw,
    )


def _principal_axes(text: Features, video: Features) -> tuple[torch.Tensor, Floats, torch.Tensor]:
    """Return two axes (D, 2), their shares of the variance and the mean; sides weigh equally."""
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
    vectors = vectors * vectors[largest, [0, 1]].sign()  # fix the arbitrary sign
    share = values[[-1, -2 if dimension > 1 else -1]] / values.sum().clamp(min=1e-300)
    return vectors, share.numpy(), mean


def _sample(side: Features) -> torch.Tensor:
    count = min(_POINTS, side.shape[0])
    chosen: Ints = np.linspace(0, side.shape[0] - 1, count).round().astype(np.int64)
    return side.take(torch.from_numpy(chosen).to(side.device))
