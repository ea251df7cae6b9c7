"""Into FAISS and a vector store
=============================

For one query, the correction adds one number per video, so it can be stored as one extra dimension
of the vectors: ``[M v, tau g]`` for the gallery and ``[M q, s]`` for the query. Any inner-product
index then ranks like :meth:`emcl_plugin.Reranker.search`, at its own speed. This example stores the
demo gallery in FAISS and LanceDB. Complete programs: :download:`serve_faiss.py`,
:download:`serve_lancedb.py`, :download:`serve_qdrant.py`.
"""

import tempfile
from pathlib import Path

import faiss
import lancedb
import matplotlib.pyplot as plt
import numpy as np

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo
from emcl_plugin.index.export import export
from emcl_plugin.index.faiss import to_faiss
from emcl_plugin.index.vectors import query_vectors
from emcl_plugin.report.plots import PALETTE

demo = load_demo()
text, video = demo.text.astype(np.float32), demo.video.astype(np.float32)
reranker = Reranker().fit(demo.text_bank.astype(np.float32), video)
corrector = reranker.corrector_
expected = reranker.search(text, k=10)[1]

# %%
# FAISS, before and after: the vectors have one extra dimension.

unit_text, unit_video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video))
plain = faiss.IndexFlatIP(video.shape[1])
plain.add(unit_video)
index = to_faiss(corrector)
print(type(index).__name__, plain.d, "->", index.d)
found = {
    "FAISS, plain cosine": plain.search(unit_text, 10)[1],
    "FAISS, inner product": index.search(reranker.query_vectors(text), 10)[1],
}

# %%
# LanceDB on disk. Its default metric is the Euclidean distance, which ranks these vectors
# differently without an error. Set ``dot``; for a store that supports only distances, export
# for that space.

with tempfile.TemporaryDirectory() as folder:
    for space, metrics in (("ip", ("dot", "l2", "cosine")), ("l2", ("l2",))):
        path = Path(folder) / space
        export(corrector, path, "lancedb", space=space)
        table = lancedb.connect(path).open_table("gallery")
        queries = query_vectors(corrector, text, space=space)
        for metric in metrics:
            search = table.search(queries).distance_type(metric).limit(10)
            rows = search.select(["id", "_distance"]).to_arrow()
            ids = np.array(rows["id"].to_pylist(), dtype=int).reshape(len(queries), 10)
            found[f"LanceDB, {metric!r}, vectors for {space!r}"] = ids

# %%
# How many of the first ten results equal those of ``search``, and what is R@1? With the right
# metric, all are equal. With another metric, the results look plausible, so the mistake is hard
# to notice. Its cost depends on the size of the new coordinate, which is small here compared
# with the unit length of the rest.

right = np.arange(len(text))[:, None]
for name, ids in found.items():
    kept = (ids[:, :, None] == expected[:, None]).any(2).mean()
    first = (ids[:, :1] == right).mean()
    print(f"{name:36}the same {100 * kept:5.1f} %   R@1 {100 * first:.1f}")
added = reranker.export_vectors()[:, -1]
print(f"the new coordinate: {added.min():.3f} to {added.max():.3f}")

# %%
# The new coordinate against how often a video is among the first ten of the plain index. Each
# mark is a video. Frequent videos are mostly lowered and rare ones mostly raised. The store
# needs nothing else.

figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
often = np.bincount(found["FAISS, plain cosine"].ravel(), minlength=len(video))
axes.axhline(0, color=PALETTE["ink"], linestyle=":", linewidth=0.8)
axes.scatter(often, added, 14, PALETTE["video"], alpha=0.6, linewidth=0)
axes.set(title="The extra dimension is the whole correction")
axes.set(xlabel="times among the first ten, plain cosine", ylabel="the video's new coordinate")
plt.show()
