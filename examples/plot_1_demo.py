"""The demo data, from their source
================================

The data that ship with the package are names of emoji: the English name is the "text", the Spanish
name of the same emoji the "video". Each language is embedded by its own character n-grams, and
canonical correlation analysis brings both into one space, fitted on other emoji, as training does
for texts and videos. Like most cross-modal embeddings these have hubs. Here they are made again
from the PyPI package ``emoji`` by :download:`make_demo_data.py`, looked at, and corrected.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from make_demo_data import make  # the script beside this one

from emcl_plugin import rerank, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.report.plots import PALETTE
from emcl_plugin.scores import Dense

made, demo = make(), load_demo()
same = [np.array_equal(made[name], getattr(demo, name)) for name in made]
print(f"{sum(same)} of {len(same)} arrays are those that ship with the package")
for pair in list(zip(made["text_names"], made["video_names"], strict=True))[:5]:
    print(" | ".join(pair))

# %%
# By the plain cosine one name comes up for many, though each is right for one only: a hub. The
# first list below is of the English names that it comes first for, the second what is left of them.

text, video = (made[side].astype(np.float32) for side in ("text", "video"))
cosine = rerank(None, (text, video), emcl=None, ncl=None)
top = cosine.argmax(1)
hub = np.bincount(top).argmax()
print(f'"{made["video_names"][hub]}" comes first for:')
print(fill(", ".join(made["text_names"][top == hub]), 76))

# %%
# One call, no option. ``rescore`` is ``rerank`` with the story of what was done: how far the
# queries were found to ask for every video alike, and what evidence there is for hubs.

result = rescore(None, (text, video))
corrected = np.asarray(result.scores)
print(result.protocol)
print(fill(result.prior.reason, 76))
print(fill(result.guard.reason, 76))
print(f'"{made["video_names"][hub]}" now comes first for:')
print(fill(", ".join(made["text_names"][corrected.argmax(1) == hub]), 76))

# %%
# More right ones come first, in both directions, and from the same matrix.

for name, scores in (("cosine", cosine), ("emcl_plugin", corrected)):
    found = evaluate(Dense(scores)).directions
    shown = (f"{direction} R@1 {place.metric('R@1'):.1f}" for direction, place in found)
    print(f"{name:12}", *shown, sep="   ")

# %%
# For how many texts does each video come first? Where every video is right for one text, all
# should lie on the dotted line. The steep start are the hubs, and where a curve reaches 0 begin
# the videos that nobody is ever shown.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
ranks = range(1, len(video) + 1)
for name, scores in (("cosine", cosine), ("emcl_plugin", corrected)):
    colour = PALETTE["before" if name == "cosine" else "after"]
    counts = np.sort(np.bincount(scores.argmax(1), minlength=len(video)))[::-1]
    label = f"{name}: one {counts[0]} times, {100 * np.mean(counts == 0):.0f} % never"
    axes.step(ranks, counts, color=colour, label=label, linewidth=2)
axes.axhline(1, color=PALETTE["ink"], linestyle=":", linewidth=0.8)
axes.set(title="How often each video comes first", ylim=(-0.4, None))
axes.set(xlabel="videos, the most frequent first", ylabel="texts that it comes first for")
axes.legend()
plt.show()
