"""The main job on the command line, run as a person would: right, wrong, interrupted, full disk."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from emcl_plugin import rerank
from emcl_plugin.cli.main import command, main
from emcl_plugin.cli.method import EMCL_NAMES
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl import PRESETS


def run(*arguments, cwd, check=None, **kwargs):
    result = subprocess.run(
        [sys.executable, "-m", "emcl_plugin", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )
    assert "Traceback" not in result.stderr
    if check is not None:
        assert result.returncode == check, result.stderr
    return result


@pytest.fixture
def run_here(folder, monkeypatch, capsys):
    """As :func:`run`, in this process: a new one takes seconds to load torch."""
    monkeypatch.chdir(folder)
    terminated = signal.getsignal(signal.SIGTERM)

    def here(*arguments, check):
        monkeypatch.setattr(sys, "argv", ["emcl-rerank", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        assert stopped.value.code == check, said.err
        return said

    yield here
    signal.signal(signal.SIGTERM, terminated)


@pytest.fixture
def folder(tmp_path):
    data = load_demo()
    np.save(tmp_path / "t.npy", data.text)
    np.save(tmp_path / "v.npy", data.video)
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_main_job_with_no_option(folder):
    result = run("--text", "t.npy", "--video", "v.npy", cwd=folder, check=0)
    data = load_demo()
    assert_array_equal(np.load(folder / "reranked.npy"), rerank(None, (data.text, data.video)))
    assert result.stdout == ""
    for words in ("transductive", "converged", "guard", "nobody's top-1", "reranked.npy"):
        assert words in result.stderr
    assert files(folder) == ["reranked.npy", "t.npy", "v.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "folder", "h5", "safetensors"])
def test_the_same_from_other_files(folder, kind):
    text, video = (np.load(folder / name) for name in ("t.npy", "v.npy"))
    names = {"npz": ("x.npz:t", "x.npz:v"), "folder": ("t", "v/*.npy"),
             "h5": ("x.h5:in/t", "x.h5:in/v"),
             "safetensors": ("x.safetensors:t", "x.safetensors:v")}[kind]  # fmt: skip
    if kind == "npz":
        np.savez(folder / "x.npz", t=text, v=video)
    elif kind == "folder":
        for name, x in (("t", text), ("v", video)):
            (folder / name).mkdir()
            for i, part in enumerate(np.array_split(x, 12)):
                np.save(folder / name / f"{i}.npy", part)
    elif kind == "h5":
        with h5py.File(folder / "x.h5", "w") as file:
            file["in/t"], file["in/v"] = text, video
    else:
        save_file({"t": text, "v": video}, folder / "x.safetensors")
    run("--text", names[0], "--video", names[1], cwd=folder, check=0)
    assert_array_equal(np.load(folder / "reranked.npy"), rerank(None, (text, video)))


@pytest.mark.slow
def test_a_missing_name_is_said_with_those_that_are_there(folder):
    np.savez(folder / "x.npz", t=np.ones((2, 3)), v=np.ones((2, 3)))
    result = run("--text", "x.npz", "--video", "x.npz:v", cwd=folder, check=1)
    assert "the file holds several arrays" in result.stderr
    assert "name one: x.npz:t or x.npz:v" in result.stderr
    assert files(folder) == ["t.npy", "v.npy", "x.npz"]


@pytest.mark.slow
def test_json_is_all_of_standard_output(folder):
    result = run("--text", "t.npy", "--video", "v.npy", "--json", "-q", cwd=folder, check=0)
    facts = json.loads(result.stdout)
    assert result.stderr == ""
    assert facts["protocol"] == "transductive"
    assert facts["ncl"]["converged"] is True
    assert facts["output"] == "reranked.npy"
    assert facts["guard"]["after"] > facts["guard"]["before"]


@pytest.mark.slow
def test_every_option_is_read_from_the_environment(folder):
    env = {
        **os.environ,
        "EMCL_RERANK_TEXT": "t.npy",
        "EMCL_RERANK_VIDEO": "v.npy",
        "EMCL_RERANK_OUTPUT": "o.npy",
        "EMCL_RERANK_DTYPE": "float32",
    }
    run(cwd=folder, check=0, env=env)
    assert np.load(folder / "o.npy").dtype == np.float32
    run("demo", cwd=folder, check=0, env=env)  # a sub-command does not mind them


@pytest.mark.slow
def test_options_reach_the_method(run_here):
    def report(*options):
        both = "--text", "t.npy", "--video", "v.npy"
        return json.loads(run_here(*both, "--json", "-q", "--force", *options, check=0).out)

    assert report("--temperature", "0.05")["ncl"]["temperature"] == 0.05
    assert report("--emcl", "off")["emcl"] is None
    assert report("--emcl-strength", "-0.5")["emcl"]["strength"] == -0.5
    assert report("--emcl", "clip2video", "--ncl", "off", "--no-guard")["ncl"] is None
    assert report("--emcl", "mmt-lsmdc", "--no-guard")["emcl"]["strength"] > 0
    assert report("--iterations", "1")["ncl"]["rounds"] == 1
    assert report("--rounds", "1")["ncl"]["rounds"] == 1
    assert report("--no-guard")["guard"]["enabled"] is False
    first = report("--seed", "1", "--subspaces", "8", "--sim", "reranked.npy", "--output", "s.npy")
    again = report("--seed", "1", "--subspaces", "8", "--sim", "reranked.npy", "--output", "s.npy")
    first.pop("seconds"), again.pop("seconds")
    assert first == again


@pytest.fixture
def demo_run(folder, monkeypatch):
    """The matrix, the JSON and what a person sees of a run on the demo data."""
    monkeypatch.chdir(folder)

    def invoke(*options):
        arguments = ["--text", "t.npy", "--video", "v.npy", "--json", "--force", *options]
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
        return np.load("reranked.npy"), json.loads(result.stdout), result.stderr

    return invoke


PRIOR = {
    "mode", "queries", "found_cautiously", "hubs", "evenness", "uniform", "even", "reason",
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
    assert line == f"{prior['reason']}; {applied}"
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


def test_texts_that_count_once_are_told(folder, demo_run):
    """A query asked five times: 945 texts and four copies count as they did without them."""
    text = load_demo().text
    alone = demo_run()[1]["prior"]["queries"]
    np.save(folder / "t.npy", np.concatenate([text, *[text[:1]] * 4]))
    _, facts, words = demo_run()
    queries = facts["prior"]["queries"]
    assert facts["repeated"] == {"texts": 4, "videos": 0}
    assert queries == pytest.approx(alone, abs=0.1)
    assert f"near-duplicates merged: 949 texts count as {queries:.0f}" in words
    assert "Note" not in words


def test_one_file_for_both_sides_is_noted(run_here):
    said = run_here("--text", "v.npy", "--video", "v.npy", "-o", "a.npy", check=0)
    assert "Note: --text and --video are the same file, v.npy" in said.err


@pytest.mark.slow
def test_the_old_name_of_iterations_is_noted(run_here):
    said = run_here("--sim", "t.npy", "--rounds", "3", "-o", "a.npy", check=0)
    assert "Note: --rounds is deprecated, use --iterations\n" in said.err


def test_similarity_alone(folder):
    run("--text", "t.npy", "--video", "v.npy", "-o", "a.npy", cwd=folder, check=0)
    result = run("--sim", "a.npy", "-v", "--memory", "50M", cwd=folder, check=0)
    assert re.search(r"EMCL +off", result.stderr)
    assert "held; about" in result.stderr


@pytest.mark.slow
def test_with_ground_truth_it_measures_and_explains(folder):
    data = load_demo()
    (folder / "names.txt").write_text("\n".join(data.text_names), "utf-8")
    result = run(
        "--text", "t.npy", "--video", "v.npy", "--gt", "diagonal", "--report", "page.html",
        "--plots", "figures", "--text-names", "names.txt", "--check-leak", cwd=folder, check=0,
    )  # fmt: skip
    for words in ("+NCL", "R@10", "95 % interval", "significant", "no rank changes", "page.html"):
        assert words in result.stderr
    page = (folder / "page.html").read_text("utf-8")
    assert data.text_names[0] in page or any(name in page for name in data.text_names)
    assert "<script" not in page
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}


@pytest.mark.slow
def test_texts_without_a_row_in_the_ground_truth_are_counted(folder):
    rows = [f"{row},{row}" for row in range(1, 945)]
    (folder / "gt.csv").write_text("\n".join(["text,video", *rows]), "utf-8")
    result = run("--text", "t.npy", "--video", "v.npy", "--gt", "gt.csv", cwd=folder, check=0)
    assert "not evaluated: 1 of 945 texts, which have no video in gt.csv" in result.stderr


@pytest.fixture
def large(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.standard_normal((6000, 64), "float32"))
    np.save(tmp_path / "v.npy", rng.standard_normal((6000, 64), "float32"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_file(large, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "emcl_plugin", "--text", "t.npy", "--video", "v.npy"],
        cwd=large,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts tests in the background has them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "held; about" in process.stderr.readline()  # the work begins
    time.sleep(0.5)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted; nothing was written" in words
    assert "Traceback" not in words
    assert files(large) == ["t.npy", "v.npy"]


@pytest.mark.parametrize(
    "where", ["emcl_plugin.cli.rerank.ablation", "emcl_plugin.report.page.write_report"]
)
def test_interrupted_measuring_says_that_the_matrix_is_there(folder, monkeypatch, where):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(folder)
    monkeypatch.setattr(where, interrupt)
    arguments = ["--text", "t.npy", "--video", "v.npy", "--gt", "diagonal", "--report", "r.html"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "interrupted while measuring; reranked.npy is written" in result.output
    assert files(folder) == ["reranked.npy", "t.npy", "v.npy"]


def test_published_settings_on_the_command_line_are_those_of_the_package():
    assert ("auto", "off", *PRESETS) == EMCL_NAMES


@pytest.mark.slow
def test_full_disk_leaves_no_file(folder):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    result = run("--text", "t.npy", "--video", "v.npy", cwd=folder, check=1, preexec_fn=limit)
    assert "the disk is full; nothing was written" in result.stderr
    assert files(folder) == ["t.npy", "v.npy"]


@pytest.mark.slow
def test_peak_memory_stays_within_the_budget_plus_500_mb(tmp_path):
    """8000 x 8000 float32: one matrix alone would be 256 MB, the budget is 64 MiB."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "t.npy", rng.standard_normal((8000, 16), "float32"))
    np.save(tmp_path / "v.npy", rng.standard_normal((8000, 16), "float32"))
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


def test_help_is_quick_and_does_not_import_torch():
    code = (
        "import sys\n"
        "import emcl_plugin.cli, emcl_plugin\n"
        "heavy = {'torch', 'faiss', 'ot', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_import_of_the_whole_api_stays_without_optional_packages():
    code = (
        "import sys\n"
        "from emcl_plugin import rerank\n"
        "heavy = {'faiss', 'ot', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_names_every_option_and_examples(tmp_path):
    words = run("--help", cwd=tmp_path, check=0).stdout
    for name in ("--text", "--temperature", "--guard / --no-guard", "Examples:", "demo"):
        assert name in words
    assert "0.1.0" in run("--version", cwd=tmp_path, check=0).stdout
