"""One process of test_process_group.py: re-score its own texts and keep the result."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

import numpy as np
import torch
from torch import distributed

from emcl_plugin import rescore
from emcl_plugin.errors import EmclError

CASES = {
    "features": lambda t, v: (None, (t, v)),
    "matrix": lambda t, v: (t @ v.T, None),
    "both": lambda t, v: (t @ v.T, (t, v)),
    "double tensors": lambda t, v: (None, tuple(torch.from_numpy(x).double() for x in (t, v))),
    "half": lambda t, v: (None, (t.astype(np.float16), v.astype(np.float16))),
    "blocks": lambda t, v: (None, (t, v)),
    "many texts": lambda t, v: (None, (t, v[:70])),
    "many texts, copies": lambda t, v: (None, (t, np.concatenate([v[:60], v[:30]]))),
}  # fmt: skip


def settings(case):
    return {"memory": 1 << 20} if case == "blocks" else {}


def decisions(report):
    """All but what differs by rounding."""
    emcl = None if report["emcl"] is None else {**report["emcl"], "effective_rank": None}
    return {"emcl": emcl, **{name: report[name] for name in ("guard", "hubs", "repeated")}}


def refusal(feats, group):
    try:
        rescore(None, feats, process_group=group)
    except EmclError as error:
        return [type(error).__name__, str(error), error.told]


def interrupted(sim, path, group):
    """A run that ends after three iterations and leaves its checkpoint."""

    def stop(stage, done, total):
        del total
        if (stage, done) == ("sinkhorn", 3):
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        rescore(sim, process_group=group, resume=path, progress=stop)


def main(folder):
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    group = distributed.group.WORLD
    data = np.load(f"{folder}/data.npz")
    text, video, starts = data["text"], data["video"], data["starts"]
    own = slice(starts[rank], starts[rank + 1])
    kept, told = {}, {}
    for case, make in CASES.items():
        sim, feats = make(text, video)
        sim = None if sim is None else sim[own]
        feats = None if feats is None else (feats[0][own], feats[1])
        result = rescore(sim, feats, process_group=group, **settings(case))
        kept[case] = np.asarray(result.scores)
        told[case] = decisions(result.to_dict())
    bad = np.where(rank == 1, np.nan, text)[own]
    for case, feats in {
        "NaN": (bad, video),
        "other videos": (text[own], video[rank:]),
        "no text": (text[own][: 0 if rank == 1 else None], video),
        "no array": ("texts" if rank == 1 else text[own], video),
    }.items():
        told[case] = refusal(feats, group)
    kept_in = f"{folder}/run.safetensors"
    matrix = (text @ video.T)[own]
    interrupted(matrix, kept_in, group)
    changed = matrix + np.float32(rank == 1)
    try:
        rescore(changed, process_group=group, resume=kept_in)
    except EmclError as error:
        told["other rows"] = str(error)
    resumed = rescore(matrix, process_group=group, resume=kept_in)
    kept["resumed"] = np.asarray(resumed.scores)
    told["left"] = os.path.exists(kept_in)
    alone = rescore(None, (text[own], video))  # without the group
    kept["alone"] = np.asarray(alone.scores)
    np.savez(f"{folder}/{rank}.npz", **kept)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(told, file)
    distributed.destroy_process_group()


if __name__ == "__main__":
    assert "RANK" in os.environ
    main(sys.argv[1])
