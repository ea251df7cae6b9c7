"""Reading the report
==================

``emcl-rerank --text t.npy --video v.npy --gt diagonal --report page.html`` writes one page that
explains a result, and ``--plots FOLDER`` its figures. Here the page and the figures are made from
Python, on a part of the demo data, and read from top to bottom.
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
    print(f"one page of {page.stat().st_size // 1024} kB, which loads nothing from elsewhere")

# %%
# First the interval, then the gain. Where the interval holds 0 nothing has been shown, whatever
# the means say; a few hundred queries are few.

for direction, gain in found.gains().items():
    interval = f"{gain.low:+.1f} to {gain.high:+.1f}"
    print(f"{direction}  R@1 {gain.gain:+.1f}, 95 % interval {interval}, p = {gain.p_value:.1g}")

# %%
# Then what each part did alone. *+EMCL* without NCL, *+NCL* without EMCL, and both.

for row in found.rows:
    print(f"{row.name:12} R@1 {row.mean('R@1'):.1f}, skewness {row.hubness.skewness:.2f}")

# %%
# Then whether the correction was let through, on what evidence, and how evenly the queries were
# found to ask for the videos.

print(fill(found.report.guard.reason, 76))
print(fill(found.report.prior.reason, 76))

# %%
# Then the drawings. Each has a caption that says how to read it and ends with the finding.

shown = ("occurrence-videos", "probability-videos", "recall-text-to-video", "rank-change")
plots = {plot.name: plot for plot in build(found, job.features)}
for name in shown:
    print(fill(f"{plots[name].title}: {plots[name].caption}", 76), end="\n\n")

# %%
# A tail to the right in the first and a steep start in the second say that there are hubs. NCL
# evens out the second, the probability, most of which lies on the first places; how often a video
# is among the first ten may even become more uneven by that, as here. The third says what all this
# is worth at every cut-off, and the fourth who paid for it: marks above the dotted line are texts
# whose right video fell.

figure, grid = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
for axes, name in zip(grid.flat, shown, strict=True):
    plots[name].draw(axes)
    axes.set_title(plots[name].title, fontsize=10)
plt.show()
