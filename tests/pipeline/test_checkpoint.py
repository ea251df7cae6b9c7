"""Runs that were killed go on to the bits of one that was not, and from no other run's file."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file

from emcl_plugin import EMCL, NCL, rerank, rerank_top, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import ConvergenceWarning, EmclError, InputFileError, InputValueError
from emcl_plugin.ncl.stored_kernel import StoredKernel
from emcl_plugin.pipeline import checkpoint
from emcl_plugin.pipeline.checkpoint import Checkpoint
from emcl_plugin.pipeline.job import Job
from emcl_plugin.scores.tokens import Tokens

DEMO = load_demo()
N = 120
TEXT, VIDEO = DEMO.text[:N], DEMO.video[:N]
COLD = NCL(temperature_std=0.01)  # K is made anew around some round's potentials
COLDER = NCL(temperature_std=0.003, rho=0.8)  # around nearly every round's
TOKENS = Tokens(*(x[:, None] for x in (TEXT, VIDEO)), *(np.ones((N, 1)) for _ in range(2)))


def features(**settings):
    return rerank(None, (TEXT, VIDEO), **settings)


def scores(**settings):
    return rerank(TEXT @ VIDEO.T, **settings)


def candidates(**settings):
    found = rerank_top((TEXT, VIDEO), 5, candidates=30, **settings)
    return np.concatenate([found.scores, found.videos])


RUNS = [
    (features, {}, 4),  # the gentle and the leave-best-out run, and one solve per direction
    (features, {"prior": "gentle"}, 2),
    (features, {"emcl": EMCL(strength=0.3), "ncl": NCL(solver="blocks")}, 4),
    (scores, {"prior": "even", "ncl": NCL(video_marginal=np.linspace(1, 2, N))}, 3),
    (scores, {"ncl": COLD}, 3),
    (scores, {"ncl": COLDER}, 3),
    (candidates, {"emcl": None}, 4),
    (candidates, {"emcl": None, "ncl": COLD}, 4),
    (candidates, {"emcl": None, "ncl": COLDER}, 4),
]


class Rounds(list):
    """Every round of Sinkhorn that is run; ``do`` is called after each."""

    def __init__(self, do=lambda: None):
        super().__init__()
        self.do = do

    def __call__(self, stage, done, total):
        del total
        if stage == "sinkhorn":
            self.append(done)
            self.do()


@pytest.fixture(autouse=True)
def _converged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("run", "settings", "solves"), RUNS)
def test_a_run_killed_after_any_round_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, run, settings, solves
):
    """What is on disk after some iterations of every solve is all that a killed run leaves."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    file = tmp_path / "run.safetensors"
    iterations = Rounds(lambda: shutil.copy(file, tmp_path / str(len(iterations))))
    wanted = run(progress=iterations, resume=file, **settings)
    assert_array_equal(wanted, run(**settings))
    assert iterations.count(1) == solves
    first = [place for place, done in enumerate(iterations, 1) if done == 1]
    for kill in sorted(
        {*first, *(place - 1 for place in first[1:]), len(iterations) - 3, len(iterations)}
    ):
        again = Rounds()
        found = run(progress=again, resume=tmp_path / str(kill), **settings)
        assert_array_equal(found, wanted)
        assert again == iterations[kill:]
        assert not (tmp_path / str(kill)).exists()
    assert not file.exists()


@pytest.mark.parametrize(("ncl", "least"), [(COLD, 1), (COLDER, 10)])
def test_kernels_are_made_anew_on_the_way(monkeypatch, ncl, least):
    """Without this some runs above would agree for no reason."""
    made, iterations = [], Rounds()
    absorb = StoredKernel._absorb
    monkeypatch.setattr(
        StoredKernel, "_absorb", lambda self, g: made.append(len(iterations)) or absorb(self, g)
    )
    scores(ncl=ncl, progress=iterations)
    last = len(iterations) - iterations[::-1].index(1)
    assert sum(last < place < len(iterations) - 3 for place in made) >= least


@pytest.mark.parametrize("solve", range(4))
def test_an_interrupted_run_loses_nothing(tmp_path, solve):
    """Also where the file was not yet written, as after less than ten seconds."""
    file = tmp_path / "run.safetensors"

    def stop():
        assert not file.exists()
        if iterations.count(1) == solve + 1 and iterations[-1] == 3:
            raise KeyboardInterrupt

    every, iterations, rest = Rounds(), Rounds(stop), Rounds()
    wanted = rescore(None, (TEXT, VIDEO), progress=every)
    with pytest.raises(KeyboardInterrupt):
        features(progress=iterations, resume=file)
    found = rescore(None, (TEXT, VIDEO), progress=rest, resume=file)
    assert iterations + rest == every
    assert_array_equal(found.scores, wanted.scores)
    assert found.to_dict() == wanted.to_dict()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stopped(tmp_path):
    """The file of a run that stopped in its last solve."""

    def stop():
        if iterations[-1] == 10:
            raise KeyboardInterrupt

    iterations, file = Rounds(stop), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        features(progress=iterations, resume=file)
    return file


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        ((np.nextafter(TEXT, 2), VIDEO), {}),
        ((TEXT, VIDEO[::-1]), {}),
        ((TEXT, VIDEO[:-1]), {}),
        ((TEXT.astype("f8"), VIDEO), {}),
        ((TEXT, VIDEO), {"ncl": NCL(iterations=201)}),
        ((TEXT, VIDEO), {"ncl": NCL(video_marginal=[1.0] * N)}),
        ((TEXT, VIDEO), {"emcl": None}),
        ((TEXT, VIDEO), {"emcl": EMCL(seed=1)}),
        ((TEXT, VIDEO), {"prior": "even"}),
        ((TEXT, VIDEO), {"guard": False}),
        ((TEXT, VIDEO), {"metric": "dot"}),
    ],
    ids=str,
)
def test_the_file_of_other_data_or_settings_is_refused_and_kept(stopped, data, settings):
    before = stopped.read_bytes()
    with pytest.raises(InputFileError, match="belongs to another run") as caught:
        rerank(None, data, resume=stopped, **settings)
    assert "remove it to start anew" in caught.value.remedy
    assert stopped.read_bytes() == before
    same = rerank(None, (torch.from_numpy(TEXT), torch.from_numpy(VIDEO)), resume=stopped)
    assert_array_equal(same, features())  # the same numbers are the same data


