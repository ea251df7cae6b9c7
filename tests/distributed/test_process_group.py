"""Several processes give what one gives, and where one fails all end without a result."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shards_worker import CASES, decisions, settings

from emcl_plugin import rerank, rescore
from emcl_plugin.cli.main import main
from emcl_plugin.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.errors import InputValueError
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources
from emcl_plugin.pipeline.shards import shared
from emcl_plugin.scores import Dense, FeaturePair, Features, Rows

WORKER = Path(__file__).parents[1] / "shards_worker.py"


def start(count, *command, cwd):
    """So many processes that know of each other, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared_by_all = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            env={
                **os.environ,
                **shared_by_all,
                "OMP_NUM_THREADS": "1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes):
    """What each printed, and its status."""
    said = []
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert "Traceback" not in error
        said.append((process.returncode, out, error))
    return said


@pytest.fixture(scope="module")
def sides():
    rng = np.random.default_rng(0)
    videos = rng.standard_normal((211, 24)) * np.arange(1, 25) ** -0.5 + 0.4
    texts = videos[rng.integers(0, 211, 240)] + 0.8 * rng.standard_normal((240, 24))
    texts[17] = texts[200]  # near-duplicate queries of two processes
    videos[5] = videos[100]
    return texts.astype(np.float32), videos.astype(np.float32)


@pytest.fixture(scope="module", params=[[0, 90, 240], [0, 7, 110, 111, 240]], ids=["two", "four"])
def among(request, sides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("among")
    starts = request.param
    np.savez(folder / "data.npz", text=sides[0], video=sides[1], starts=starts)
    count = len(starts) - 1
    for status, _, error in ended(start(count, WORKER, folder, cwd=folder)):
        assert status == 0, error
    arrays = [np.load(folder / f"{rank}.npz") for rank in range(count)]
    told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    return arrays, told, starts


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*exact duplicates")
def test_processes_give_what_one_gives(among, sides, case):
    arrays, told, _ = among
    expected = rescore(*CASES[case](*sides), **settings(case))
    found = np.concatenate([own[case] for own in arrays])
    assert found.dtype == np.asarray(expected.scores).dtype
    tolerance = 2e-3 if found.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(found, expected.scores, atol=tolerance)
    assert all(of_one[case] == told[0][case] for of_one in told)
    wanted, together = decisions(expected.to_dict()), dict(told[0][case])
    if "copies" in case:  # which of two equal videos comes first is a matter of rounding
        hubs = [x.pop("hubs") for x in (wanted, together)]
        for when in ("before", "after"):
            never = [x[when]["never"] for x in hubs]
            assert never[0] == pytest.approx(never[1], abs=0.05)
    assert together == wanted


@pytest.mark.slow
def test_a_checkpoint_belongs_to_the_rows_of_all_processes(among):
    arrays, told, _ = among
    assert "belongs to another run" in told[0]["other rows"]
    assert all("other rows" in of_one for of_one in told)
    assert not told[0]["left"]
    for own in arrays:
        np.testing.assert_array_equal(own["resumed"], own["matrix"])


def test_in_one_process_every_exchange_returns_its_input():
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    for exchange in ("sum", "max", "min", "any", "logsumexp", "told"):
        assert getattr(SINGLE_PROCESS, exchange)(x) is x
    assert SINGLE_PROCESS.rows(x, 2) is x
    assert SINGLE_PROCESS.gather([1.5, 2.0]) == [[1.5, 2.0]]
    assert SINGLE_PROCESS.together(lambda: x) is x
    assert list(SINGLE_PROCESS.in_order("abc")) == list("abc")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*exact duplicates")
def test_without_the_group_a_process_is_alone(among, sides):
    arrays, _, starts = among
    for rank, (first, last) in enumerate(pairwise(starts)):
        if last - first > 1:
            own = rerank(None, (sides[0][first:last], sides[1]))
            np.testing.assert_allclose(arrays[rank]["alone"], own, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("NaN", "text holds NaN or infinity"),
        ("no text", "text is empty"),
        ("no array", "text is not an array"),
    ],
)
def test_what_is_wrong_in_one_process_fails_in_all(among, case, problem):
    _, told, _ = among
    for rank, of_one in enumerate(told):
        name, message, said_elsewhere = of_one[case]
        assert said_elsewhere == (rank != 1)
        assert problem in message
        assert (name == "WorkerError") == (rank != 1)


@pytest.mark.slow
def test_processes_with_other_videos_are_refused(among):
    _, told, _ = among
    for of_one in told:
        assert of_one["other videos"][0] == "InputValueError"
        assert "differ in width or dtype" in of_one["other videos"][1]


# --- the command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(sides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "t.npy", sides[0])
    np.save(folder / "v.npy", sides[1])
    truth = (sides[0] @ sides[1].T).argmax(1)
    np.save(folder / "gt.npy", truth)
    return folder


@pytest.mark.slow
def test_the_command_writes_and_measures_the_same(folder):
    command = ["-m", "emcl_plugin", "--text", "t.npy", "--video", "v.npy", "--gt", "gt.npy"]
    names = ["scores.npy", "best.csv", "texts.csv"]
    (folder / "one").mkdir()
    (folder / "three").mkdir()

    def options(where):
        paths = [f"{where}/{name}" for name in names]
        outputs = zip(("--output", "--run", "--run-v2t"), paths, strict=True)
        return [*command, *(word for pair in outputs for word in pair), "--top", "5", "--json"]

    alone = subprocess.run(
        [sys.executable, *options("one")], cwd=folder, capture_output=True, text=True, check=True
    )
    first, *others = ended(start(3, *options("three"), cwd=folder))
    assert first[0] == 0, first[2]
    assert others == [(0, "", "")] * 2
    expected, found = json.loads(alone.stdout), json.loads(first[1])
    assert decisions(found) == decisions(expected)
    for before, after in zip(
        expected["measured"]["ablation"], found["measured"]["ablation"], strict=True
    ):
        assert after["metrics"] == before["metrics"]
        assert after["hubness"]["skewness"] == pytest.approx(before["hubness"]["skewness"])
    assert found["measured"]["modality_gap"]["before"] == pytest.approx(
        expected["measured"]["modality_gap"]["before"]
    )
    scores = [np.load(folder / where / names[0]) for where in ("one", "three")]
    np.testing.assert_allclose(*scores, atol=1e-5)
    for name in names[1:]:
        runs = [(folder / where / name).read_text().splitlines() for where in ("one", "three")]
        pairs = [[line.split(",")[:3] for line in run] for run in runs]
        assert len(pairs[0]) == len(pairs[1])
        assert sum(a != b for a, b in zip(*pairs, strict=True)) <= 0.01 * len(pairs[0])


@pytest.mark.slow
def test_one_bad_row_ends_the_job_with_one_message(folder, sides):
    texts = sides[0].copy()
    texts[-1] = np.nan
    np.save(folder / "bad.npy", texts)
    command = ["-m", "emcl_plugin", "--text", "bad.npy", "--video", "v.npy", "--output", "x.npy"]
    (status, out, error), second = ended(start(2, *command, cwd=folder))
    assert (status, out, error) == (1, "", "")
    assert second[0] == 1
    assert second[2].startswith("Error in process 1: text holds NaN or infinity")
    assert not (folder / "x.npy").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_the_job_without_output(folder, victim):
    command = ["-m", "emcl_plugin", "--text", "t.npy", "--video", "v.npy", "--output", "y.npy"]
    command += ["--temperature", "0.0001", "--iterations", "1500", "--prior", "even", "--verbose"]
    command += ["--no-guard", "--json", "--resume", "run.safetensors"] if victim else []
    processes = start(2, *command, cwd=folder)
    try:
        while "held" not in (line := processes[0].stderr.readline()):
            assert line
        time.sleep(1)
        processes[victim].send_signal(signal.SIGKILL)
        other = processes[1 - victim]
        _, error = other.communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert other.returncode == 1
    assert "another process of this job has ended" in error
    assert "Traceback" not in error
    assert not list(folder.glob("*y.npy*"))
    if victim:
        (status, out, error), second = ended(start(2, *command, cwd=folder))
        assert (status, second[0]) == (0, 0), error
        assert json.loads(out)["resumed_rounds"] > 0
        assert not (folder / "run.safetensors").exists()
        command[command.index("y.npy")] = "z.npy"
        assert ended(start(2, *command, cwd=folder))[0][0] == 0
        assert (folder / "y.npy").read_bytes() == (folder / "z.npy").read_bytes()


IMPATIENT = """
from datetime import timedelta
from emcl_plugin.cli import main, processes
processes.TIMEOUT = timedelta(seconds=3)
main()
"""


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_job_after_a_while(folder):
    """Without the three seconds here it is an hour."""
    command = ["-c", IMPATIENT, "--text", "t.npy", "--video", "v.npy", "--output", "h.npy"]
    command += ["--temperature", "0.0001", "--iterations", "9000", "--prior", "even", "--verbose"]
    processes = start(2, *command, "--no-guard", cwd=folder)
    try:
        while "held" not in (line := processes[0].stderr.readline()):
            assert line
        processes[1].send_signal(signal.SIGSTOP)
        _, error = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 1
    assert "another process of this job has ended or does not answer" in error
    assert "Traceback" not in error
    assert not list(folder.glob("*h.npy*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report", "r.html", "--gt", "diagonal"], "--report needs a single process"),
        (["--candidates", "5", "--run", "r.csv"], "--candidates needs a single process"),
        (["compare"], "compare runs in one process"),
        (["--sim", "-"], "several processes cannot read standard input"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_options_for_a_single_process_are_refused_under_torchrun(
    folder, arguments, said, rank, monkeypatch, capsys
):
    here = {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))
    sides = [] if arguments == ["compare"] else ["--text", "t.npy", "--video", "v.npy"]
    monkeypatch.setattr(sys, "argv", ["emcl-rerank", *sides, *arguments])
    monkeypatch.chdir(folder)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert (said in told.err) == (rank == 0)
    assert rank == 0 or told.err == ""


# --- parts ------------------------------------------------------------------------------------


class Second(ProcessGroup):
    """The second of two processes, as far as nothing is exchanged."""

    def __init__(self, counts=None):
        super().__init__(None, counts)
        self.rank, self.size = 1, 2

    def even(self):
        return Second()


@given(st.integers(1, 9), st.integers(9, 100))
def test_parts_follow_one_another_and_differ_by_one_at_most(size, count):
    group = ProcessGroup()
    group.size = size
    bounds = []
    for group.rank in range(size):
        bounds.append(group.part(count))
    assert bounds[0][0] == 0
    assert bounds[-1][1] == count
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    sizes = [last - first for first, last in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.slow
def test_a_process_reads_its_own_texts_and_all_videos():
    torch.manual_seed(0)
    text, video = torch.randn(10, 4), torch.randn(7, 4)
    whole = FeaturePair(Features(text), Features(video))
    part = FeaturePair(Features(text, group=Second()), Features(video))
    assert part.own == (5, 10)
    torch.testing.assert_close(part.dense(), whole.dense()[5:])
    torch.testing.assert_close(Rows(part).dense(), whole.dense()[5:])
    torch.testing.assert_close(part.T.dense(), whole.T.dense()[3:])  # of seven videos
    torch.testing.assert_close(part.text.rows(0, 2), whole.text.rows(0, 2))
    left, right, row_scale, column_scale = (torch.rand(*n) for n in ((10, 2), (7, 2), (10,), (7,)))
    moved, among = (x.changed(left, right, row_scale, column_scale) for x in (whole, part))
    own, videos = Rows(among).vectors()
    torch.testing.assert_close(own @ videos.T, moved.dense()[5:])
    uneven = Dense(whole.dense()).among(Second([8, 2]))
    assert uneven.own == (8, 10)
    assert uneven.T.own == (3, 7)


def test_more_processes_than_texts_are_refused():
    with pytest.raises(InputValueError, match="more processes than texts"):
        Job(torch.randn(1, 5), None, resources=Resources(group=Second()))


def test_processes_share_no_experts():
    experts = Experts({"rgb": np.ones((2, 3))}, {"rgb": np.ones((2, 3))}, np.ones((2, 1)),
                      np.ones((2, 1)))  # fmt: skip
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0,
                                         world_size=1)  # fmt: skip
    try:
        with pytest.raises(Exception, match="share a matrix or features"):
            shared(torch.distributed.group.WORLD, experts, None)
    finally:
        torch.distributed.destroy_process_group()
