"""EMCL's strength by its sign, alone: below 0 takes the shared direction away, above 0 adds it."""

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import EMCL, rescore
from emcl_plugin.data.demo import load_demo

rng = np.random.default_rng(0)
count, dimension = 500, 64
meaning = rng.standard_normal((count, dimension))
shared = rng.standard_normal(dimension)  # a cone: every item has some of it, some have more
made = [
    meaning + 0.8 * rng.standard_normal((count, dimension)) + shared * rng.gamma(4, 0.4, (count, 1))
    for _ in range(2)
]
demo = load_demo()
data = {
    "made data with a shared direction": made,
    "the demo": [side.astype(np.float32) for side in (demo.text, demo.video)],
}
strengths = np.linspace(-1, 1, 9)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name, sides in data.items():
    recall, most_frequent = [], []
    for strength in strengths:
        chosen = EMCL(strength=float(strength))
        result = rescore(None, tuple(sides), emcl=chosen, ncl=None, guard=False)
        top = np.asarray(result.scores).argmax(1)
        recall.append(100 * np.mean(top == np.arange(len(top))))
        most_frequent.append(np.bincount(top).max())
    left.plot(strengths, recall, marker="o", label=name)
    right.plot(strengths, most_frequent, marker="o")
    assert recall[0] > recall[-1], recall
left.set(ylabel="R@1, text to video, in percent")
left.legend()
right.set(ylabel="texts with the most frequent top-1 video")
for axes in (left, right):
    axes.axvline(0, color="0.8", zorder=0)
    axes.set(xlabel="strength s, without NCL", xticks=(-1, -0.5, 0, 0.5, 1))
