"""Serve corrected text-to-video search from FAISS, on the included demo data.

Fit on a bank of other texts, export the corrected gallery to an index file, then
answer queries with that file alone and compare with the corrector's own search.

    pip install "emcl-plugin[cpu]"
    python examples/serve_faiss.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import faiss
import numpy as np

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo
from emcl_plugin.index.export import export


def main() -> None:
    """Before, after, and whether the store agrees with the corrector."""
    demo = load_demo()
    truth = np.arange(len(demo.text))  # text i belongs to video i

    # Before: the plain cosine.
    text, video = (x.astype(np.float32) for x in (demo.text, demo.video))
    for vectors in (text, video):
        faiss.normalize_L2(vectors)
    plain = faiss.IndexFlatIP(video.shape[1])
    plain.add(video)
    before = plain.search(text, 10)[1]

    # After: one more dimension.
    reranker = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.faiss"
        export(reranker.corrector_, path, "faiss", factory="Flat")
        index = faiss.read_index(str(path))
        names = Path(f"{path}.ids.txt").read_text(encoding="utf-8").split("\n")
    after = index.search(reranker.query_vectors(text), 10)[1]

    best, _ = reranker.search(text, k=10)
    found = np.take_along_axis(reranker.transform(text), after, axis=1)
    agree = np.abs(found - best).max(axis=1) < 1e-5  # the same items, but for exact ties
    print(f"FAISS {type(index).__name__}: {index.ntotal} vectors of dimension {index.d}")
    print(f"R@1 before {100 * np.mean(before[:, 0] == truth):.1f} %")
    print(f"R@1 after  {100 * np.mean(after[:, 0] == truth):.1f} %")
    print(f"same top 10 as Reranker.search: {agree.sum()} of {len(agree)} queries")
    print(f"{demo.text_names[0]!r} -> {', '.join(names[j] for j in after[0, :3])}")


if __name__ == "__main__":
    main()
