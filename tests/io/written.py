"""Writers of every input format, for the tests of the readers."""

from __future__ import annotations

import csv
import json
import pickle

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, parquet
from safetensors.numpy import save_file
from scipy.io import savemat

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import read_array

X = np.random.default_rng(0).standard_normal((7, 5))
IDS = ["v1", "7", "a b", "ü,", "", "v1", '"']


def save_fvecs(path, x):
    sizes = np.full((len(x), 1), x.shape[1], "<i4").view("<f4")
    np.hstack([sizes, x.astype("<f4")]).tofile(path)


def column(x, fixed=True):
    values = pa.array(x.ravel())
    if fixed:
        return pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(x) + 1) * x.shape[1], "i4"), values)


def table(x, fixed=True):
    return pa.table({"id": [f"v{i}" for i in range(len(x))], "vector": column(x, fixed)})


def save_h5(path, x, **how):
    with h5py.File(path, "w") as file:
        file.create_dataset("group/data", data=x, **how)


def save_mat73(path, x):
    """Write as MATLAB does: a block of 512 bytes, then HDF5 with transposed arrays."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["features"] = x.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


WRITERS = {
    "a.npy": np.save,
    "a.npz": lambda path, x: np.savez(path, features=x),
    "packed.npz": lambda path, x: np.savez_compressed(path, features=x),
    "a.safetensors": lambda path, x: save_file({"features": x}, path),
    "a.pt": lambda path, x: torch.save(torch.from_numpy(x), path),
    "a.pth": lambda path, x: torch.save({"features": torch.from_numpy(x), "epoch": 3}, path),
    "old.pt": lambda path, x: torch.save(
        torch.from_numpy(x), path, _use_new_zipfile_serialization=False
    ),
    "a.parquet": lambda path, x: parquet.write_table(table(x), path),
    "lists.parquet": lambda path, x: parquet.write_table(table(x, False), path),
    "a.feather": lambda path, x: feather.write_feather(table(x), str(path)),
    "a.arrow": lambda path, x: feather.write_feather(table(x, False), str(path)),
    "a.h5": save_h5,
    "chunks.hdf5": lambda path, x: save_h5(path, x, chunks=(1, 5), compression="gzip"),
    "a.mat": lambda path, x: savemat(path, {"features": x}, do_compression=True),
    "old.mat": lambda path, x: savemat(path, {"features": x}, format="4"),
    "new.mat": save_mat73,
    "a.fvecs": save_fvecs,
    "a.csv": lambda path, x: path.write_text("\n".join(",".join(map(repr, r.tolist())) for r in x)),
    "a.tsv": lambda path, x: path.write_text(
        "id\tx\ty\tz\tu\tv\n" + "\n".join("\t".join(["a", *map(repr, r.tolist())]) for r in x)
    ),
    "a.jsonl": lambda path, x: path.write_text("\n".join(json.dumps(r.tolist()) for r in x)),
}
HALF = {"a.mat", "old.mat"}  # MATLAB has no half precision
TEXT = {"a.csv", "a.tsv", "a.jsonl"}
ONE = {"a.fvecs", *TEXT}  # float32 only


def save_ids_h5(path, x, ids):
    save_h5(path, x, chunks=(2, 5), compression="gzip")
    with h5py.File(path, "a") as file:
        file["group/ids"] = ids


def save_csv(path, x, ids):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *range(x.shape[1])])
        writer.writerows([name, *row.tolist()] for name, row in zip(ids, x, strict=True))


def save_pickle(path, x, ids, protocol=4):
    path.write_bytes(pickle.dumps({"out": {"features": x, "ids": ids}}, protocol))


def rows_of(x, ids):
    return pa.table({"caption": ids[::-1], "key": ids, "vector": column(x)})


BY_COLUMN = {
    "own.npz": lambda path, x, ids: np.savez(path, features=x, features_ids=ids),
    "shared.npz": lambda path, x, ids: np.savez(path, features=x, ids=np.array(ids)),
    "a.safetensors": lambda path, x, ids: save_file(
        {"features": x}, path, {"ids": json.dumps(ids)}
    ),
    "a.pt": lambda path, x, ids: torch.save({"o": {"x": torch.tensor(x), "x_ids": ids}}, path),
    "a.parquet": lambda path, x, ids: parquet.write_table(rows_of(x, ids), path),
    "a.feather": lambda path, x, ids: feather.write_feather(rows_of(x, ids), str(path)),
    "dictionary.arrow": lambda path, x, ids: feather.write_feather(
        pa.table({"id": pa.array(ids).dictionary_encode(), "vector": column(x, False)}),
        str(path),
        compression="zstd",
    ),
    "a.h5": save_ids_h5,
    "a.csv": save_csv,
    "a.jsonl": lambda path, x, ids: path.write_text(
        "\n".join(
            json.dumps({"id": i, "vector": row.tolist()}) for i, row in zip(ids, x, strict=True)
        )
    ),
    "a.pkl": save_pickle,
    "old.pickle": lambda path, x, ids: save_pickle(path, x, ids, 0),
    "objects.npy": lambda path, x, ids: np.save(path, {"x": x, "x_ids": np.array(ids)}),
}
"""Arrays with the ids of their rows."""


def write_any(path, x):
    """Write an array in the format of this name, with ids if it has them."""
    if path.name in WRITERS:
        WRITERS[path.name](path, x)
    else:
        BY_COLUMN[path.name](path, x, IDS)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def refused(path, words, **how):
    with pytest.raises(InputFileError, match=words) as caught:
        read_array(path, **how)
    text = str(caught.value)
    assert str(path).split(":")[0] in text
    assert "to do: " in text
    assert len(text) < 1500


def stored(writers):
    """Return every (name, dtype) that a format can store."""
    return [
        (name, dtype)
        for name in writers
        for dtype in ("float16", "float32", "float64")
        if dtype == "float32" or not (name in ONE or (name in HALF and dtype == "float16"))
    ]
