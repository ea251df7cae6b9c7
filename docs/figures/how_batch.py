"""As released, EMCL's effect depends on how many items go through it together."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
from emcl_plugin.scores import Features

BETA = 4  # as published for CLIP2Video
demo = load_demo()
text, video = demo.text.astype(np.float32), demo.video.astype(np.float32)
order = np.random.default_rng(0).permutation(len(text))


def effect(some, batch):
    """By what the leading direction of these items grows, relative to itself."""
    sides = (Features(x[some], dtype=torch.float64) for x in (text, video))
    moments = second_moments(*sides, batch=batch)
    return BETA * float(fit_subspaces(moments, EMCL.preset("clip2video")).eigenvalues[0])


figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
sizes = (16, 32, 64, 128, 256, 512, len(order))
means = []
for size in sizes:
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)][:8]
    effects = [effect(some, None) for some in batches]
    means.append(np.mean(effects))
    label = "as released, a mark for every batch" if size == sizes[0] else None
    axes.plot([size] * len(effects), effects, "o", color="C0", alpha=0.6, label=label)
assert (np.diff(means) < 0).all()
axes.axhline(effect(order, 128), color="C1", label="here: the whole set, however it comes")
axes.set(xscale="log", yscale="log", xlabel="texts, and as many videos, in a batch")
axes.set(ylabel="change of the leading direction")
axes.set_xticks(sizes, sizes)
axes.set_yticks((0.5, 1, 2), ("0.5", "1", "2"))
axes.minorticks_off()
axes.legend()
