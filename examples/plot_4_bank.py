"""A bank, and single queries
==========================

A search engine answers one query at a time, and cannot wait for the others. So the correction is
learnt from a bank of other queries: the captions of a training set, last week's log. Here they are
the English names of other emoji. Afterwards a query is scored by itself, and its result is the same
alone and in company, to the last bit.
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
print("the same bits alone and in company:", np.array_equal(alone[0], together[0]))

# %%
# What the bank taught. *Coverage* is the share of the gallery that is among the ten best of some
# bank query, *reliability* how far two halves of the bank agree on the biases, and *strength* the
# share of the biases that is applied because of all that.

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
# A small bank knows little, and little of what it says is applied: it gains nothing and breaks
# nothing. The dotted line is what may be had where all queries are known at once ("transductive"),
# as in most published tables. The distance to it is the price of not knowing them, and the reason
# why the protocol belongs beside every figure.

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
axes.set(title="What a bank is worth")
axes.set(xlabel="queries in the bank", ylabel="R@1, text to video, %")
axes.legend(loc="center left")
plt.show()
