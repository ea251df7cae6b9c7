"""Many captions per video
=======================

MSVD has some forty captions for every video, MSR-VTT twenty. The matrix is then not square, and a
row's right video is not on the diagonal. ``GroundTruth`` says which video each text belongs to,
for measuring only: the correction never sees it. A video's rank is that of its best caption, the
field's usual protocol.
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
depth = rng.gamma(1, 0.6, (videos, 1))  # those of great depth lie near every text
video = meaning + noise + shared * depth


def captions(of_each):
    """Texts, and the index of the video that each belongs to."""
    belongs = np.repeat(np.arange(videos), of_each)
    noise = rng.standard_normal((len(belongs), dimension))
    return meaning[belongs] + shared + 1.6 * noise, belongs


# %%
# The same 150 videos with ever more captions, all of them corrected together: R@1 before and after
# from text to video and from video to text, the strength of EMCL that was chosen, and the evidence
# for hubs in standard errors, from 2 on everything is applied. It is counted within parts of about
# as many texts as there are videos, so that it neither grows with the captions nor fades.

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
# What to look at: text to video (solid) is as hard with eighty captions as with two, since each
# asks for itself, and the correction raises it throughout. Video to text (dashed) grows by itself,
# because one good caption of eighty is enough; so compare that direction only between sets with as
# many captions. With one caption each there are few texts to learn from, and not every gain shows.

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
