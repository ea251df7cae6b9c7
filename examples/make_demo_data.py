"""Make the package's demo data: the English and the Spanish names of emoji as two modalities.

The names are Unicode CLDR short names from the PyPI package ``emoji`` (New BSD licence). Each
language has its own embedding: character n-gram TF-IDF, reduced by PCA. Canonical correlation
analysis (CCA) maps both into one space, as training does for texts and videos. Everything is fitted
on a random half of the pairs, the bank; the other half is the test set. Like other cross-modal
embeddings, these have hubs.

    pip install emoji==2.16.0 scikit-learn
    python examples/make_demo_data.py [demo.npz]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import emoji
import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer

OUTPUT = Path(__file__).resolve().parents[1] / "emcl_plugin" / "data" / "demo.npz"
SEED = 1
NGRAMS = (1, 3)
PCA_DIMENSION = 200
DIMENSION = 128
RIDGE = 1.0  # added to the covariances, in units of their mean variance
MAX_BYTES = 1_000_000


def clean(name: str) -> str:
    """Plain lower-case words of a short name such as ``:Christmas_tree:``."""
    return name.strip(":").replace("_", " ").lower()


def name_pairs() -> list[tuple[str, str]]:
    """(English, Spanish) name of every emoji, sorted, without the near duplicates."""
    emoji.config.load_language("es")
    qualified = emoji.STATUS["fully_qualified"]
    data = [d for d in emoji.EMOJI_DATA.values() if d["status"] == qualified and "es" in d]
    pairs, seen = [], set()
    for english, spanish in sorted((clean(d["en"]), clean(d["es"])) for d in data):
        # One digit or sign more or less: if the bank lacks it, the names become exact duplicates.
        if "skin tone" in english or re.search(r"[\d#*]", english + spanish):
            continue
        # The n-grams stop at the word's edges, so the same words in another order are a copy.
        words = tuple(sorted(english.split()))
        if words not in seen:
            seen.add(words)
            pairs.append((english, spanish))
    return pairs


def embed(names: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(n, PCA_DIMENSION) embeddings of one language's names, fitted on the bank's."""
    tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True)
    tfidf.fit(names[bank])
    features = tfidf.transform(names).toarray()
    return PCA(PCA_DIMENSION, svd_solver="full").fit(features[bank]).transform(features)


def whitener(x: np.ndarray) -> np.ndarray:
    """Inverse square root of the covariance of centred rows, regularised by RIDGE."""
    covariance = x.T @ x / len(x)
    ridge = RIDGE * np.trace(covariance) / len(covariance)
    variance, axes = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    return axes / np.sqrt(variance) @ axes.T


def cca(text: np.ndarray, video: np.ndarray, bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project both to their DIMENSION most correlated directions, weighted by correlation."""
    w_text, w_video = whitener(text[bank]), whitener(video[bank])
    cross = text[bank].T @ video[bank] / len(bank)
    u, correlation, vt = np.linalg.svd(w_text @ cross @ w_video)
    scale = correlation[:DIMENSION]
    text = text @ w_text @ u[:, :DIMENSION] * scale
    video = video @ w_video @ vt[:DIMENSION].T * scale
    # The SVD leaves a direction's sign open: let its largest value be positive.
    sign = np.sign(text[np.abs(text).argmax(0), np.arange(DIMENSION)])
    return text * sign, video * sign


def recall_at_1(text: np.ndarray, video: np.ndarray) -> tuple[float, float]:
    """R@1 of the plain cosine in percent, text to video and video to text."""
    text, video = (x.astype(np.float32) for x in (text, video))
    text, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video))
    sim, truth = text @ video.T, np.arange(len(text))
    return 100 * np.mean(sim.argmax(1) == truth), 100 * np.mean(sim.argmax(0) == truth)


def make() -> dict[str, np.ndarray]:
    """The arrays of the file by their names; row i of ``text`` belongs to row i of ``video``."""
    english, spanish = np.array(name_pairs()).T
    bank, test = np.array_split(np.random.default_rng(SEED).permutation(len(english)), 2)
    text, video = cca(embed(english, bank), embed(spanish, bank), bank)
    text, video = text.astype(np.float16), video.astype(np.float16)
    arrays = {"text": text[test], "video": video[test]}
    arrays |= {"text_bank": text[bank], "video_bank": video[bank]}
    return arrays | {"text_names": english[test], "video_names": spanish[test]}


def main() -> None:
    """Write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    arrays = make()
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:  # an open file, since savez appends .npz to other names
        np.savez_compressed(file, **arrays)
    size = output.stat().st_size
    pairs, bank = len(arrays["text"]), len(arrays["text_bank"])
    print(f"{pairs} test pairs, {bank} bank pairs, {size:,} bytes: {output}")
    forward, backward = recall_at_1(arrays["text"], arrays["video"])
    print(f"Cosine R@1: text->video {forward:.1f}, video->text {backward:.1f}")
    if size > MAX_BYTES:
        raise SystemExit(f"{output} is larger than {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
