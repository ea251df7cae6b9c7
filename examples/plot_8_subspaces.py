"""The subspaces of EMCL
=====================

EMCL finds directions that texts and videos share, and adds the components along them to the
features. It is a linear map, ``X' = X (I + beta W)``, with a symmetric ``W`` of low rank. The
eigenvectors of ``W`` are the subspaces, its eigenvalues their weights. One number, the strength,
adds or removes them.
"""

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import EMCL, fit_subspaces, second_moments
from emcl_plugin.report.plots import PALETTE
from emcl_plugin.scores import Features

demo = load_demo()
text, video = demo.text.astype(np.float32), demo.video.astype(np.float32)
moments = second_moments(Features(text), Features(video))

# %%
# What is a subspace of the demo data? These are the names at both ends of some subspaces. They have
# letters in common, because the encoder of the demo uses only letters.

basis = fit_subspaces(moments, EMCL(sigma=0.1)).basis.numpy().astype(np.float32)
for subspace in (4, 5, 6, 7):
    order = np.argsort(text @ basis[:, subspace - 1])
    for side, chosen in (("from", order[:3]), ("  to", order[-3:])):
        print(f"subspace {subspace} {side}:", ", ".join(demo.text_names[i] for i in chosen))

# %%
# How many subspaces are there? The released code starts all bases from one row of +1 and -1, so at
# most two are distinct, for any K. If the bases start from eigenvectors, all differ, and ``sigma``
# determines how many remain.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
for start, sigma, line in (("signs", 0.1, "o"), ("eigen", 0.3, "--"), ("eigen", 0.1, "-")):
    found = fit_subspaces(moments, EMCL(start=start, sigma=sigma))
    weight = found.eigenvalues / found.eigenvalues[0]
    label = f"start {start!r}, sigma {sigma}: effective rank {found.effective_rank:.1f}"
    colour = PALETTE["before" if start == "signs" else "after"]
    axes.plot(range(1, len(weight) + 1), weight, line, color=colour, label=label)
axes.set(title="Eigenvalues of 32 bases")
axes.set(xlabel="subspace", ylabel="eigenvalue of W / largest")
axes.legend()

# %%
# Do the subspaces contain the component that all items share? The demo's encoder is centred, so
# this part uses generated data with such a direction: both sides lie in one cone, some videos
# deeper in it. EMCL's responsibilities are never negative, so the first subspace is nearly the
# mean of all channels for any data. The cone is in the second.

rng = np.random.default_rng(0)
meaning, noise_text, noise_video = rng.standard_normal((3, 400, 64))
cone = 1.2 * rng.standard_normal(64)
texts = cone + meaning + 1.1 * noise_text
videos = cone * rng.gamma(4, 0.25, (400, 1)) + meaning + 1.1 * noise_video
found = fit_subspaces(second_moments(Features(texts), Features(videos)), EMCL())
print("subspace  eigenvalue  |cosine| with the mean of channels, with the cone")
for subspace, direction in enumerate(found.basis.numpy().T[:3], 1):
    weight = found.eigenvalues[subspace - 1] / found.eigenvalues[0]
    mean, shared = (abs(direction @ x) / np.linalg.norm(x) for x in (np.ones(64), cone))
    print(f"{subspace:8}{weight:12.2f}{mean:28.2f}{shared:15.2f}")

# %%
# Add or remove them? Strength -1 removes the first subspace and weakens the others in
# proportion to their eigenvalues. Strength 0 changes nothing. Positive strengths amplify all,
# as in the paper (whose gains are on fine-tuned models). There are no labels at test time, so
# the strength is chosen by the share of mutual nearest neighbours. Here both curves have their
# maximum at the same end.

strengths = np.linspace(-1, 1, 9)
recall, mutual = [], []
for strength in strengths:
    chosen = EMCL(strength=strength)
    result = rescore(None, (texts, videos), emcl=chosen, ncl=None, guard=False)
    recall.append(100 * np.mean(np.asarray(result.scores).argmax(1) == np.arange(400)))
    mutual.append(100 * result.guard.after)
figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
axes.plot(strengths, recall, marker="o", color=PALETTE["after"], label="R@1, needs labels")
axes.plot(strengths, mutual, "--s", color=PALETTE["ink"], label="mutual nearest neighbours")
axes.axvline(0, color=PALETTE["ink"], linestyle=":", linewidth=0.8)
axes.set(title="The strength, chosen without labels", ylim=(0, None))
axes.set(xlabel="strength s", ylabel="share of the texts, %")
axes.legend()
plt.show()

# sphinx_gallery_thumbnail_number = 2
