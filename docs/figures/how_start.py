"""The released first bases collapse to two subspaces at most; eigenvectors do not."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
from emcl_plugin.scores import Features

demo = load_demo()
sides = [Features(x.astype(np.float32), dtype=torch.float64) for x in (demo.text, demo.video)]
moments = second_moments(*sides)
asked = (2, 4, 8, 16, 32, 64)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for start, style in (("signs", "s-"), ("gaussian", "^--"), ("eigen", "o:")):
    found = [fit_subspaces(moments, EMCL(subspaces=k, sigma=0.1, start=start)) for k in asked]
    left.plot(asked, [len(one.eigenvalues) for one in found], style, label=start)
    spectrum = found[-1].eigenvalues / found[-1].eigenvalues[0]
    right.semilogy(range(1, len(spectrum) + 1), spectrum, style, markersize=3)
    assert (max(len(one.eigenvalues) for one in found) <= 2) == (start == "signs")
left.set(xlabel="subspaces asked for, K", ylabel="distinct subspaces")
left.legend(title="first bases")
right.set(xlabel="subspace, of K = 64", ylabel="eigenvalue of W, relative")
