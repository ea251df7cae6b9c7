"""Corrected search through FAISS beside plain search: latency and recall, as Markdown tables.

1. Latency: a query by itself, from its embedding to the ten best items, through exact indexes of
   the plain and of the exported vectors, in turn in one run; the corrected one with everything
   that a query costs (map, gate, search). Medians, by default with one thread: FAISS gives a
   single query no more, and threads that wait for each other are what would be measured.
2. Recall at 10 of approximate indexes against exact search on the same vectors.

Random clusters with hubs. The corrector is fitted on some of the items and takes the others in
as they come, which a gallery of this size would do.

    python benchmarks/serving.py [--items 100000] [--dimension 512] [--bank 5000] [--spaces ip,l2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch

from emcl_plugin import Reranker
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.index.faiss import search_faiss, to_faiss
from emcl_plugin.index.mips import Vectors
from emcl_plugin.index.vectors import query_vectors

K = 10
CLUSTERS = 1000
NOISE = 3.0  # of a query around its item, where items are around their cluster by 1
LEAN = 1.5  # towards one direction: all queries wholly, items between not at all and wholly


@dataclass(frozen=True)
class Data:
    """Items, queries, and other queries as the bank: (n, dimension) float32 unit vectors."""

    items: Vectors
    queries: Vectors
    bank: Vectors


def draw(items: int, queries: int, bank: int, dimension: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)

    def normal(rows: int) -> Vectors:
        return rng.standard_normal((rows, dimension), dtype=np.float32)

    shared = LEAN * normal(1)
    items_alone = normal(CLUSTERS)[rng.integers(CLUSTERS, size=items)] + normal(items)
    chosen = rng.integers(items, size=queries + bank)
    asked = items_alone[chosen] + NOISE * normal(queries + bank) + shared
    gallery = items_alone + rng.random((items, 1), dtype=np.float32) * shared
    faiss.normalize_L2(gallery)
    faiss.normalize_L2(asked)
    return Data(gallery, asked[:queries], asked[queries:])


def fit(data: Data, known: int) -> Corrector:
    """Fitted on the first items; the others are added."""
    corrector = Reranker().fit(data.bank, data.items[:known]).corrector_
    if known < len(data.items):
        corrector = corrector.with_items(data.items[known:])
    return corrector


def in_turn(*works: Callable[[int], object], repeats: int) -> list[list[float]]:
    """Seconds of each work at every repeat, one after the other, the first ones left out."""
    times: list[list[float]] = [[] for _ in works]
    warm = max(5, repeats // 20)
    for i in range(repeats + warm):
        for work, kept in zip(works, times, strict=True):
            started = time.perf_counter()
            work(i)
            if i >= warm:
                kept.append(time.perf_counter() - started)
    return times


def latency(data: Data, corrector: Corrector, repeats: int, threads: int) -> None:
    """Table 1."""
    before = torch.get_num_threads()
    set_threads(threads)
    plain = faiss.IndexFlatIP(data.items.shape[1])
    plain.add(data.items)
    corrected = to_faiss(corrector)
    print(f"{threads} thread{'s' if threads > 1 else ''}\n")
    print("| queries at once | plain, ms | corrected, ms | ratio | of it vectors, ms |")
    print("|---|---|---|---|---|")
    for size in (1, 8, 32):
        parts = np.array_split(data.queries, len(data.queries) // size)

        def ask_plain(i: int, parts: list[Vectors] = parts) -> object:
            part = parts[i % len(parts)]
            return plain.search(part / np.linalg.norm(part, axis=1, keepdims=True), K)

        def ask_corrected(i: int, parts: list[Vectors] = parts) -> object:
            return search_faiss(corrector, corrected, parts[i % len(parts)], K)

        def vectors_alone(i: int, parts: list[Vectors] = parts) -> object:
            return query_vectors(corrector, parts[i % len(parts)])

        found = in_turn(ask_plain, ask_corrected, vectors_alone, repeats=repeats)
        ms = [1e3 * statistics.median(times) for times in found]
        print(f"| {size} | {ms[0]:.2f} | {ms[1]:.2f} | {ms[1] / ms[0]:.3f} | {ms[2]:.2f} |")
    set_threads(before)


def set_threads(count: int) -> None:
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)


def recall(data: Data, corrector: Corrector, spaces: list[str]) -> None:
    """Table 2."""
    lists = round(4 * len(data.items) ** 0.5)
    settings = {
        "HNSW32": ("efSearch", (16, 32, 64, 128, 256)),
        f"IVF{lists},Flat": ("nprobe", (1, 4, 16, 64)),
    }
    exact = faiss.IndexFlatIP(data.items.shape[1])
    exact.add(data.items)
    plain_best = exact.search(data.queries, K)[1]
    best = search_faiss(corrector, to_faiss(corrector), data.queries, K)[1]
    print(f"| index | setting | plain | {' | '.join(f'corrected, {s}' for s in spaces)} |")
    print(f"|---|---|---|{'---|' * len(spaces)}")
    for factory, (name, values) in settings.items():
        plain = faiss.index_factory(data.items.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        plain.train(data.items)
        plain.add(data.items)
        corrected = {space: to_faiss(corrector, factory, space=space) for space in spaces}
        for value in values:
            for index in (plain, *corrected.values()):
                faiss.ParameterSpace().set_index_parameter(index, name, value)
            shares = [overlap(plain.search(data.queries, K)[1], plain_best)]
            for space, index in corrected.items():
                found = search_faiss(corrector, index, data.queries, K, space=space)[1]
                shares.append(overlap(found, best))
            cells = " | ".join(f"{share:.3f}" for share in shares)
            print(f"| {factory} | {name} {value} | {cells} |", flush=True)


def overlap(found: np.ndarray, best: np.ndarray) -> float:
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(found, best, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--bank", type=int, default=5_000)
    parser.add_argument("--known", type=int, default=10_000, help="items of the fit")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1, help="of table 1")
    parser.add_argument("--spaces", default="ip", help="of table 2: ip, cosine, l2")
    parser.add_argument("--no-recall", action="store_true", help="table 1 only")
    arguments = parser.parse_args()
    data = draw(arguments.items, arguments.queries, arguments.bank, arguments.dimension)
    started = time.perf_counter()
    corrector = fit(data, min(arguments.known, arguments.items))
    print(
        f"{arguments.items} x {arguments.dimension} items, bank {arguments.bank}, strength "
        f"{corrector.strength:.2f}, biases {float(corrector.bias.std()):.3f}, EMCL rank "
        f"{len(corrector.change)}, gate {len(corrector.ood_gate.known)}; fitted in "
        f"{time.perf_counter() - started:.0f} s; {os.cpu_count()} CPUs, "
        f"{torch.get_num_threads()} threads; FAISS {faiss.__version__}, torch {torch.__version__}\n"
    )
    latency(data, corrector, arguments.repeats, arguments.threads)
    if not arguments.no_recall:
        print()
        recall(data, corrector, arguments.spaces.split(","))


if __name__ == "__main__":
    main()
