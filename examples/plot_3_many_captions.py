"""Many captions per video
=======================

MSVD has about forty captions per video, MSR-VTT twenty. The matrix is then not square, and the
right video of a row is not on the diagonal. ``GroundTruth`` specifies the video of each text.
Only the metrics use it; the correction does not. The rank of a video is that of its best caption,
the usual protocol.
"""

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import rerank, rescore
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.report.plots import PALETTE
from emcl_plugin.scores import Dense

rng = np.random.default_rng(0)
videos, dimension = 150, 48
meaning, noise = rng.standard_normal((2, videos, dimension))
shared = rng.standard_normal(dimension)
depth = rng.gamma(1, 0.6, (videos, 1))  # videos of large depth lie close to every text
video = meaning + noise + shared * depth


def captions(of_each):
    """Return texts and the video index of each."""
    belongs = np.repeat(np.arange(videos), of_each)
    noise = rng.standard_normal((len(belongs), dimension))
    return meaning[belongs] + shared + 1.6 * noise, belongs


# %%
# The same 150 videos with an increasing number of captions. Each line shows R@1 before and after
# (text to video, video to text), the chosen strength of EMCL, and z, the evidence for hubs in
# standard errors; from z = 2 the whole correction is applied. The evidence is counted in folds of
# about as many texts as videos, so that it does not depend on the number of captions.

counts = (1, 2, 5, 20, 80)
before, after = [], []
for count in counts:
    text, belongs = captions(count)
    truth = GroundTruth.from_index(belongs, videos)
    result = rescore(None, (text, video))
    cosine = rerank(None, (text, video), emcl=None, ncl=None)
    for scores, found in ((cosine, before), (np.asarray(result.scores), after)):
        places = evaluate(Dense(scores), truth).directions
        found.append([place.metric("R@1") for _, place in places])
    shown = (f"{a:.1f} -> {b:.1f}" for a, b in zip(before[-1], after[-1], strict=True))
    print(f"{count:2} captions   R@1", *shown, sep="   ", end="   ")
    print(f"EMCL {result.emcl.strength:g}, z = {result.guard.z:.1f}")

# %%
# Text to video (solid) is as hard with eighty captions as with two, because each caption is a
# separate query; the correction raises it throughout. Video to text (dashed) grows with the number
# of captions, because one good caption of eighty is enough. So compare that direction only between
# sets with the same number of captions.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
for direction, (name, line) in enumerate(zip(DIRECTIONS, ("-", "--"), strict=True)):
    for found, label in ((before, "cosine"), (after, "emcl_plugin")):
        colour = PALETTE["before" if found is before else "after"]
        heights = [recall[direction] for recall in found]
        axes.plot(counts, heights, line, marker="o", color=colour, label=f"{name}, {label}")
axes.set_xscale("log")
axes.set_xticks(counts, [str(count) for count in counts])
axes.set_xticks([], minor=True)
axes.set(title="One video, many captions", ylim=(0, 100))
axes.set(xlabel="captions per video", ylabel="R@1, %")
axes.legend(ncols=2, loc="lower center", fontsize="small")
plt.show()
