"""Full evaluation of both directions from features, against the matrix products alone.

python benchmarks/evaluation.py [--items 20000] [--dimension 512] [--memory 1G]
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from emcl_plugin._internal.sizes import parse_size
from emcl_plugin.evaluation.metrics import MEASURES, evaluate
from emcl_plugin.scores import FeaturePair, Features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    memory = parse_size(arguments.memory)
    torch.manual_seed(0)
    video = torch.randn(arguments.items, arguments.dimension)
    text = video + 2 * torch.randn_like(video)
    pair = FeaturePair(Features(text, memory=memory), Features(video, memory=memory), memory=memory)

    def products() -> None:
        for source in (pair, pair.T):
            for _ in source.blocks():
                pass

    ratios, metrics = [], {}
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        products()
        between = time.perf_counter()
        metrics = evaluate(pair).to_dict(MEASURES)
        ended = time.perf_counter()
        ratios.append((ended - between) / (between - started))
        print(f"products {between - started:.2f} s, evaluation {ended - between:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.2f}, peak memory {peak:.2f} GiB")
    print({name: round(values["R@1"], 2) for name, values in metrics.items()})


if __name__ == "__main__":
    main()
