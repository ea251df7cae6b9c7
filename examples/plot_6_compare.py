"""All methods beside each other
=============================

Every training-free correction that the package knows, at its published settings, on the same
scores. On your own files: ``emcl-rerank compare --text t.npy --video v.npy --gt diagonal``, which
also tests which method beats which.
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
# *Protocol*: did a method use the queries that it is measured on, all at once (transductive), or
# others (bank)? *Serves*: can it be exported to an index of inner products? *Skewness*: how
# unevenly the first ten results are spread, above 1.5 is usually called hubness.

print(f"{'':18}mean R@1  skewness  protocol      serves")
for row in reversed(rows):
    serves = "yes" if row.serves else "no"
    skewness = row.hubness.skewness
    print(f"{row.name:18}{row.mean('R@1'):8.1f}{skewness:10.1f}  {row.protocol:14}{serves}")

# %%
# Is the difference to dual softmax, the usual choice, more than luck? The same queries are compared
# in pairs.

by_name = {row.name: row for row in rows}
for direction, gain in zip(DIRECTIONS, by_name[OURS].gain_over(by_name["dsl"]), strict=True):
    print(f"{direction}  {gain.gain:+.1f}, 95 % interval {gain.low:+.1f} to {gain.high:+.1f}")

# %%
# Compare like with like: full marks used all test queries at once, hollow ones a bank of others,
# as a search engine has to. The dashed line is the input. This is one small set, made to try the
# package; results on others are among the benchmarks.

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
