"""Standard input, addresses, and ids and pickles on the command line."""

from __future__ import annotations

import functools
import http.server
import io
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from test_parts import clip_retrieval
from written import BY_COLUMN, IDS, WRITERS, X, refused, save_pickle

from emcl_plugin.cli.main import command
from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import read_array, read_vectors, split
from emcl_plugin.io.sources import new_folder

# --- standard input ------------------------------------------------------------------------------


@pytest.fixture
def pipe(monkeypatch):
    """Puts bytes on standard input."""

    def fill(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return fill


@pytest.mark.parametrize(
    "name", ["a.npy", "own.npz", "a.safetensors", "a.parquet", "a.pkl", "objects.npy"]
)
def test_standard_input(tmp_path, pipe, name):
    if name in BY_COLUMN:
        BY_COLUMN[name](tmp_path / name, X, IDS)
    else:
        WRITERS[name](tmp_path / name, X)
    pipe((tmp_path / name).read_bytes())
    found = read_vectors("-", trust_pickle=True)
    assert_array_equal(found.array, X)
    assert found.ids == (tuple(IDS) if name in BY_COLUMN else None)


def test_an_array_by_name_on_standard_input(tmp_path, pipe):
    np.savez(tmp_path / "a.npz", t=X, v=-X)
    content = (tmp_path / "a.npz").read_bytes()
    assert split("-:v") == ("-", "v")
    pipe(content)
    assert_array_equal(read_array("-:v"), -X)
    pipe(content)
    with pytest.raises(InputFileError, match="several arrays") as caught:
        read_array("-")
    assert "name one: -:t" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "input is empty"),
        (b"1,2\n3,4", "unknown format"),
        (b"PK\x03\x04 and then nothing", "damaged"),
        (pickle.dumps(X), "could run any code"),
    ],
)
def test_other_things_on_standard_input(pipe, content, words):
    pipe(content)
    with pytest.raises(InputFileError, match=words) as caught:
        read_array("-")
    assert caught.value.received.startswith("-")


def test_copies_go_with_the_process(tmp_path):
    np.save(tmp_path / "a.npy", X)
    code = "from emcl_plugin.io.formats import read_array; print(read_array('-').filename)"
    with (tmp_path / "a.npy").open("rb") as file:
        out = subprocess.run(
            [sys.executable, "-c", code], stdin=file, capture_output=True, text=True, check=True
        )
    copy = Path(out.stdout.strip())
    assert copy.name == "stdin.npy"
    assert not copy.parent.parent.exists()


