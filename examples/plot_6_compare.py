"""Comparison of all methods
==========================

Every training-free correction in the package, at its published settings, on the same scores. For
your own files, use ``emcl-rerank compare --text t.npy --video v.npy --gt diagonal``, which also
tests the differences for significance.
"""

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.data.demo import load_demo
from emcl_plugin.evaluation.compare import INPUT, OURS, compare
from emcl_plugin.report.plots import PALETTE

demo = load_demo()
sides = (demo.text, demo.video, demo.text_bank, demo.video_bank)
text, video, text_bank, video_bank = (x.astype(np.float32) for x in sides)
rows, left_out = compare(None, (text, video), text_bank=text_bank, video_bank=video_bank)
rows.sort(key=lambda row: row.mean("R@1"))

# %%
# *Protocol*: transductive methods use all measured queries at once; bank methods use others.
# *Serves*: the method can be exported to an inner-product index. *Skewness*: how unevenly the first
# ten results are distributed; values above 1.5 are usually called hubness.

print(f"{'':18}mean R@1  skewness  protocol      serves")
for row in reversed(rows):
    serves = "yes" if row.serves else "no"
    skewness = row.hubness.skewness
    print(f"{row.name:18}{row.mean('R@1'):8.1f}{skewness:10.1f}  {row.protocol:14}{serves}")

# %%
# Is the difference to dual softmax, the usual choice, significant? The test is paired by query.

by_name = {row.name: row for row in rows}
for direction, gain in zip(DIRECTIONS, by_name[OURS].gain_over(by_name["dsl"]), strict=True):
    print(f"{direction}  {gain.gain:+.1f}, 95 % interval {gain.low:+.1f} to {gain.high:+.1f}")

# %%
# Compare only methods with the same protocol: filled marks used all test queries at once, hollow
# marks a bank of other queries, as a search engine must. The dashed line is the input. This is one
# small demo set; the benchmarks have results on real sets.

figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
for place, row in enumerate(rows):
    colour = PALETTE["after" if row.name.startswith(OURS) else "ink"]
    colour = PALETTE["before"] if row.name == INPUT else colour
    inside = "none" if row.protocol == "bank" else colour
    axes.plot(row.mean("R@1"), place, "o", color=colour, markerfacecolor=inside)
axes.axvline(by_name[INPUT].mean("R@1"), color=PALETTE["before"], linestyle="--", zorder=0)
axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
axes.grid(axis="y", color=PALETTE["grid"], linewidth=0.6)
axes.plot([], [], "o", color=PALETTE["ink"], label="transductive")
axes.plot([], [], "o", color=PALETTE["ink"], markerfacecolor="none", label="bank")
axes.set(xlabel="R@1, mean of both directions, %", title="Training-free corrections, one set")
axes.legend(loc="lower right")
plt.show()