def test_scorers_are_known_by_all_their_parts(tmp_path):
    """A token's weight is data, too."""
    file = tmp_path / "run.safetensors"

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rerank(TOKENS, progress=Rounds(stop), resume=file)
    other = np.ones((N, 1))
    other[7] = 0.5
    with pytest.raises(InputFileError, match="belongs to another run"):
        rerank(Tokens(TOKENS.text, TOKENS.video, TOKENS.text_mask, TOKENS.video_mask, other),
               resume=file)  # fmt: skip
    assert_array_equal(rerank(TOKENS, resume=file), rerank(TOKENS))


@pytest.mark.parametrize(
    ("solves", "changed", "words"),
    [
        ("[", {}, "Expecting value"),
        ("[[1.0, 1.0, 3]]", {}, "length 4"),
        ("[[1.0, 1.0, 3, 0.1], [1.0, 1.0, 3, 0.1]]", {}, "1.f"),
        ("[[1.0, 1.0, 0, 0.1]]", {}, "solve 0 is empty or not finite"),
        (
            "[[1.0, 1.0, 3, 0.1]]",
            {"0.f": np.full(N, np.nan, np.float32)},
            "solve 0 is empty or not finite",
        ),
        ("[[1.0, 1.0, 3, 0.1]]", {"0.f": np.zeros(N - 1, np.float32)}, "are not"),
        ("[[1.0, 1.0, 3, 0.1]]", {"0.g": np.zeros(N)}, "are not"),
    ],
)
def test_a_file_made_to_look_like_this_runs_is_refused(stopped, solves, changed, words):
    """Of this run, and sealed, with what no run of the program leaves."""
    with safe_open(stopped, framework="np") as file:
        notes = {**file.metadata(), "solves": solves}
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names if name.startswith("0.")}
    del notes["sha256"]
    tensors |= changed
    save_file(tensors, stopped, {**notes, "sha256": checkpoint._seal(notes, tensors)})
    with pytest.raises(InputFileError, match="none of this program's") as caught:
        features(resume=stopped)
    assert words in caught.value.received


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def edit(file):
    file.write_bytes(file.read_bytes().replace(b"[[0.", b"[[1.", 1))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "damaged"),
        (flip, "changed or damaged"),
        (edit, "changed or damaged"),
        (lambda file: file.write_bytes(b""), "damaged"),
        (lambda file: file.write_text("text, video\n"), "damaged"),
        (lambda file: save_file({"0.f": TEXT}, file), "not a checkpoint"),
        (lambda file: file.write_bytes(b"\x93NUMPY" + bytes(500)), "damaged"),
        (lambda file: file.unlink() or file.mkdir(), "is a folder"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_kept(stopped, harm, words):
    harm(stopped)
    before = None if stopped.is_dir() else stopped.read_bytes()
    with pytest.raises(InputFileError, match=words):
        features(resume=stopped)
    assert before is None or stopped.read_bytes() == before


def test_a_run_that_goes_another_way_is_refused(stopped):
    """As where another number of threads tips a choice: the solves are then others."""
    job = Job(None, (TEXT, VIDEO))
    reached = Checkpoint(stopped, job)
    solves = json.loads(notes(stopped)["solves"])
    assert reached.resumed == sum(iterations for _, _, iterations, _ in solves)
    temperature, rho = solves[0][:2]
    assert reached.begin(temperature * (1 + 1e-7), rho).iterations == solves[0][2]
    with pytest.raises(InputFileError, match="took another path"):
        reached.begin(1.01 * solves[1][0], solves[1][1])


def notes(file):
    size = int.from_bytes(file.read_bytes()[:8], "little")
    return json.loads(file.read_bytes()[8 : 8 + size])["__metadata__"]


@pytest.mark.parametrize("settings", [{"ncl": None}, {"prior": "off"}, {"ncl": NCL(solver="pot")}])
def test_a_run_without_rounds_of_its_own_is_refused(tmp_path, settings):
    with pytest.raises(InputValueError, match="no iterations that could be kept"):
        features(resume=tmp_path / "run.safetensors", **settings)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(EmclError, match="folder does not exist"):
        features(resume=tmp_path / "nowhere" / "run.safetensors", progress=Rounds(pytest.fail))
