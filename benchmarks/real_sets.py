"""Mean R@1 of both directions on folders of real embeddings, and what other settings would give.

A folder holds text.npy, video.npy and, where row i does not belong to row i, text_to_video.npy.

    python benchmarks/real_sets.py FOLDER [FOLDER ...]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

from emcl_plugin import EMCL, NCL, rescore
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense

Data = tuple[np.ndarray, np.ndarray, np.ndarray | None]

EMCL_SETTINGS = {
    "as chosen": EMCL(),
    "sigma 1": EMCL(sigma=1.0),
    "sigma 0.5": EMCL(sigma=0.5),
    "sigma 0.2": EMCL(sigma=0.2),
    "sigma 0.1": EMCL(sigma=0.1),
    "sigma 0.05": EMCL(sigma=0.05),
    "K 16": EMCL(subspaces=16),
    "K 64": EMCL(subspaces=64),
    "not re-normalised": EMCL(renormalize=False),
}
NCL_SETTINGS = {
    "0.05 std": NCL(temperature_std=0.05),
    "0.1 std": NCL(temperature_std=0.1),
    "0.15 std, as chosen": NCL(),
    "0.2 std": NCL(temperature_std=0.2),
    "0.3 std": NCL(temperature_std=0.3),
    "0.15 std, tolerance 0.01": NCL(tolerance=0.01, iterations=2000),
    "fixed at 0.01": NCL(temperature=0.01),
    "fixed at 0.05": NCL(temperature=0.05),
}


def load(folder: Path) -> Data:
    truth = folder / "text_to_video.npy"
    return (
        np.load(folder / "text.npy"),
        np.load(folder / "video.npy"),
        np.load(truth) if truth.exists() else None,
    )


def cosine(text: np.ndarray, video: np.ndarray) -> np.ndarray:
    sides = [x.astype("float32") for x in (text, video)]
    text, video = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in sides)
    return text @ video.T


def mean_r1(scores: np.ndarray, truth: np.ndarray | None) -> float:
    right = None if truth is None else GroundTruth.from_index(truth, scores.shape[1])
    found = evaluate(Dense(scores), right)
    return float(np.mean([placement.metric("R@1") for _, placement in found.directions]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    warnings.simplefilter("ignore")
    data = {folder.name: load(folder) for folder in parser.parse_args().folders}
    plain = {name: mean_r1(cosine(t, v), truth) for name, (t, v, truth) in data.items()}

    print("| set | texts x videos | cosine | from features | from the similarity |")
    print("|---|---|---|---|---|")
    for name, (text, video, truth) in data.items():
        found = [
            mean_r1(rescore(*given).scores, truth)
            for given in ((None, (text, video)), (cosine(text, video), None))
        ]
        sizes = f"{len(text)} x {len(video)}"
        print(f"| {name} | {sizes} | {plain[name]:.1f} | {found[0]:.1f} | {found[1]:.1f} |")

    normalised = {
        name: mean_r1(rescore(None, (t, v), emcl=None).scores, truth)
        for name, (t, v, truth) in data.items()
    }
    print("\n| EMCL | alone | worst set | on top of NCL | worst set |\n|---|---|---|---|---|")
    for label, emcl in EMCL_SETTINGS.items():
        cells = []
        for ncl, base in ((None, plain), ("auto", normalised)):
            change = [
                mean_r1(rescore(None, (t, v), emcl=emcl, ncl=ncl).scores, truth) - base[name]
                for name, (t, v, truth) in data.items()
            ]
            cells += [np.mean(change), np.min(change)]
        print(f"| {label} | " + " | ".join(f"{cell:+.2f}" for cell in cells) + " |")

    print("\n| NCL's temperature | gain over cosine | worst set |\n|---|---|---|")
    for label, ncl in NCL_SETTINGS.items():
        change = [
            mean_r1(rescore(cosine(t, v), ncl=ncl).scores, truth) - plain[name]
            for name, (t, v, truth) in data.items()
        ]
        print(f"| {label} | {np.mean(change):+.2f} | {np.min(change):+.2f} |")


if __name__ == "__main__":
    main()
