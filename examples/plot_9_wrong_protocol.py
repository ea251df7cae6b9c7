"""What breaks when the protocol is wrong
======================================

Normalization makes an assumption about the queries: NCL as published assumes that every video is
requested equally often. Benchmarks satisfy it; search logs do not. And a bank must contain *other*
queries than the measured ones. This example breaks both rules on purpose.
"""

import warnings
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import Reranker, rerank
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import OverlapWarning, RepeatedItemsWarning
from emcl_plugin.report.plots import PALETTE

demo = load_demo()
text, video, bank = (x.astype(np.float32) for x in (demo.text, demo.video, demo.text_bank))
count = len(text)


def recall(scores, asked):
    """Return R@1 in percent; row i requests video asked[i]."""
    return 100 * np.mean(scores.argmax(1) == asked)


# %%
# The same videos, requested in three ways: each once, only a fifth of them, and as in a log,
# where a few are requested most of the time (Zipf's law).

rng = np.random.default_rng(0)
share = 1 / np.arange(1, count + 1)
scenes = {
    "every video once": np.arange(count),
    "a fifth of them": rng.permutation(count)[: count // 5],
    "by Zipf's law": rng.choice(rng.permutation(count), count, p=share / share.sum()),
}

found = {}
for scene, asked in scenes.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RepeatedItemsWarning)
        found[scene] = {
            "cosine": rerank(None, (text[asked], video), emcl=None, ncl=None),
            "NCL as published": rerank(
                None, (text[asked], video), emcl=None, prior="even", guard=False
            ),
            "emcl_plugin": rerank(None, (text[asked], video)),
        }
    shown = (f"{name} {recall(scores, asked):.1f}" for name, scores in found[scene].items())
    print(f"{scene:18}", *shown, sep="   ")
    for warning in said:
        print(fill(f"warning: {warning.message}", 76))

# %%
# The other mistake is a bank that contains the measured queries. The result is then
# transductive and may only be compared with transductive figures. ``transform`` detects the
# overlap and warns.

for name, queries in (("other queries", bank), ("the test queries", text)):
    fitted = Reranker().fit(queries, video)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", OverlapWarning)
        print(f"bank of {name}: R@1 {recall(fitted.transform(text), np.arange(count)):.1f}")
    for warning in said:
        print(fill(f"warning: {warning.message}", 76))

# %%
# With the even prior, the gain of the first group becomes a loss when the queries are uneven,
# because videos that are never requested still get a share. By default, the trust in this prior
# is estimated from the scores, without labels.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
colours = {"cosine": "before", "NCL as published": "ink", "emcl_plugin": "after"}
for shift, (method, colour) in enumerate(colours.items()):
    heights = [recall(found[scene][method], asked) for scene, asked in scenes.items()]
    place = np.arange(len(scenes)) + 0.27 * (shift - 1)
    bars = axes.bar(place, heights, 0.25, color=PALETTE[colour], label=method)
    axes.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
axes.set_xticks(range(len(scenes)), scenes)
axes.set(title="An even prior, and uneven queries", ylim=(0, 65))
axes.set(xlabel="what is asked for", ylabel="R@1, text to video, %")
axes.legend(ncols=3, loc="upper center")
plt.show()
