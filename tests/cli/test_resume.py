"""`--resume`: the same command, repeated, gives the same file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from emcl_plugin.cli.main import command
from emcl_plugin.demo import load_demo

FILES = ["--text", "t.npy", "--video", "v.npy"]
RESUME = ["--resume", "run.safetensors"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The demo's embeddings in an empty folder."""
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", load_demo().text[:300])
    np.save("v.npy", load_demo().video[:300])
    return tmp_path


def invoke(*options, status=0):
    found = CliRunner().invoke(command, [*FILES, *options])
    assert found.exit_code == status, found.output
    return found


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in ("t.npy", "v.npy"))


@pytest.fixture
def stop_after(monkeypatch):
    """Runs the command and interrupts it after so many rounds."""

    def run(rounds, *options):
        left = [rounds]

        def update(_, stage, done, total):
            del done, total
            left[0] -= stage == "sinkhorn"
            if not left[0]:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("emcl_plugin.cli.show.Progress.update", update)
            return invoke(*options, status=1)

    return run


@pytest.mark.parametrize(
    "options",
    [["-o", "out.npy"], ["--run", "out.csv", "--candidates", "50", "--top", "10"]],
    ids=["matrix", "candidates"],
)
def test_the_same_command_goes_on(here, stop_after, options):
    wanted = json.loads(invoke(*options, "--json", "-q").stdout)
    (name,) = files(here)
    content = (here / name).read_bytes()
    (here / name).unlink()
    for rounds in (3, 20):
        said = stop_after(rounds, *options, *RESUME).stderr
        assert "no result was written, the same command goes on from run.safetensors" in said
        assert files(here) == ["run.safetensors"]
    found = invoke(*options, *RESUME, "--json")
    assert "Note: 23 rounds are done, the run goes on from run.safetensors" in found.stderr
    facts = json.loads(found.stdout)
    assert facts.pop("resumed_rounds") == 23
    assert {**facts, "seconds": 0} == {**wanted, "seconds": 0}
    assert files(here) == [name]
    assert (here / name).read_bytes() == content


def test_a_run_from_the_start_resumes_nothing(here):
    assert json.loads(invoke(*RESUME, "--json", "-q").stdout)["resumed_rounds"] == 0
    assert files(here) == ["reranked.npy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ncl", "off"], "NCL is off"),
        (["--prior", "off"], "NCL is off"),
        (["--text-bank", "t.npy"], "without banks"),
        (["-o", "run.safetensors"], "two outputs are the same file"),
    ],
)
def test_wrong_use(here, options, words):
    assert words in invoke(*RESUME, *options, status=2).stderr
    assert files(here) == []


def test_an_input_named_by_mistake_is_kept(here):
    before = (here / "t.npy").read_bytes()
    with pytest.raises(OSError, match="not a checkpoint"):
        CliRunner().invoke(command, [*FILES, "--resume", "t.npy"], catch_exceptions=False)
    assert (here / "t.npy").read_bytes() == before
