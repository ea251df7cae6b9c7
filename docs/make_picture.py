"""The README's picture: R@1 and top-result hubs on the demo data, before and after.

python docs/make_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import rescore
from emcl_plugin.data.demo import load_demo, run_demo
from emcl_plugin.scores import FeaturePair, Features

BEFORE, AFTER, INK = "#9aa5b1", "#1f7a5c", "#222222"


def main() -> None:
    """Draw it."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "emcl_plugin",  # the same file from the same data
            "svg.fonttype": "path",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": INK,
        }
    )
    data = load_demo()
    _, rows = run_demo(data)
    figure, (bars, hubs) = plt.subplots(1, 2, figsize=(8.4, 3.1), width_ratios=(1, 1.25))

    directions = list(dict.fromkeys(direction for direction, _, _ in rows))
    for offset, (method, colour) in enumerate((("cosine", BEFORE), ("emcl_plugin", AFTER))):
        values = [found.metric("R@1") for _, name, found in rows if name == method]
        drawn = bars.bar(np.arange(2) + 0.38 * offset, values, 0.36, color=colour, label=method)
        bars.bar_label(drawn, fmt="%.1f", padding=2)
    bars.set_xticks(np.arange(2) + 0.19, directions)
    bars.set_ylim(0, 72)
    bars.set_ylabel("R@1 in percent")
    bars.legend(frameon=False, loc="upper center", ncols=2, fontsize=9)

    before = FeaturePair(Features(data.text), Features(data.video)).dense().numpy()
    after = rescore(None, (data.text, data.video)).scores
    n = before.shape[1]
    for scores, colour, name in ((before, BEFORE, "cosine"), (after, AFTER, "emcl_plugin")):
        counts = np.sort(np.bincount(scores.argmax(1), minlength=n))[::-1]
        never = 100 * (counts == 0).mean()
        label = f"{name}: {never:.0f} % never, one {counts[0]} times"
        hubs.step(np.arange(n), counts, color=colour, label=label, linewidth=2)
    hubs.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    hubs.set_xlabel("videos, most frequent first")
    hubs.set_ylabel("times the top result")
    hubs.legend(frameon=False, fontsize=9)

    figure.suptitle(
        f"{n} English and Spanish emoji names, no training, transductive", fontsize=10, y=0.98
    )
    figure.patch.set_facecolor("white")
    figure.tight_layout()
    target = Path(__file__).with_name("before_after.svg")
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
