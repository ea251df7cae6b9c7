"""Serve corrected text-to-video search from Qdrant, on the included demo data.

Embedded Qdrant, as used here, is intended for trials with up to 20,000 items. With a server, use
QdrantClient(url=...) and upload `gallery_vectors(corrector)` with Distance.DOT.

    pip install emcl-plugin qdrant-client
    python examples/serve_qdrant.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient

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

    reranker = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qdrant"
        export(reranker.corrector_, path, "qdrant")  # Distance.DOT; point j is item j
        client = QdrantClient(path=str(path))
        queries = reranker.query_vectors(text)
        answers = [client.query_points("gallery", query=q, limit=10).points for q in queries]
        client.close()
    after = np.array([[point.id for point in points] for points in answers])

    best, _ = reranker.search(text, k=10)
    found = np.take_along_axis(reranker.transform(text), after, axis=1)
    agree = np.abs(found - best).max(axis=1) < 1e-5  # the same items, but for exact ties
    truth = np.arange(len(demo.text))  # text i belongs to video i
    print(f"Qdrant: {len(demo.video)} vectors of dimension {queries.shape[1]}")
    print(f"R@1 before {100 * np.mean(before == truth):.1f} %")
    print(f"R@1 after  {100 * np.mean(after[:, 0] == truth):.1f} %")
    print(f"same top 10 as Reranker.search: {agree.sum()} of {len(agree)} queries")
    print(f"{demo.text_names[0]!r} -> {', '.join(p.payload['id'] for p in answers[0][:3])}")


if __name__ == "__main__":
    main()
