"""A figure with its caption, text alternative and table, and the style that all figures share.

Figures use matplotlib's objects, not pyplot, so no global state remains.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emcl_plugin.errors import EmclError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = {
    "ink": "#24292f",
    "grid": "#d8dee4",
    "before": "#b8520a",
    "after": "#1b5fb8",
    "text": "#7d3fa6",
    "video": "#16765a",
}
"""Colours by meaning; the page turns them into CSS variables with these names."""
NO_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Makes the files reproducible."""


@dataclass(frozen=True)
class Plot:
    """One figure.

    ``name`` is the file name without suffix, and prefixes the ids in the SVG. ``topic`` is
    "hubness", "recall", "ranks" or "gap". ``label`` is the text alternative for screen readers,
    ``header`` and ``rows`` the data as a table. ``draw`` draws into axes.
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
        """Return a new figure."""
        with drawing():
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
        """Return SVG for an HTML page: colours are CSS variables, ids are unique, text is text."""
        out = io.StringIO()
        with drawing(**{"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure(title=False).savefig(out, format="svg", metadata=NO_METADATA["svg"])
        return _inline(out.getvalue(), self.name, self.label)


def require() -> None:
    """Raise EmclError if a package of the report is not installed."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise missing(package)


def missing(package: str) -> EmclError:
    """Return the error for an optional package that is not installed."""
    return EmclError(
        "the report needs a package that is not installed",
        package,
        'pip install "emcl-plugin[report]"',
    )


@contextmanager
def drawing(**settings: Any) -> Iterator[None]:
    """Replace the user's matplotlib settings while a figure is made."""
    try:
        from matplotlib import rc_context, rcParamsDefault
    except ImportError as error:
        raise missing("matplotlib") from error
    plain = ("font.family", "text.usetex", "axes.titlesize")
    defaults: Any = rcParamsDefault  # Any: the stubs know its keys as literals only
    used: Any = {key: defaults[key] for key in plain}
    own: Any = {"font.size": 9.5, "pdf.fonttype": 42, "legend.frameon": False}
    with rc_context(used | own | settings):
        yield


def _inline(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    # a style element would apply to the whole page
    dropped = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->\s*"
    svg = re.sub(dropped, "", svg, flags=re.DOTALL)
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


def both(axes: Axes, x: Any, before: Any, after: Any) -> None:
    """Draw two curves that differ in dash as well as colour."""
    axes.plot(x, after, color=PALETTE["after"], linewidth=1.8, label="after")
    axes.plot(x, before, color=PALETTE["before"], linewidth=1.6, linestyle=(0, (4, 2)),
              label="before")  # fmt: skip
    legend(axes)


def legend(axes: Axes) -> None:
    """Add a legend with "before" first."""
    handles, labels = axes.get_legend_handles_labels()
    order = np.argsort([label == "after" for label in labels], kind="stable")
    pairs = [handles[i] for i in order], [labels[i] for i in order]
    axes.legend(*pairs, labelcolor=PALETTE["ink"])


def plain_ticks(axis: Any) -> None:
    """Label a log axis 1, 10, 100 instead of powers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
