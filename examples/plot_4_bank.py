"""A bank, and single queries
==========================

A search engine answers one query at a time and cannot wait for others. So the correction is learned
from a bank of other queries, such as training captions or a log. Here the bank contains the English
names of other emoji. Each query is then scored independently: its result is the same, to the last
bit, alone or in a batch.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import Reranker, rerank
from emcl_plugin.data.demo import load_demo
from emcl_plugin.report.plots import PALETTE

demo = load_demo()
text, video, bank = (x.astype(np.float32) for x in (demo.text, demo.video, demo.text_bank))

reranker = Reranker().fit(bank, video)
scores, found = reranker.search(text[:1], k=3)
print(demo.text_names[0], "->", [demo.video_names[i] for i in found[0]])
alone, together = reranker.transform(text[:1]), reranker.transform(text)
print("same bits alone and in a batch:", np.array_equal(alone[0], together[0]))

# %%
# The report of the fit. *Coverage* is the share of the gallery among the ten best items of some
# bank query. *Reliability* is the agreement of two halves of the bank on the biases. *Strength*
# is the share of the biases that is therefore applied.

report = reranker.report_
print(f"{report.queries:.0f} different queries, coverage {report.coverage:.2f}")
print(f"reliability {report.reliability:.2f}, strength {report.strength:.2f}")
print(fill(report.guard.reason, 76))

# %%
# How large must a bank be? Three random banks of each size:

right = np.arange(len(text))
rng = np.random.default_rng(0)
sizes = (10, 30, 100, 300, len(bank))
recall, applied = [], []
for size in sizes:
    draws = 3 if size < len(bank) else 1
    fitted = [Reranker().fit(rng.permutation(bank)[:size], video) for _ in range(draws)]
    recall.append([100 * np.mean(one.transform(text).argmax(1) == right) for one in fitted])
    applied.append(100 * np.mean([one.report_.strength for one in fitted]))
    shown = " ".join(f"{found:.1f}" for found in recall[-1])
    print(f"{size:4} queries: {applied[-1]:3.0f} % of the biases, R@1 {shown}")

# %%
# A small bank has a low reliability, so little of its correction is applied: it neither gains nor
# loses much. The dotted line is the result if all queries are known at once ("transductive"), as in
# most published tables. The difference is the cost of not knowing them, and the reason to state the
# protocol with every figure.

cosine = rerank(None, (text, video), emcl=None, ncl=None)
known = rerank(None, (text, video))
figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
for scores, name, colour, line in (
    (known, "all queries known (transductive)", "ink", ":"),
    (cosine, "cosine", "before", "--"),
):
    height = 100 * np.mean(scores.argmax(1) == right)
    axes.axhline(height, color=PALETTE[colour], linestyle=line, label=name)
means = [np.mean(draws) for draws in recall]
axes.plot(sizes, means, marker="o", color=PALETTE["after"], label="bank, mean of the draws")
lowest, highest = [min(draws) for draws in recall], [max(draws) for draws in recall]
axes.fill_between(sizes, lowest, highest, color=PALETTE["after"], alpha=0.2, linewidth=0)
axes.set_xscale("log")
axes.set_xticks(sizes, [str(size) for size in sizes])
axes.set_xticks([], minor=True)
axes.set(title="R@1 against the size of the bank")
axes.set(xlabel="queries in the bank", ylabel="R@1, text to video, %")
axes.legend(loc="center left")
plt.show()
