"""Serve corrected text-to-video search from LanceDB, on the included demo data.

LanceDB ranks by Euclidean distance by default; these vectors need "dot".

    pip install emcl-plugin lancedb
    python examples/serve_lancedb.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import lancedb
import numpy as np

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo
from emcl_plugin.index.export import export


def main() -> None:
    """Before, after, and whether the store agrees with the corrector."""
    demo = load_demo()
    # Before: the plain cosine.
    text, video = (x.astype(np.float32) for x in (demo.text, demo.video))
    text, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video))
    before = (text @ video.T).argmax(1)

    reranker = Reranker().fit(demo.text_bank, demo.video)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lancedb"
        export(reranker.corrector_, path, "lancedb")
        table = lancedb.connect(str(path)).open_table("gallery")  # columns id and vector
        queries = reranker.query_vectors(text)
        rows = (  # one query: table.search(vector); these are all of them at once
            table.search(queries)
            .distance_type("dot")  # 1 - inner product; "l2", the default, would rank otherwise
            .limit(10)
            .select(["id", "_distance"])
            .to_arrow()
        )
    ids = np.array(rows["id"].to_pylist(), dtype=int)  # indices, since there are no names
    after = ids.reshape(len(queries), 10)  # rows come query by query, best first

    best, _ = reranker.search(text, k=10)
    found = np.take_along_axis(reranker.transform(text), after, axis=1)
    agree = np.abs(found - best).max(axis=1) < 1e-5  # the same items, but for exact ties
    truth = np.arange(len(demo.text))  # text i belongs to video i
    print(f"LanceDB: {table.count_rows()} vectors of dimension {queries.shape[1]}")
    print(f"R@1 before {100 * np.mean(before == truth):.1f} %")
    print(f"R@1 after  {100 * np.mean(after[:, 0] == truth):.1f} %")
    print(f"same top 10 as Reranker.search: {agree.sum()} of {len(agree)} queries")


if __name__ == "__main__":
    main()
