"""R@1 of the input, of this package and of its peers, on one draw of one case of `trust.py`."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import ASKED, SHIFT, Array, Data, demo, load, share
from shapes import Shape, shapes
from worlds import make

from emcl_plugin import Reranker, rescore
from emcl_plugin.baselines import METHODS, Direction
from emcl_plugin.errors import EmclError
from emcl_plugin.evaluation.compare import INPUT, OURS, compare
from emcl_plugin.evaluation.metrics import Evaluation, evaluate, place
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.scores import Dense, FeaturePair, Features, Similarity

Task = tuple[str, str, str, int]
"""Part, set, case and draw. The set is a folder, or "demo" (with ":n", its first n pairs)."""
Found = dict[str, list[float] | None]
"""R@1 by method, text -> video and then video -> text; None: the method refused."""

PUBLISHED = "ncl-even"
ALL = (INPUT, OURS, PUBLISHED, *METHODS)
SETS, WORLDS, SHAPES = "sets", "worlds", "shapes"
LOGIT_SCALE = 100.0
"""Peers' settings are for cosines; logits are divided by CLIP's scale for them."""
PAIRS = 2_000_000
"""Up to which peers are measured on all shapes of a set."""
UNTOUCHED = "untouched"
"""Our result on the scores that a shape was made of, for the same queries."""
BEFORE = "before"
"""Those scores themselves."""


def measure(task: Task, methods: Sequence[str] = ALL) -> dict[str, Found]:
    """Return what was found, by the name of the case: one case, or all shapes of a set."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    part, name, case, draw = task
    if part == WORLDS:
        return {case: on(make(case, draw)[0], methods)}
    data = read(name)
    if part == SHAPES:
        right = np.zeros(data.shape, dtype=bool)
        right[tuple(data.right.T)] = True
        each = shapes(data.scores(), right)
        return {shape.name: shaped(data, shape, methods) for shape in each}
    random = np.random.default_rng([draw, zlib.crc32(f"{data.name}/{case}".encode())])
    if case == SHIFT:
        return {case: shifted(data, random, methods)}
    asked = ASKED[case](data.owner, random)
    return {case: on(data.ask(asked), methods) if len(asked) else {}}


@lru_cache(maxsize=2)
def read(name: str) -> Data:
    """Return the set of a folder, or the demo data."""
    word, _, size = name.partition(":")
    return demo(int(size) if size else None) if word == "demo" else load(Path(name))


def on(data: Data, methods: Sequence[str]) -> Found:
    """Run those of the methods that the data allow, each at its published settings.

    The queries and the gallery themselves are the bank of a method that needs a query bank. One
    that needs a gallery bank too runs where the set has banks.
    """
    feats = None if data.text is None else (data.text, data.video)
    scale = LOGIT_SCALE if data.sim is not None and np.abs(data.sim).max() > 1 else 1.0
    needs = {name: METHODS[name].needs for name in METHODS if name in methods}
    plain = [m for m in needs if not {"query bank", "gallery bank"}.intersection(needs[m])]
    own = [name for name in methods if name in (INPUT, OURS, PUBLISHED)]
    found = _run(own, data.truth, sim=data.sim, feats=feats)
    scaled = None if data.sim is None else data.sim / scale
    found |= _run(plain, data.truth, sim=scaled, feats=feats)
    if feats is None:
        return found
    own = [name for name in needs if needs[name] == ("query bank",)]
    found |= _run(own, data.truth, feats=feats, text_bank=feats[0], video_bank=feats[1])
    if data.banks is not None:
        both = [name for name in needs if "gallery bank" in needs[name]]
        text, video = data.banks
        found |= _run(both, data.truth, feats=feats, text_bank=text, video_bank=video)
    return found


def _run(names: Sequence[str], truth: GroundTruth, **given: Any) -> Found:
    """Compare methods; where one refuses the input, each on its own."""
    if not names:
        return {}
    try:
        rows, _ = compare(truth=truth, methods=names, **given)
    except EmclError:
        if len(names) == 1:
            return {names[0]: None}
        return {name: r1 for one in names for name, r1 in _run([one], truth, **given).items()}
    return {row.name: _r1(row.evaluation) for row in rows}


def _r1(found: Evaluation) -> list[float]:
    return [placement.metric("R@1") for _, placement in found.directions]


def shifted(data: Data, random: np.random.Generator, methods: Sequence[str]) -> Found:
    """R@1, text -> video, of the texts of half of the videos, by the others' as the bank."""
    if data.text is None or data.video is None:
        return {}
    asked = np.isin(np.arange(len(data.owner)), share(data.owner, random, 1 / 2))
    ours = data.ask(np.flatnonzero(asked))
    assert ours.text is not None
    query, gallery, bank = (Features(x) for x in (ours.text, data.video, data.text[~asked]))
    scores = FeaturePair(query, gallery)
    direction = Direction(scores, query, gallery, query_bank=bank)
    found: dict[str, Similarity] = {INPUT: scores}
    if OURS in methods:
        fitted = Reranker().fit(data.text[~asked], data.video)
        found[OURS] = Dense(fitted.transform(ours.text))
    for name, method in METHODS.items():
        if name in methods and method.bank and not method.missing(direction):
            found[name] = method.correct(direction)
    return {name: [place(source, ours.truth).metric("R@1")] for name, source in found.items()}


# --- shapes of scores ----------------------------------------------------------------------------


def shaped(data: Data, shape: Shape, methods: Sequence[str]) -> Found:
    """R@1 on a shape of the scores, of the queries with a right pair that is still scored."""
    scored = np.ones(data.shape, dtype=bool) if shape.scored is None else shape.scored
    left = scored[tuple(data.right.T)]
    truth = replace(data, right=data.right[left]).truth
    before, after = untouched(data)
    found: Found = {}
    for name, scores in ((BEFORE, before), (UNTOUCHED, after)):
        scores = scores.copy()
        scores[tuple(data.right[~left].T)] = scores.min() - 1  # right, but not in this truth
        found[name] = _r1(evaluate(Dense(scores), truth))
    found[INPUT] = _r1(evaluate(Dense(finite(shape.scores)), truth))
    try:
        found[OURS] = _r1(evaluate(Dense(finite(rescore(shape.scores).scores)), truth))
    except EmclError:
        found[OURS] = None
    if scored.size > PAIRS:
        return found
    plain = [name for name in methods if name in METHODS and not METHODS[name].needs]
    own = [name for name in methods if name == PUBLISHED]
    return found | _run([*own, *plain], truth, sim=shape.scores)


_KEPT: dict[str, tuple[Array, Array]] = {}


def untouched(data: Data) -> tuple[Array, Array]:
    """Return the scores and our result on them, kept for the shapes that follow."""
    if data.name not in _KEPT:
        _KEPT.clear()
        scores = data.scores()
        _KEPT[data.name] = scores, np.asarray(rescore(scores).scores)
    return _KEPT[data.name]


def finite(scores: Array) -> Array:
    """Return float32 scores whose NaN and infinities rank below all others."""
    scores = scores.astype(np.float32)
    there = np.isfinite(scores)
    return scores if there.all() else np.where(there, scores, scores[there].min() - 1)