# --- addresses -----------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path):
    """The address of a folder, as files and by HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"file": f"file://{tmp_path}", "http": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("protocol", ["file", "http"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "a.h5", "a.csv"])
def test_files_at_an_address(tmp_path, serve, protocol, name):
    if protocol == "http":
        pytest.importorskip("aiohttp")
    x = X.astype("f4")
    WRITERS[name](tmp_path / name, x)
    assert_array_equal(read_array(f"{serve[protocol]}/{name}"), x)
    np.savez(tmp_path / "b.npz", t=x, v=-x)
    assert_array_equal(read_array(f"{serve[protocol]}/b.npz:v"), -x)
    refused(f"{serve[protocol]}/b.npz", "several arrays")
    with pytest.raises(InputFileError, match="cannot be fetched") as caught:
        read_array(f"{serve[protocol]}/none.npy")
    assert "none.npy" in caught.value.received


def test_a_folder_by_http(tmp_path, serve):
    pytest.importorskip("aiohttp")
    (tmp_path / "run").mkdir()
    for part in (2, 10, 1):
        np.save(tmp_path / f"run/{part}.npy", np.full((1, 2), float(part)))
    (tmp_path / "run/.hidden.npy").write_text("")
    (tmp_path / "run/notes.txt").write_text("")
    for source in ("run/", "run/*.npy"):
        assert_array_equal(read_array(f"{serve['http']}/{source}")[:, 0], [1, 2, 10])


def test_a_signed_address(tmp_path, serve):
    pytest.importorskip("aiohttp")
    np.save(tmp_path / "a.npy", X)
    assert_array_equal(read_array(f"{serve['http']}/a.npy?signature=b/c.npz"), X)


def test_parts_at_an_address():
    system = fsspec.filesystem("memory")
    for part in (2, 10, 1):
        with system.open(f"/run/img_{part}.npy", "wb") as file:
            np.save(file, np.full((1, 2), float(part)))
    for source in ("memory://run", "memory://run/", "memory://run/*.npy"):
        assert_array_equal(read_array(source)[:, 0], [1, 2, 10])
    with system.open("/run/img_3.npy", "wb") as file:
        np.save(file, np.full((1, 2), np.nan))
    with pytest.raises(InputFileError, match="NaN") as caught:
        read_array("memory://run")
    assert caught.value.received.startswith("memory:///run/img_3.npy: [0, 0]")
    refused("memory://none/*.npy", "no files of a known kind")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense://a.npy", "nonsense"),
        ("gs://bucket/a.npy", "pip install"),
        ("memory://none/a.npy", "check the address"),
        ("memory://none", "check the address"),
    ],
)
def test_addresses_that_cannot_be_fetched(address, words):
    refused(address, "cannot be fetched")
    with pytest.raises(InputFileError, match=words):
        read_array(address)


def test_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    refused("s3://bucket/a.npy", "not installed")


# --- the command line ----------------------------------------------------------------------------


def run(*words, **how):
    return CliRunner().invoke(command, [str(word) for word in words], **how)


SCORES = np.random.default_rng(0).standard_normal((6, 4)).astype("f4")
TEXTS, VIDEOS = list("cabdac"), list("abcd")


def evaluated(*words, **how):
    out = run("eval", "--json", "--measures", "R@1,MRR", *words, **how)
    assert out.exit_code == 0, out.output
    return json.loads(out.stdout[out.stdout.index("{") :])  # notes come before in old Click


def test_ground_truth_by_ids_in_the_files(tmp_path):
    """The same as by an index, whatever brings the ids."""
    gt = np.array([VIDEOS.index(name) for name in TEXTS])
    np.save(tmp_path / "gt.npy", gt)
    np.save(tmp_path / "s.npy", SCORES)
    (tmp_path / "gt.csv").write_text("text,video\nA,b\nB,a\nC,d\nD,d\nE,a\nF,c\n")
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    (tmp_path / "v.txt").write_text("\n".join(VIDEOS))
    np.savez(tmp_path / "s.npz", s=SCORES, text_ids=TEXTS, video_ids=VIDEOS)
    np.savez(tmp_path / "f.npz", s=SCORES, text_ids=list("ABCDEF"), video_ids=VIDEOS)
    wanted = evaluated("--sim", tmp_path / "s.npy", "--gt", tmp_path / "gt.npy")
    assert evaluated("--sim", tmp_path / "s.npz", "--gt", "ids") == wanted
    files = ("--text-ids", tmp_path / "t.txt", "--video-ids", tmp_path / "v.txt")
    assert evaluated("--sim", tmp_path / "f.npz", "--gt", "ids", *files) == wanted
    by_table = evaluated("--sim", tmp_path / "f.npz", "--gt", tmp_path / "gt.csv")
    np.save(tmp_path / "gt.npy", [1, 0, 3, 3, 0, 2])
    assert by_table == evaluated("--sim", tmp_path / "s.npy", "--gt", tmp_path / "gt.npy")
    assert by_table != wanted


@pytest.mark.parametrize(
    ("texts", "videos", "words"),
    [
        (list("cabdaz"), VIDEOS, "'z', 1 of 6 texts"),
        (TEXTS, list("abca"), "two videos have the same id"),
        (TEXTS, None, "none of the videos"),
        (None, VIDEOS, "none of the texts"),
    ],
)
def test_ids_that_do_not_tell_the_ground_truth(tmp_path, texts, videos, words):
    for name, x, ids in (("t", X[:6], texts), ("v", X[:4], videos)):
        np.savez(tmp_path / f"{name}.npz", x=x, **({} if ids is None else {"ids": ids}))
    out = run("eval", "--text", tmp_path / "t.npz", "--video", tmp_path / "v.npz", "--gt", "ids")
    assert out.exit_code == 1
    assert words in str(out.exception)


def test_embeddings_and_scores_in_different_orders(tmp_path):
    np.savez(tmp_path / "t.npz", x=X[:6], ids=list("abcdef"))
    np.save(tmp_path / "v.npy", X[:4])
    np.savez(tmp_path / "s.npz", s=SCORES, text_ids=list("abdcef"), video_ids=VIDEOS)
    files = ("--text", tmp_path / "t.npz", "--video", tmp_path / "v.npy")
    out = run("eval", *files, "--sim", tmp_path / "s.npz")
    assert out.exit_code == 1
    assert "text 2: 'c' and 'd'" in str(out.exception)


def test_clip_retrieval_folders(tmp_path):
    clip_retrieval(tmp_path)
    files = ("--text", f"{tmp_path}/text_emb", "--video", f"{tmp_path}/img_emb/*.npy")
    assert evaluated(*files, "--gt", "ids") == evaluated(*files)


def test_pickles_only_with_the_flag(tmp_path):
    save_pickle(tmp_path / "t.pkl", X, IDS)
    np.save(tmp_path / "v.npy", X)
    files = ("--text", f"{tmp_path}/t.pkl:out.features", "--video", tmp_path / "v.npy")
    out = run("eval", *files)
    assert out.exit_code == 1
    assert "--trust-pickle" in str(out.exception)
    assert evaluated(*files, "--trust-pickle")["text -> video"]["R@1"] == 100
    out = run("tune", "--text-bank", tmp_path / "t.pkl", "--video-bank", tmp_path / "v.npy")
    assert "--trust-pickle" in str(out.exception)


def test_the_folder_of_copies_is_private():
    assert new_folder().stat().st_mode & 0o777 == 0o700
