"""EMCL's loop over all items and its linear map give the same numbers."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
from emcl_plugin.scores import Features

demo = load_demo()
sides = [Features(x.astype(np.float32), dtype=torch.float64) for x in (demo.text, demo.video)]
x = torch.cat([block for side in sides for _, _, block in side.blocks()])  # (n, D)
moments = second_moments(*sides, batch=None)
leading = moments.eigen[1][:, -4:].flip(1)
first = torch.cat([leading, -leading], dim=1)


def loop(iterations, sigma):
    """What EMCL as written adds to every item, for beta = 1: M Z^T, (n, D)."""
    m = x @ first
    m = m / m.norm(dim=0)
    for _ in range(iterations):
        z = torch.softmax(x.T @ m / sigma, dim=1)
        z = z / (1e-6 + z.sum(0))
        m = x @ z
        m = m / (1e-6 + m.norm(dim=0))
    return m @ z.T


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for sigma in (1.0, 0.3, 0.1):
    differences = []
    for iterations in range(1, 21):
        config = EMCL(subspaces=8, iterations=iterations, sigma=sigma, batch=None)
        found = fit_subspaces(moments, config)
        by_map = found.apply(x, float(found.eigenvalues[0])) - x
        by_loop = loop(iterations, sigma)
        differences.append(float((by_map - by_loop).abs().max() / by_loop.abs().max()))
    right.semilogy(range(1, 21), differences, marker=".", label=f"{sigma:g}")
    assert max(differences) < 1e-10, differences
some = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))[:3000]
left.plot(by_loop.flatten()[some], by_map.flatten()[some], ".", markersize=3)
left.set(xlabel="what the loop adds to an entry", ylabel="what the map adds")
right.set(xlabel="iterations", ylabel="largest relative difference", ylim=(1e-17, 1e-6))
right.legend(title="sigma")
