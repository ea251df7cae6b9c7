"""Reading the report
==================

``emcl-rerank --text t.npy --video v.npy --gt diagonal --report page.html`` writes one page that
explains a result, and ``--plots FOLDER`` writes its figures. This example makes both from Python,
on a part of the demo data, and explains them from top to bottom.
"""

import tempfile
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt

from emcl_plugin.data.demo import load_demo
from emcl_plugin.evaluation.ablation import Names, ablation
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.job import Job
from emcl_plugin.report.page import write_report
from emcl_plugin.report.plots import build

demo = load_demo()
job = Job(None, (demo.text[:400], demo.video[:400]))
names = Names(demo.text_names[:400], demo.video_names[:400])
found = ablation(job, job.correct(), GroundTruth.diagonal(job.shape), names=names)
with tempfile.TemporaryDirectory() as folder:
    page = Path(folder) / "page.html"
    write_report(page, found, settings={}, force=False, features=job.features)
    print(f"one page of {page.stat().st_size // 1024} kB, self-contained")

# %%
# Read the interval before the gain. If the interval contains 0, the gain is not significant. A few
# hundred queries are few.

for direction, gain in found.gains().items():
    interval = f"{gain.low:+.1f} to {gain.high:+.1f}"
    print(f"{direction}  R@1 {gain.gain:+.1f}, 95 % interval {interval}, p = {gain.p_value:.1g}")

# %%
# Then each part alone: *+EMCL* without NCL, *+NCL* without EMCL, and both.

for row in found.rows:
    print(f"{row.name:12} R@1 {row.mean('R@1'):.1f}, skewness {row.hubness.skewness:.2f}")

# %%
# Then whether the correction was applied, on what evidence, and how evenly the queries cover the
# videos.

print(fill(found.report.guard.reason, 76))
print(fill(found.report.prior.reason, 76))

# %%
# Then the figures. Each caption explains how to read the figure and ends with the finding.

shown = ("occurrence-videos", "probability-videos", "recall-text-to-video", "rank-change")
plots = {plot.name: plot for plot in build(found, job.features)}
for name in shown:
    print(fill(f"{plots[name].title}: {plots[name].caption}", 76), end="\n\n")

# %%
# A tail to the right in the first figure and a steep start in the second mean hubs. NCL
# flattens the second, the retrieval probability, most of which belongs to the first ranks. The
# distribution in the first figure may even become more uneven, as here. The third figure shows
# the gain at every cut-off. In the fourth, marks above the dotted line are texts whose right
# video dropped.

figure, grid = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
for axes, name in zip(grid.flat, shown, strict=True):
    plots[name].draw(axes)
    axes.set_title(plots[name].title, fontsize=10)
plt.show()
