"""Pickles of plain objects are read; any other name is reported and never run."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from written import Bomb, X, refused

from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import read_array, read_vectors
from emcl_plugin.io.pickled import unpickle


def same(found, x):
    if isinstance(x, np.ndarray) and x.dtype == object:
        return found.shape == x.shape and all(map(same, found.ravel(), x.ravel()))
    if isinstance(x, np.ndarray):
        return found.dtype.newbyteorder("=") == x.dtype.newbyteorder("=") and (
            np.asarray(found).tobytes() == x.astype(found.dtype).tobytes()
        )
    if isinstance(x, dict):
        return type(found) is type(x) and same(list(found.items()), list(x.items()))
    if isinstance(x, list | tuple):
        return type(found) is type(x) and len(found) == len(x) and all(map(same, found, x))
    return type(found) is type(x) and found == x


numbers = arrays(
    st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "u8", "b1", "S3", "U2"]),
    array_shapes(min_dims=0, min_side=0),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.sets(st.integers()) | st.frozensets(st.text()) | numbers,
    lambda inner: st.lists(inner) | st.tuples(inner, inner)
    | st.dictionaries(st.text(), inner).map(OrderedDict) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(plain, st.integers(0, 5))
def test_plain_things_come_back(tmp_path_factory, x, protocol):
    path = tmp_path_factory.mktemp("a") / "a.pkl"
    path.write_bytes(pickle.dumps(x, protocol))
    assert same(unpickle(path), x)


@pytest.mark.parametrize("protocol", range(6))
def test_objects_inside_arrays_and_scalars_and_fortran_order(tmp_path, protocol):
    inside = np.array([X, {"a": X[0]}, None, "x"], object)
    x = [inside, np.asfortranarray(X), np.float32(0.5), np.bool_(True), np.array(3.0)]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(x, protocol))
    assert same(unpickle(tmp_path / "a.pkl"), x)


class Calls:
    """Makes the unpickler call this."""

    def __init__(self, *what):
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("x", "name"),
    [
        (Bomb(), "_pytest|copy_reg"),
        (Calls(os.system, ("exit 1",)), "posix.system"),
        (Calls(eval, ("1",)), "builtins.eval|__builtin__.eval"),
        (Calls(getattr, (X, "tobytes")), "getattr"),
        (Calls(np.load, ("a.npy", None, True)), "numpy.load"),
        (np.float32, "numpy.float32"),
        (torch.ones(2), "torch._utils._rebuild_tensor_v2"),
        (np.ma.array([1.0]), "numpy.ma"),
        (1j, "complex"),
        (np.memmap, "numpy.memmap"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(tmp_path, x, name, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"x": [x]}, protocol))
    with pytest.raises(InputFileError, match="could run any code") as caught:
        unpickle(path)
    assert any(part in caught.value.received for part in name.split("|"))
    refused(path, "could run any code", trust_pickle=True)
    if "torch" in name:
        assert "x.numpy()" in caught.value.remedy


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".npy", ".npz", ".pt"])
def test_code_is_never_run_whether_trusted_or_not(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    x = np.array([Bomb()], object)
    if suffix == ".npz":
        np.savez(path, x=x)
    elif suffix == ".pt":
        torch.save({"x": Bomb()}, path)
    else:
        np.save(path, x) if suffix == ".npy" else path.write_bytes(pickle.dumps(x))
    words = r"run any code[^$]*a\.pt: _pytest" if suffix == ".pt" else "run any code"
    refused(path, words)
    refused(path, words, trust_pickle=True)


@pytest.mark.parametrize("content", [pickle.dumps(X), b"\x93NUMPY of objects"])
def test_pickles_are_read_when_they_are_trusted(tmp_path, content):
    path = tmp_path / "a.npy"
    if content.startswith(b"\x80"):
        path.write_bytes(content)
    else:
        np.save(path, {"sims": X, "query_masks": X[0]})
    with pytest.raises(InputFileError, match="run any code") as caught:
        read_array(path)
    assert "--trust-pickle" in caught.value.remedy
    assert_array_equal(read_array(path, trust_pickle=True), X)


@pytest.mark.parametrize(
    "rows",
    [list(X), [row.tolist() for row in X], tuple(X), np.array([*X, None], object)[:-1]],
    ids=["arrays", "lists", "tuple", "objects"],
)
def test_a_list_of_vectors_is_a_matrix(tmp_path, rows):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": {b"rows": rows, "ids": list("abcdefg")}, "n": 3}))
    found = read_vectors(path, trust_pickle=True)
    assert_array_equal(found.array, X)
    assert type(found.array) is np.ndarray
    assert found.ids == tuple("abcdefg")
    assert_array_equal(read_array(f"{path}:a.rows", trust_pickle=True), X)


@pytest.mark.parametrize(
    "x", [[X[0], X[0, :2]], [[1.0, "2"]], [[True]], [1.0, 2.0], ["a"], [], {}, {"x": None}, [X]]
)
def test_what_is_no_matrix(tmp_path, x):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(x))
    refused(tmp_path / "a.pkl", "holds no array", trust_pickle=True)


def test_dictionaries_that_hold_themselves_and_each_other(tmp_path):
    loop = {"x": X}
    loop["loop"] = loop
    many = [{"x": X}]
    for _ in range(200):
        many.append({"a": many[-1], "b": many[-1]})
    for content in (loop, {"a": many[10], "x": X}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        assert_array_equal(read_array(f"{tmp_path}/a.pkl:x", trust_pickle=True), X)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(many[-1]))
    refused(tmp_path / "a.pkl", "holds no array", trust_pickle=True)


def array_pickle(shape="(I1\nI1\nt", kind="S'f4'", data="S'abcd'"):
    """Return an array of one number as protocol 0 writes it."""
    return (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        f"(I1\n{shape}cnumpy\ndtype\n({kind}\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        f"I0\n{data}\ntb."
    ).encode("latin1")


def test_an_array_written_by_hand(tmp_path):
    """The unmodified pickle of the refusals below is valid."""
    (tmp_path / "a.pkl").write_bytes(array_pickle())
    assert_array_equal(unpickle(tmp_path / "a.pkl"), np.frombuffer(b"abcd", "f4")[:, None])


@pytest.mark.parametrize(
    "content",
    [
        array_pickle(shape="(I99999\nI99999\nt"),
        array_pickle(shape="(I-1\nI-1\nt"),
        array_pickle(shape="(L99999999999999999999L\nI1\nt"),
        array_pickle(kind="S'O8'"),
        array_pickle(kind="S'O8'", data="S'abcdefgh'"),
        array_pickle(kind="S'V4'"),
        array_pickle(kind="S'f4,f4'"),
        array_pickle(kind="S'S4000000000'"),
        array_pickle(data="(lI1\na"),
        array_pickle().replace(b"S'<'", b"S'?'"),
        b"cnumpy.core.multiarray\nscalar\n(I1\nS'ab'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'utf8'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99999999\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(NN}S'__call__'\nI1\nstb.",
        b"ccollections\nOrderedDict\n(N}S'__init__'\nI1\nstb.",
        b"\x80\x04cnumpy\ndtype\n)\x81.",
        b"c__builtin__\nbytes\n(I9999999999\ntR.",
        b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"abc.",
        b"\x80\x02\x8b\xff\xff\xff\x7fab.",
        b"\x80\x05\x97.",
        b"S'id'\n" b"Q.",
        b"\x80\x02\x82\x01.",
        b"(0.",
        b"h\x00.",
        b"",
        b"\x80",
        pickle.dumps(X)[:-9],
    ],
)  # fmt: skip
def test_pickles_that_lie(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    refused(tmp_path / "a.pkl", "damaged", trust_pickle=True)


def test_no_instruction_changes_what_a_later_pickle_meets(tmp_path):
    for target in ("numpy\ndtype", "collections\nOrderedDict", "numpy\nndarray"):
        content = f"c{target}\n(N}}S'function'\nI1\nstb.".encode()
        (tmp_path / "a.pkl").write_bytes(content)
        refused(tmp_path / "a.pkl", "damaged", trust_pickle=True)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(OrderedDict(x=X)))
    assert same(unpickle(tmp_path / "a.pkl"), OrderedDict(x=X))
