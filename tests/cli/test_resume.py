"""`--resume`, kills and full disks: the same command, repeated, gives the same file."""

from __future__ import annotations

import errno
import json
import random
import re
import resource
import signal
import sys
import time

import numpy as np
import pytest
from bank_files import BOTH, facts_of, invoke
from forks import Forks
from numpy.testing import assert_array_equal

from emcl_plugin.cli.main import main
from emcl_plugin.data.demo import load_demo
from emcl_plugin.pipeline import checkpoint

RESUME = ["--resume", "run.safetensors"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The demo's embeddings in an empty folder."""
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", load_demo().text[:300])
    np.save("v.npy", load_demo().video[:300])
    return tmp_path


def run(*options, status=0):
    return invoke(*BOTH, *options, status=status)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name[:1] not in "tv")


@pytest.fixture
def stop_after(monkeypatch):
    """Runs the command and interrupts it after so many iterations."""

    def stop(iterations, *options):
        left = [iterations]

        def update(_, stage, done, total):
            del done, total
            left[0] -= stage == "sinkhorn"
            if not left[0]:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("emcl_plugin.cli.show.Progress.update", update)
            return run(*options, status=1)

    return stop


@pytest.mark.parametrize(
    "options",
    [["-o", "out.npy"], ["--run", "out.csv", "--candidates", "50", "--top", "10"]],
    ids=["matrix", "candidates"],
)
def test_the_same_command_goes_on(here, stop_after, options):
    wanted = facts_of(run(*options, "--json", "-q"))
    (name,) = files(here)
    content = (here / name).read_bytes()
    (here / name).unlink()
    for iterations in (3, 20):
        said = stop_after(iterations, *options, *RESUME).words
        assert "no result was written; the same command resumes from run.safetensors" in said
        assert files(here) == ["run.safetensors"]
    found = run(*options, *RESUME, "--json")
    assert "Note: resuming from run.safetensors after 23 iterations" in found.words
    facts = facts_of(found)
    assert facts.pop("resumed_rounds") == 23
    assert {**facts, "seconds": 0} == {**wanted, "seconds": 0}
    assert files(here) == [name]
    assert (here / name).read_bytes() == content


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def room():
    """Gives files of this process no more than so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fail(monkeypatch, capsys, *options):
    """Run the program to its status and its last words."""
    monkeypatch.setattr(sys, "argv", ["emcl-rerank", *BOTH, *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet"])
@pytest.mark.parametrize("option", ["-o", "--run"])
def test_a_full_disk_leaves_no_result_and_the_same_command_goes_on(
    here, room, monkeypatch, capsys, option, suffix
):
    if option == "--run":
        suffix = {"npy": "csv", "npz": "jsonl", "safetensors": "trec"}.get(suffix, suffix)
    output = [option, f"out.{suffix}"]
    run(*output)
    wanted = (here / output[1]).read_bytes()
    (here / output[1]).write_text("older")
    room(len(wanted) // 2)
    words = fail(monkeypatch, capsys, *output, *RESUME, "--force", "-q")
    assert "the disk is full; nothing was written" in words
    assert output[1] in words
    assert (here / output[1]).read_text() == "older"
    assert files(here) == sorted(["run.safetensors", output[1]])
    room(resource.RLIM_INFINITY)
    found = run(*output, *RESUME, "--force", "--json", "-q")
    assert facts_of(found)["resumed_rounds"] > 20
    assert (here / output[1]).read_bytes() == wanted
    assert files(here) == [output[1]]


@pytest.mark.parametrize("iterations", [0, 10])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    here, room, stop_after, monkeypatch, capsys, iterations
):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    if iterations:
        stop_after(iterations, *RESUME)
    before = [(here / name).read_bytes() for name in files(here)]
    room(3000)
    words = fail(monkeypatch, capsys, *RESUME, "-q")
    assert "the disk is full; nothing was written" in words
    assert "run.safetensors: File too large" in words
    assert [(here / name).read_bytes() for name in files(here)] == before
    room(resource.RLIM_INFINITY)
    found = run(*RESUME, "--json", "-q")
    assert facts_of(found)["resumed_rounds"] == iterations


def test_a_disk_without_room_for_a_name_is_full(here, monkeypatch, capsys):
    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", fails)
    assert "the disk is full; nothing was written" in fail(monkeypatch, capsys, "-q")
    assert files(here) == []


# --- kills ----------------------------------------------------------------------------------------

DIES = """
import os, signal
from pathlib import Path

from emcl_plugin.pipeline import checkpoint

checkpoint.SECONDS = 0.0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


"""
WRITTEN = """
os.fsync = lambda handle: ".out.npy." in os.readlink(f"/proc/self/fd/{handle}") and die()
"""
NAMED = """
unlink = Path.unlink
Path.unlink = lambda path, **more: die() if path.name == "run.safetensors" else unlink(path, **more)
"""


@pytest.mark.slow
def test_a_job_killed_at_any_moment_leaves_a_whole_result_or_none(here):
    """Eight random moments, then with the result written but not yet named, and just named."""
    options = ["--prior", "even", "--temperature", "0.001", "--iterations", "1500"]
    run(*options)
    whole, found, out = (here / "reranked.npy").read_bytes(), [], here / "out.npy"
    chance = random.Random(0)
    with Forks() as forks:

        def start(way=""):
            command = (*BOTH, *options, "-o", "out.npy", *RESUME, "-q", "--json")
            return forks.start(*command, cwd=here, before=DIES + way)

        for way in (*(chance.uniform(0, 0.4) for _ in range(8)), WRITTEN, NAMED):
            job = start(way if isinstance(way, str) else "")
            if isinstance(way, float):
                time.sleep(way)
                job.send(signal.SIGKILL)
            assert job.ends()
            assert not out.exists() or out.read_bytes() == whole
            found.append((job.status, out.exists(), (here / RESUME[1]).exists()))
            out.unlink(missing_ok=True)
        job = start()
        assert job.ends()
        assert (job.status, job.err) == (0, "")
        assert json.loads(job.out)["resumed_rounds"] > 500
    assert out.read_bytes() == whole
    assert found[-2:] == [(-signal.SIGKILL, False, True), (-signal.SIGKILL, True, True)]
    left = set(files(here)) - {"out.npy", "reranked.npy"}
    assert all(re.fullmatch(r"\.(out\.npy|run\.safetensors)\..*\.part", name) for name in left)


def test_what_a_killed_run_leaves_is_no_part_of_a_folder(here):
    for name in "tv":
        (here / name).mkdir()
        np.save(here / name / "1.npy", np.load(f"{name}.npy"))
        (here / name / ".2.npy.k3x9_w2a.part").write_bytes(b"half of it")
    run("-o", "wanted.npy")
    run("--text", "t", "--video", "v")
    assert_array_equal(np.load("reranked.npy"), np.load("wanted.npy"))
