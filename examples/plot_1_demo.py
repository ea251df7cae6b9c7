"""The demo data and their hubs
============================

The demo data are names of emoji: the English name is the "text", the Spanish name of the same emoji
the "video". Each language is embedded by its own character n-grams. Canonical correlation analysis,
fitted on other emoji, maps both into one space, as training does for texts and videos. Like most
cross-modal embeddings, these have hubs. :download:`make_demo_data.py` generates them from the PyPI
package ``emoji``. This example generates, inspects and corrects them.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from make_demo_data import make  # the script next to this one

from emcl_plugin import rerank, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.report.plots import PALETTE
from emcl_plugin.scores import Dense

made, demo = make(), load_demo()
same = [np.array_equal(made[name], getattr(demo, name)) for name in made]
print(f"{sum(same)} of {len(same)} arrays equal those of the package")
for pair in list(zip(made["text_names"], made["video_names"], strict=True))[:5]:
    print(" | ".join(pair))

# %%
# With the plain cosine, one name is the top-1 result of many texts, although it is right for only
# one: a hub. This is the list of texts that retrieve it first; the list after correction is below.

text, video = (made[side].astype(np.float32) for side in ("text", "video"))
cosine = rerank(None, (text, video), emcl=None, ncl=None)
top = cosine.argmax(1)
hub = np.bincount(top).argmax()
print(f'"{made["video_names"][hub]}" is the top-1 result of:')
print(fill(", ".join(made["text_names"][top == hub]), 76))

# %%
# One call with default settings. ``rescore`` is ``rerank`` plus a report: how evenly the queries
# cover the videos, and the evidence for hubs.

result = rescore(None, (text, video))
corrected = np.asarray(result.scores)
print(result.protocol)
print(fill(result.prior.reason, 76))
print(fill(result.guard.reason, 76))
print(f'"{made["video_names"][hub]}" is now the top-1 result of:')
print(fill(", ".join(made["text_names"][corrected.argmax(1) == hub]), 76))

# %%
# R@1 improves in both directions, from the same matrix.

for name, scores in (("cosine", cosine), ("emcl_plugin", corrected)):
    found = evaluate(Dense(scores)).directions
    shown = (f"{direction} R@1 {place.metric('R@1'):.1f}" for direction, place in found)
    print(f"{name:12}", *shown, sep="   ")

# %%
# For how many texts is each video the top-1 result? Every video is right for one text, so ideally
# all lie on the dotted line. The steep start shows the hubs. Videos where the curve is 0 are never
# a top-1 result.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
ranks = range(1, len(video) + 1)
for name, scores in (("cosine", cosine), ("emcl_plugin", corrected)):
    colour = PALETTE["before" if name == "cosine" else "after"]
    counts = np.sort(np.bincount(scores.argmax(1), minlength=len(video)))[::-1]
    label = f"{name}: one {counts[0]} times, {100 * np.mean(counts == 0):.0f} % never"
    axes.step(ranks, counts, color=colour, label=label, linewidth=2)
axes.axhline(1, color=PALETTE["ink"], linestyle=":", linewidth=0.8)
axes.set(title="How often each video is the top-1 result", ylim=(-0.4, None))
axes.set(xlabel="videos, most frequent first", ylabel="number of texts")
axes.legend()
plt.show()
