"""A CLIP-style retriever
======================

CLIP-style encoders map texts and images into two separate cones (the modality gap). Some images lie
closer to the texts than others. They are close to every text: hubs. This example generates such
embeddings, so that the truth is known. Replace them with your own, for example from
``model.encode_text`` and ``model.encode_image`` of open_clip. They need not be normalized.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import rerank, rescore
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.report.plots import PALETTE
from emcl_plugin.scores import Dense

rng = np.random.default_rng(0)
count, dimension = 800, 64
meaning = rng.standard_normal((count, dimension))
text_cone, image_cone = rng.standard_normal((2, dimension))
lean = rng.gamma(1, 0.4, (count, 1))  # how far each image leans towards the texts

text = text_cone + meaning + 1.1 * rng.standard_normal((count, dimension))
image = image_cone + meaning + 1.1 * rng.standard_normal((count, dimension))
image += lean * (text_cone - image_cone)

# %%
# Along the line from the mean image to the mean text, the two sides hardly overlap. The few images
# far to the right are the hubs.

unit_text, unit_image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image))
gap = unit_text.mean(0) - unit_image.mean(0)
along_text, along_image = (x @ gap / np.linalg.norm(gap) for x in (unit_text, unit_image))

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
bins = np.histogram_bin_edges(np.concatenate([along_text, along_image]), 50)
axes.hist(along_image, bins, color=PALETTE["video"], alpha=0.6, label="images")
axes.hist(along_text, bins, color=PALETTE["text"], alpha=0.6, label="texts")
axes.set(title="Two cones, and hubs")
axes.set(xlabel="position along the modality gap", ylabel="items")
axes.legend()

# %%
# One call on the embeddings. EMCL removes a shared direction if this gives more mutual nearest
# neighbours, which needs no labels. NCL then normalizes the scores.

result = rescore(None, (text, image))
print(f"EMCL strength {result.emcl.strength:g}: {result.emcl.reason}")
print(fill(result.guard.reason, 76))
cosine = rerank(None, (text, image), emcl=None, ncl=None)
for name, scores in (("cosine", cosine), ("emcl_plugin", np.asarray(result.scores))):
    found = evaluate(Dense(scores)).directions
    shown = (f"{direction} R@1 {place.metric('R@1'):.1f}" for direction, place in found)
    print(f"{name:12}", *shown, sep="   ")

# %%
# CLIP's logits are cosines times 100. No setting is needed: the temperature follows the scores, and
# the ranking is the same.

from_cosines, from_logits = rerank(cosine), rerank(100 * cosine)
agree = np.mean(from_cosines.argsort(1)[:, -10:] == from_logits.argsort(1)[:, -10:])
print(f"the same first ten images from cosines and from logits: {100 * agree:.2f} %")

# %%
# Which images does NCL lower? Every mark is an image. Those to the right lie closer to the texts;
# those below 0 get lower scores. NCL knows neither the positions nor the right pairs.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
bias = np.asarray(result.biases.video)
axes.axhline(0, color=PALETTE["ink"], linestyle=":", linewidth=0.8)
axes.scatter(lean, bias, 14, PALETTE["video"], alpha=0.6, linewidth=0)
axes.set(title="NCL lowers the images that lean towards the texts")
axes.set(xlabel="how far the image leans towards the texts", ylabel="added to its cosines")
plt.show()

# sphinx_gallery_thumbnail_number = 2
