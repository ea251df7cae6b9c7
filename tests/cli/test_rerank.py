"""The main job on the command line, run as a person would: right, wrong, interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from bank_files import BOTH, facts_of
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from emcl_plugin import rerank
from emcl_plugin.cli.main import command
from emcl_plugin.cli.method import EMCL_NAMES
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import PRESETS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", load_demo().text)
    np.save("v.npy", load_demo().video)
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_main_job_with_no_option(folder, emcl):
    result = emcl(*BOTH)
    data = load_demo()
    assert_array_equal(np.load("reranked.npy"), rerank(None, (data.text, data.video)))
    assert result.out == ""
    for words in ("transductive", "converged", "guard", "nobody's top-1", "reranked.npy"):
        assert words in result.words
    assert files(folder) == ["reranked.npy", "t.npy", "v.npy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("x.npz:t", "x.npz:v"), ("t", "v/*.npy"), ("x.h5:in/t", "x.h5:in/v"),
              ("x.safetensors:t", "x.safetensors:v")],
)  # fmt: skip
def test_the_same_from_other_files(emcl, names):
    text, video = (np.load(name) for name in ("t.npy", "v.npy"))
    np.savez("x.npz", t=text, v=video)
    save_file({"t": text, "v": video}, "x.safetensors")
    with h5py.File("x.h5", "w") as file:
        file["in/t"], file["in/v"] = text, video
    for name, x in (("t", text), ("v", video)):
        Path(name).mkdir()
        for i, part in enumerate(np.array_split(x, 12)):
            np.save(f"{name}/{i}.npy", part)
    emcl("--text", names[0], "--video", names[1])
    assert_array_equal(np.load("reranked.npy"), rerank(None, (text, video)))


@pytest.mark.slow
def test_every_option_is_read_from_the_environment(emcl, monkeypatch):
    given = {"TEXT": "t.npy", "VIDEO": "v.npy", "OUTPUT": "o.npy", "DTYPE": "float32"}
    for name, value in given.items():
        monkeypatch.setenv(f"EMCL_RERANK_{name}", value)
    emcl()
    assert np.load("o.npy").dtype == np.float32
    emcl("demo")  # a sub-command does not mind them


@pytest.mark.slow
def test_options_reach_the_method(emcl):
    def report(*options):
        facts = facts_of(emcl(*BOTH, "--json", "-q", "--force", *options))
        return {**facts, "seconds": 0}

    assert report("--temperature", "0.05")["ncl"]["temperature"] == 0.05
    assert report("--emcl", "off")["emcl"] is None
    assert report("--emcl-strength", "-0.5")["emcl"]["strength"] == -0.5
    assert report("--emcl", "clip2video", "--ncl", "off", "--no-guard")["ncl"] is None
    assert report("--emcl", "mmt-lsmdc", "--no-guard")["emcl"]["strength"] > 0
    assert report("--iterations", "1")["ncl"]["rounds"] == 1
    assert report("--rounds", "1")["ncl"]["rounds"] == 1
    assert report("--no-guard")["guard"]["enabled"] is False
    seeded = ("--seed", "1", "--subspaces", "8", "--sim", "reranked.npy", "--output", "s.npy")
    assert report(*seeded) == report(*seeded)


@pytest.fixture
def demo_run(emcl):
    """The matrix, the JSON and what a person sees of a run on the demo data."""

    def run(*options):
        result = emcl(*BOTH, "--json", "--force", *options)
        return np.load("reranked.npy"), facts_of(result), result.words

    return run


PRIOR = {
    "mode", "queries", "found_cautiously", "companions", "hubs", "evenness", "paired", "uniform",
    "text_rho", "even", "reason",
}  # fmt: skip
GUARD = {
    "enabled", "applied", "strength", "gained", "lost", "z", "before", "after", "reason",
}  # fmt: skip


def test_the_prior_is_told_in_words_and_in_json(demo_run):
    _, facts, words = demo_run()
    prior, guard = facts["prior"], facts["guard"]
    assert set(prior) == PRIOR
    assert set(guard) == GUARD
    assert prior["mode"] == "auto"
    assert 0 < prior["even"] == prior["hubs"] * prior["uniform"] <= 1
    assert 900 < prior["queries"] <= facts["texts"]
    assert guard["applied"] is True
    assert guard["strength"] == 1
    assert guard["z"] == pytest.approx(
        (guard["gained"] - guard["lost"]) / (guard["gained"] + guard["lost"]) ** 0.5
    )
    (line,) = re.findall(r"^ +prior +(.*)$", words, re.MULTILINE)
    applied = f"equal-share assumption applied at {100 * prior['even']:.0f} %"
    assert line == f"{prior['reason']}; {applied}"  # one text per video: text_rho is 1
    assert prior["text_rho"] == 1
    assert f"{100 * prior['evenness']:.0f} %" in line


@pytest.mark.parametrize("mode", ["even", "gentle"])
def test_a_prior_is_told_to_use(demo_run, mode):
    data = load_demo()
    scores, facts, words = demo_run("--prior", mode)
    assert_array_equal(scores, rerank(None, (data.text, data.video), prior=mode))
    assert (facts["prior"]["mode"], facts["prior"]["even"]) == (mode, float(mode == "even"))
    assert re.search(rf"prior +{mode}: as requested", words)


def test_no_prior_is_no_ncl(demo_run):
    scores, facts, words = demo_run("--prior", "off")
    assert (facts["ncl"], facts["prior"]) == (None, None)
    assert re.search(r"NCL +off", words)
    assert not re.search(r"^ +prior ", words, re.MULTILINE)
    assert_array_equal(scores, demo_run("--ncl", "off")[0])


def test_texts_that_count_once_are_told(demo_run):
    """A query asked five times: 945 texts and four copies count as they did without them."""
    text = load_demo().text
    alone = demo_run()[1]["prior"]["queries"]
    np.save("t.npy", np.concatenate([text, *[text[:1]] * 4]))
    _, facts, words = demo_run()
    queries = facts["prior"]["queries"]
    assert facts["repeated"] == {"texts": 4, "videos": 0}
    assert queries == pytest.approx(alone, abs=0.1)
    assert f"near-duplicates merged: 949 texts count as {queries:.0f}" in words
    assert "Note" not in words


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--text", "v.npy", "--video", "v.npy"], "--text and --video are the same file, v.npy"),
        (["--sim", "t.npy", "--rounds", "3"], "--rounds is deprecated, use --iterations\n"),
    ],
)
def test_what_is_odd_is_noted(emcl, options, note):
    assert f"Note: {note}" in emcl(*options, "--emcl", "off").words


def test_similarity_alone(emcl):
    np.save("a.npy", np.random.default_rng(0).random((90, 80)))
    words = emcl("--sim", "a.npy", "-v", "--memory", "50M").words
    assert re.search(r"EMCL +off", words)
    assert "held; about" in words


@pytest.mark.slow
def test_with_ground_truth_it_measures_and_explains(emcl):
    names = load_demo().text_names
    Path("names.txt").write_text("\n".join(names), "utf-8")
    words = emcl(
        *BOTH, "--gt", "diagonal", "--report", "page.html", "--plots", "figures",
        "--text-names", "names.txt", "--check-leak",
    ).words  # fmt: skip
    for part in ("+NCL", "R@10", "95 % interval", "significant", "no rank changes", "page.html"):
        assert part in words
    page = Path("page.html").read_text("utf-8")
    assert any(name in page for name in names)
    assert "<script" not in page
    assert {path.suffix for path in Path("figures").iterdir()} == {".png", ".svg", ".pdf"}


@pytest.mark.slow
def test_texts_without_a_row_in_the_ground_truth_are_counted(emcl):
    rows = [f"{row},{row}" for row in range(1, 945)]
    Path("gt.csv").write_text("\n".join(["text,video", *rows]), "utf-8")
    words = emcl(*BOTH, "--gt", "gt.csv").words
    assert "not evaluated: 1 of 945 texts, which have no video in gt.csv" in words


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_file(tmp_path, number):
    rng = np.random.default_rng(0)
    for name in ("t.npy", "v.npy"):
        np.save(tmp_path / name, rng.standard_normal((6000, 64), "float32"))
    process = subprocess.Popen(
        [sys.executable, "-m", "emcl_plugin", *BOTH],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        # a shell that starts tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while "held; about" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)  # the work has begun
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; nothing was written" in words
    assert "Traceback" not in words
    assert files(tmp_path) == ["t.npy", "v.npy"]


def test_published_settings_on_the_command_line_are_those_of_the_package():
    assert ("auto", "off", *PRESETS) == EMCL_NAMES


@pytest.mark.slow
def test_peak_memory_stays_within_the_budget_plus_500_mb(tmp_path):
    """8000 x 8000 float32: one matrix alone would be 256 MB, the budget is 64 MiB."""
    rng = np.random.default_rng(0)
    for name in ("t.npy", "v.npy"):
        np.save(tmp_path / name, rng.standard_normal((8000, 16), "float32"))
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'emcl_plugin', *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, "--text", "t.npy", "--video", "v.npy", "--iterations", "2",
         "--emcl", "off", "--memory", "64M", "-q"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert np.load(tmp_path / "reranked.npy", mmap_mode="r").shape == (8000, 8000)
    assert int(out) * 1024 < (64 << 20) + 500e6


HELP = """
import sys
import emcl_plugin
from emcl_plugin.cli.main import command
for name in command.commands:
    command.main([name, '--help'], standalone_mode=False)
"""
API = "import sys; from emcl_plugin import rerank\n"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (HELP, "torch numpy scipy matplotlib safetensors fastapi uvicorn faiss ot sklearn"),
        pytest.param(API, "faiss ot matplotlib scipy sklearn", marks=pytest.mark.slow),
    ],
    ids=["help", "API"],
)
def test_nothing_heavy_is_loaded_in_vain(code, heavy):
    code += f"found = set({heavy.split()}) & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", command.commands)
def test_help_shows_options_and_examples(emcl, name):
    result = emcl(name, "--help")
    assert result.words == ""
    assert "Examples:" in result.out
    assert f"  emcl-rerank {name}" in result.out
    assert emcl(name, "-h").out == result.out
    assert re.search(rf"^  {name} ", emcl("--help").out, re.M)


def test_help_names_every_option_and_examples(emcl):
    words = emcl("--help").out
    for name in ("--text", "--temperature", "--guard / --no-guard", "Examples:", "demo"):
        assert name in words
    assert "0.1.0" in emcl("--version").out
