"""Mean R@1 of both directions on folders of real embeddings, and what other settings would give.

python benchmarks/real_sets.py FOLDER [FOLDER ...]
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sets import Array, Data, load

from emcl_plugin import EMCL, NCL, rescore
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.scores import Dense

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


def mean_r1(scores: Array, data: Data) -> float:
    found = evaluate(Dense(scores), data.truth)
    return float(np.mean([placement.metric("R@1") for _, placement in found.directions]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    warnings.simplefilter("ignore")
    sets = [load(folder) for folder in parser.parse_args().folders]
    sets = [data for data in sets if data.text is not None]
    plain = {data.name: mean_r1(data.scores(), data) for data in sets}

    print("| set | texts x videos | cosine | from features | from the similarity |")
    print("|---|---|---|---|---|")
    for data in sets:
        found = [
            mean_r1(rescore(*given).scores, data)
            for given in ((None, (data.text, data.video)), (data.scores(), None))
        ]
        sizes = "{} x {}".format(*data.shape)
        cells = [data.name, sizes, *(f"{r1:.1f}" for r1 in (plain[data.name], *found))]
        print(f"| {' | '.join(cells)} |")

    def features(data: Data, **settings: Any) -> float:
        return mean_r1(rescore(None, (data.text, data.video), **settings).scores, data)

    normalised = {data.name: features(data, emcl=None) for data in sets}
    print("\n| EMCL | alone | worst set | on top of NCL | worst set |\n|---|---|---|---|---|")
    for label, emcl in EMCL_SETTINGS.items():
        cells = [label]
        for ncl, base in ((None, plain), ("auto", normalised)):
            change = [features(data, emcl=emcl, ncl=ncl) - base[data.name] for data in sets]
            cells += [f"{np.mean(change):+.2f}", f"{np.min(change):+.2f}"]
        print(f"| {' | '.join(cells)} |")

    print("\n| NCL's temperature | gain over cosine | worst set |\n|---|---|---|")
    for label, ncl in NCL_SETTINGS.items():
        change = [
            mean_r1(rescore(data.scores(), ncl=ncl).scores, data) - plain[data.name]
            for data in sets
        ]
        print(f"| {label} | {np.mean(change):+.2f} | {np.min(change):+.2f} |")


if __name__ == "__main__":
    main()
