"""What breaks when the protocol is wrong
======================================

Normalization is a statement about the queries: NCL as published says that every video is asked for
equally often. Benchmarks are made like that and search logs are not. And a bank is to hold *other*
queries than those that are measured. Here both rules are broken on purpose.
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
    """R@1 in percent, where row i asks for video asked[i]."""
    return 100 * np.mean(scores.argmax(1) == asked)


# %%
# The same videos, asked for in three ways: each once, a fifth of them only, and as in a log, where
# a few are asked for again and again (Zipf's law).

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
# The other mistake: a bank that holds the very queries that are measured. That is transductive,
# whatever it is called, and may be compared with transductive figures only. ``transform`` looks for
# them and says so.

for name, queries in (("other queries", bank), ("the test queries", text)):
    fitted = Reranker().fit(queries, video)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", OverlapWarning)
        print(f"bank of {name}: R@1 {recall(fitted.transform(text), np.arange(count)):.1f}")
    for warning in said:
        print(fill(f"warning: {warning.message}", 76))

# %%
# With the even prior the gain of the first group turns into a loss as soon as the queries are
# uneven, because videos that nobody asked for are given a share all the same. The default finds out
# from the scores, without labels, how far to trust that prior.

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
