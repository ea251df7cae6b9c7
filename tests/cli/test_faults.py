"""Faults, injected for real: what is promised is a whole result or none, and one message.

Signals, full and read-only disks, little memory, files that change, streams that are gone, odd
locales.

The random kills of a thousand jobs are in campaigns/kills.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

import emcl_plugin
from emcl_plugin import Reranker
from emcl_plugin._internal.arrays import read_rows, read_tile
from emcl_plugin.cli.show import Progress
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import InputFileError
from emcl_plugin.io.formats import read_array
from emcl_plugin.io.write import write_scores

SIDES = ["--text", "t.npy", "--video", "v.npy", "-q"]
BANK = ["--text-bank", "tb.npy", "--video", "v.npy"]
FIT = ["fit", *BANK, "-q"]
_FLOAT, _CPU = torch.float32, torch.device("cpu")
NAMES = ["größe 大", "Ĳssel", "кот", "a\u0301"] * 75


@pytest.fixture(scope="module")
def forks():
    with Forks() as started:
        yield started


@pytest.fixture(scope="module")
def made(forks, tmp_path_factory):
    """The inputs, and what an undisturbed run makes of them."""
    home = tmp_path_factory.mktemp("made")
    data = load_demo()
    sides = {"t": data.text, "v": data.video, "tb": data.text_bank, "vb": data.video_bank}
    for name, array in sides.items():
        np.save(home / f"{name}.npy", array[:300])
    Path(home, "names.txt").write_text("\n".join(NAMES), "utf-8")
    fitted = Reranker().fit(data.text_bank[:300], data.video[:300], names=NAMES)
    fitted.save_pretrained(home / "fitted")
    assert forks.run(*SIDES, "-o", "wanted.npy", cwd=home).status == 0
    return home


@pytest.fixture
def home(made, tmp_path):
    folder = tmp_path / "home"
    shutil.copytree(made, folder)
    return folder


def new(home):
    """Names of what is there and was not."""
    known = {"t.npy", "v.npy", "tb.npy", "vb.npy", "names.txt", "fitted", "wanted.npy"}
    return sorted(path.name for path in home.iterdir() if path.name not in known)


def told(run, *words, status=1):
    """One message in plain words, and this status."""
    assert run.status == status, run.err
    assert "Traceback" not in run.err
    assert "internal error" not in run.err
    assert run.err.count("Error: ") == (status != 0), run.err
    for word in words:
        assert word in run.err


def whole(home, name="out.npy"):
    return (home / name).read_bytes() == (home / "wanted.npy").read_bytes()


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.15])
@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGTERM] * 2],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "several"],
)
def test_a_signal_at_any_moment(forks, home, numbers, moment):
    (home / "out.npy").write_text("older")
    run = forks.start(*SIDES, "-o", "out.npy", "--force", cwd=home)
    time.sleep(moment)
    for number in numbers:
        run.send(number)
        time.sleep(0.002)
    assert run.ends()
    assert new(home) == ["out.npy"]
    if run.status == 0:
        assert whole(home)
        assert run.err == ""
    elif whole(home):
        told(run, "Error: interrupted; written before: out.npy")
    else:
        told(run, "Error: interrupted; nothing was written")
        assert (home / "out.npy").read_text() == "older"


STOP_WHEN_NAMED = """
import os, signal
from pathlib import Path
replace, link = Path.replace, os.link
def stop(done):
    if "out.npy" in str(done[-1]):
        os.kill(os.getpid(), signal.SIGINT)
Path.replace = lambda *names: [replace(*names), stop(names)]
os.link = lambda *names: [link(*names), stop(names)]
"""


@pytest.mark.parametrize("more", [[], ["--force"], ["--resume", "run.safetensors"]])
def test_an_interruption_after_the_result_got_its_name_says_so(forks, home, more):
    run = forks.run(*SIDES, "-o", "out.npy", *more, cwd=home, before=STOP_WHEN_NAMED)
    told(run, "interrupted; written before: ", "out.npy")
    assert whole(home)
    assert not [name for name in new(home) if name.startswith(".")]


LOST = """
import os, signal
from emcl_plugin.pipeline.job import Job
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
correct = Job.correct
Job.correct = lambda *given, **named: [Last() and None, correct(*given, **named)][1]
"""


def test_a_signal_in_a_destructor_is_not_lost(forks, home):
    """There Python can raise nothing, and would say so and go on."""
    run = forks.run(*SIDES, "-o", "out.npy", cwd=home, before=LOST)
    told(run, "Error: interrupted; nothing was written")
    assert "ignored" not in run.err
    assert new(home) == []


def test_a_hangup_that_is_ignored_ends_nothing(forks, home):
    """As under nohup."""
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    run = forks.start(*SIDES, "-o", "out.npy", cwd=home, before=ignored)
    for _ in range(20):
        run.send(signal.SIGHUP)
        time.sleep(0.01)
    assert run.ends()
    told(run, status=0)
    assert whole(home)


# --- disks ----------------------------------------------------------------------------------------

FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize(
    ("room", "left", "command"),
    [
        (250_000, ["out.npy"], [*SIDES, "-o", "out.npy", "--gt", "diagonal", "--report", "r.html"]),
        (20_000, [], [*FIT, "--save", "out"]),
        (20_000, [], [*FIT, "--save", "fitted", "--force"]),
        (20_000, [], ["tune", *BANK, "--video-bank", "vb.npy", "--save", "out", "--budget", "1"]),
        (20_000, [], ["apply", "fitted", "--text", "t.npy"]),
        (20_000, [], ["apply", "fitted", "--text", "t.npy", "--top", "10"]),
        (20_000, [], ["export", "fitted", "--to", "faiss", "-o", "out"]),
        (20_000, [], ["export", "fitted", "--to", "npy", "-o", "out"]),
        (20_000, [], ["export", "fitted", "--to", "parquet", "-o", "out"]),
        (20_000, [], ["export", "fitted", "--to", "qdrant", "-o", "out"]),
        (20_000, [], ["export", "fitted", "--queries", "t.npy", "--queries-output", "out.npy"]),
        (20_000, ["mine"], ["demo", "--save", "mine"]),
    ],
    ids=lambda x: " ".join(x[:4]) if isinstance(x, list) and x[1:] else None,
)
def test_a_full_disk(forks, home, made, room, left, command):
    run = forks.run(*command, cwd=home, before=FULL.format(room))
    told(run, "nothing was written")
    assert new(home) == left
    assert not left or not list(home.glob("mine/*"))
    if left == ["out.npy"]:
        assert "r.html: File too large" in run.err
        assert "written before: out.npy" in run.err
        assert whole(home)
    for file in (home / "fitted").iterdir():
        assert file.read_bytes() == (made / "fitted" / file.name).read_bytes()


@pytest.fixture
def disk(home):
    """Mounts a small disk."""
    folder = home / "disk"
    folder.mkdir()
    mounted = []

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(folder)

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([*SIDES, "-o", "disk/out.npy"], " needed"),
        ([*SIDES, "--run", "disk/out.csv"], "disk/out.csv: No space left on device"),
        ([*FIT, "--save", "disk/out"], " needed"),
    ],
)
def test_a_disk_that_is_really_full(forks, home, disk, command, words):
    disk("size=64k")
    told(forks.run(*command, cwd=home), "the disk is full; nothing was written", words)
    assert not list((home / "disk").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        [*SIDES, "-o", "disk/out.npy"],
        [*SIDES, "-o", "out.npy", "--resume", "disk/run.safetensors"],
        [*SIDES, "-o", "out.npy", "--gt", "diagonal", "--plots", "disk/plots"],
        [*FIT, "--save", "disk/out"],
        ["demo", "--save", "disk/out"],
    ],
)
def test_a_read_only_disk_is_found_before_the_work(forks, home, disk, command):
    disk("ro")
    run = forks.run(*command, cwd=home)
    told(run, "ead-only")
    assert new(home) == ["disk"]


HERE = Path(emcl_plugin.__file__).resolve()


@pytest.mark.skipif(
    os.getuid() != 0 or any(not folder.stat().st_mode & 1 for folder in HERE.parents),
    reason="only root can become somebody else, who must be able to read the package",
)
def test_a_folder_of_somebody_else(forks, home):
    for folder in home.parents:
        if not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o111)
    home.chmod(0o755)
    nobody = "import os; os.setgid(65534); os.setuid(65534)"
    told(forks.run(*SIDES, "-o", "out.npy", cwd=home, before=nobody), "folder is read-only")
    assert new(home) == []


VANISHES = """
import os, shutil, tempfile
from emcl_plugin.io import atomic
def first(make):
    def made(*given, **named):
        shutil.rmtree("sub", ignore_errors=True)
        return make(*given, **named)
    return made
{0} = first({0})
"""


@pytest.mark.parametrize("command", [[*SIDES, "-o", "sub/out.npy"], [*FIT, "--save", "sub/out"]])
@pytest.mark.parametrize("when", ["tempfile._sanitize_params", "os.fsync", "atomic.now_placed"])
def test_the_folder_vanishes(forks, home, command, when):
    (home / "sub").mkdir()
    run = forks.run(*command, cwd=home, before=VANISHES.format(when))
    told(run, "writing failed; nothing was written", "check that the folder still exists")
    assert new(home) == []


# --- what the name of an output may be ------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, there):
    (tmp_path / "big").mkdir()
    real, link = tmp_path / "big" / "real.npy", tmp_path / "link.npy"
    link.symlink_to("big/real.npy")
    if there:
        real.write_text("older")
        with pytest.raises(InputFileError, match="exists already"):
            write_scores(link, np.eye(2))
    write_scores(link, np.eye(2), force=there)
    assert link.is_symlink()
    assert_array_equal(np.load(real), np.eye(2))
    assert [path.name for path in real.parent.iterdir()] == ["real.npy"]


def test_a_pipe_or_device_is_no_place_for_a_result(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "null.npy").symlink_to("/dev/null")
    for name in ("pipe.npy", "null.npy"):
        with pytest.raises(InputFileError, match="a pipe or a device"):
            write_scores(tmp_path / name, np.eye(2), force=True)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 252 + ".npy", "name is too long"),
        ("loop.npy", "appeared"),
        ("f.npy/x.npy", "create it"),
    ],
)
def test_names_that_cannot_be(forks, home, name, words):
    (home / "loop.npy").symlink_to("loop.npy")
    (home / "f.npy").write_text("a file")
    told(forks.run(*SIDES, "-o", name, cwd=home), words)
    assert new(home) == ["f.npy", "loop.npy"]


def test_the_demo_replaces_nobodys_files(forks, home):
    (home / "text.npy").write_text("mine")
    told(forks.run("demo", "--save", ".", cwd=home), "a different file of this name exists")
    assert new(home) == ["text.npy"]
    for _ in range(2):  # its own it may
        told(forks.run("demo", "--save", "again", cwd=home), status=0)


# --- memory ---------------------------------------------------------------------------------------

LITTLE = """
import resource
used = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + ({0} << 20),) * 2)
"""


@pytest.mark.parametrize("room", [3, 20])
@pytest.mark.parametrize(
    "command", [["--sim", "s.npy", "-q"], ["fit", *BANK, "--save", "out", "-q"]]
)
def test_little_memory_is_told_with_advice(forks, home, command, room):
    scores = np.random.default_rng(0).standard_normal((3000, 300), "float32")
    np.save(home / "s.npy", scores)
    np.save(home / "tb.npy", np.resize(load_demo().text_bank.astype("float32"), (9000, 128)))
    run = forks.run(*command, cwd=home, before=LITTLE.format(room))
    told(run, "out of memory", "give --memory")
    assert new(home) == ["s.npy"]


# --- inputs that change ---------------------------------------------------------------------------

MEANWHILE = """
import os, tempfile
import numpy as np
def before(make):
    def made(*given, **named):
        if os.path.exists("t.npy"):
            {0}
        return make(*given, **named)
    return made
tempfile.mkstemp, tempfile.mkdtemp = before(tempfile.mkstemp), before(tempfile.mkdtemp)
"""
CHANGES = {
    "cut short": "os.truncate('t.npy', 5000)",
    "changed": "file = open('t.npy', 'r+b'); file.seek(-1, 2); file.write(b'x'); file.close()",
    "replaced": "np.save('new.npy', np.ones((300, 128))); os.replace('new.npy', 't.npy')",
    "removed": "os.unlink('t.npy')",
}
OUTPUTS = {
    "out.npy": [*SIDES, "-o", "out.npy"],
    "out.csv": [*SIDES, "--run", "out.csv"],
    "out": ["fit", "--text-bank", "t.npy", "--video", "v.npy", "--save", "out", "-q"],
    "scores.npy": ["apply", "fitted", "--text", "t.npy", "-q"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_input_that_changes_while_it_is_read(forks, home, change, output):
    """Written in place it gives no result; replaced or removed it is still read as it was."""
    run = forks.run(*OUTPUTS[output], cwd=home, before=MEANWHILE.format(CHANGES[change]))
    if change in ("replaced", "removed"):
        told(run, status=0)
        assert output in new(home)
        assert output != "out.npy" or whole(home)
    else:
        told(run, "while it was read; nothing was written", "t.npy")
        assert new(home) == []


def test_rows_of_a_file_that_was_cut_short_are_refused_in_every_form(tmp_path):
    """The system would kill whoever reads on."""
    array = np.ones((4000, 100), "float32")
    np.save(tmp_path / "a.npy", array)
    np.hstack([np.full((4000, 1), 100, "<i4").view("<f4"), array]).tofile(tmp_path / "a.fvecs")
    for name in ("a.npy", "a.fvecs"):
        mapped = read_array(tmp_path / name)
        for x in (mapped, mapped[10:], mapped.T):
            read_rows(x, 0, 2, _FLOAT, _CPU)
        os.truncate(tmp_path / name, 5000)
        for x in (mapped, mapped[10:], mapped.T):
            with pytest.raises(InputFileError, match="cut short while it was read"):
                read_rows(x, 0, 2, _FLOAT, _CPU)
            with pytest.raises(InputFileError, match="cut short while it was read"):
                read_tile(x, 0, 2, (4000, 4000), _FLOAT, _CPU)


def test_a_file_that_its_library_maps_and_somebody_cuts_short(forks, home):
    """The system ends the run (SIGBUS), or the run its reading: no result either way."""
    save_file({"t": np.resize(np.load(home / "t.npy"), (9000, 128))}, home / "t.safetensors")
    before = MEANWHILE.format("os.truncate('t.safetensors', 5000)").replace(
        "tempfile.mkstemp, tempfile.mkdtemp = before(tempfile.mkstemp), before(tempfile.mkdtemp)",
        "from emcl_plugin.pipeline.job import Job; Job.correct = before(Job.correct)",
    )
    run = forks.run("--text", "t.safetensors", *SIDES[2:], "-o", "out.npy", cwd=home, before=before)
    assert run.status in (1, -signal.SIGBUS)
    assert new(home) == ["t.safetensors"]


BROKEN = """
from emcl_plugin.pipeline.job import Job
def correct(*_, **__):
    raise ZeroDivisionError("\\x1b[2Jby zero")
Job.correct = correct
"""


def test_an_error_of_the_program_is_told_as_one(forks, home):
    """And where it comes from is shown only to those who ask."""
    run = forks.run(*SIDES, "-o", "out.npy", cwd=home, before=BROKEN)
    first, received, advice = run.err.splitlines()
    assert (run.status, first) == (1, "Error: internal error")
    assert received == r"  received: ZeroDivisionError: \x1b[2Jby zero"
    assert "EMCL_RERANK_DEBUG=1" in advice
    asked = "import os; os.environ['EMCL_RERANK_DEBUG'] = '1'"
    run = forks.run(*SIDES, "-o", "out.npy", cwd=home, before=BROKEN + asked)
    assert run.err.startswith("Traceback")
    assert new(home) == []


# --- streams, environment, locales ----------------------------------------------------------------

STATES = {
    "closed": "os.close({0})",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), {0})",
    "broken": "a, b = os.pipe(); os.close(a); os.dup2(b, {0})",
}


def streams(**states):
    lines = ["import os, sys"]
    for name, state in states.items():
        number = ("stdin", "stdout", "stderr").index(name)
        lines.append(STATES[state].format(number))
        if state == "closed":
            lines.append(f"sys.{name} = sys.__{name}__ = None")
    return "\n".join(lines)


@pytest.mark.parametrize("state", STATES)
def test_nobody_hears_the_words_and_the_result_is_there(forks, home, state):
    run = forks.run(*SIDES[:-1], "-v", "-o", "out.npy", cwd=home, before=streams(stderr=state))
    assert (run.status, run.err) == (0, "")
    assert whole(home)


@pytest.mark.parametrize(
    ("state", "status", "words"), [("closed", 0, ""), ("full", 1, "No space"), ("broken", 1, "")]
)
def test_the_report_cannot_be_printed_and_the_result_is_there(forks, home, state, status, words):
    run = forks.run(*SIDES, "-o", "out.npy", "--json", cwd=home, before=streams(stdout=state))
    assert (run.status, bool(run.err)) == (status, bool(words))
    if words:
        told(run, words, "written before: out.npy")
    assert whole(home)


def test_no_stream_at_all(forks, home):
    """What is opened first would get the numbers of the streams, and a library's words."""
    noisy = """
from emcl_plugin.pipeline.job import Job
blocks = Job.blocks
Job.blocks = lambda *given: [os.write(1, b"noise"), os.write(2, b"noise"), blocks(*given)][2]
"""
    closed = streams(stdin="closed", stdout="closed", stderr="closed")
    run = forks.run(*SIDES, "-o", "out.npy", "--json", cwd=home, before=closed + noisy)
    assert (run.status, run.out, run.err) == (0, "", "")
    assert whole(home)


@pytest.mark.slow
def test_the_interpreter_ends_in_silence_where_its_output_is_full(home):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emcl_plugin", "show", "fitted"],
            cwd=home, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.stderr.startswith("Error: reading or writing failed")
    assert (done.stderr.count("\n"), done.returncode) == (3, 1)


@pytest.mark.parametrize(("form", "shown"), [("xterm", True), ("dumb", False)])
def test_a_terminal_that_knows_no_signs_gets_no_bar(monkeypatch, form, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", form)
    assert Progress(enabled=True).enabled is shown


def test_a_bar_is_drawn_after_a_second_and_wiped_off(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(enabled=True) as bar:
        bar.update("search text", 1, 3)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("time.monotonic", lambda: float("inf"))
        bar.update("search text", 1, 3)
        assert re.search("search text .* 33 %", capsys.readouterr().err)
        bar.update("sinkhorn", 7, 100)
        assert "iteration 7" in capsys.readouterr().err
        assert list(bar.rows("write", iter(["ab", "c"]), 3)) == ["ab", "c"]
        assert re.search(r"write .* 100 %\n.*\x1b\[2K$", capsys.readouterr().err)
        bar.update("sinkhorn", 8, 100)
    assert re.search(r"iteration 8\n.*\x1b\[2K$", capsys.readouterr().err)


def test_a_terminal_one_column_wide(forks, home):
    narrow = "import os; os.environ.update(COLUMNS='1', TERM='dumb', NO_COLOR='1')"
    told(forks.run("--help", cwd=home, before=narrow), status=0)
    told(forks.run("show", "fitted", cwd=home, before=narrow), status=0)


NOWHERE = """
import os, tempfile
os.environ.pop("HOME", None)
os.environ["TMPDIR"] = "/nowhere"
tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
"""


def test_without_a_home_and_without_temporary_files(forks, home):
    run = forks.run(*SIDES, "-o", "out.npy", cwd=home, before=NOWHERE)
    told(run, status=0)
    assert whole(home)
    piped = NOWHERE + "os.dup2(os.open('t.npy', os.O_RDONLY), 0)"
    run = forks.run("--text", "-", "--video", "v.npy", cwd=home, before=piped)
    told(run, "No usable temporary directory")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_files_are_utf_8_wherever_one_lives(home):
    """Names of files, ids and captions are in letters that neither locale nor terminal know."""
    ids = "\n".join(f"{i} {name}" for i, name in enumerate(NAMES))
    (home / "ids.txt").write_text(ids, "utf-8")
    with Forks(**ASCII, PYTHONIOENCODING="latin-1") as forks:
        run = forks.run(*SIDES, "--run", "größe.csv", "--text-ids", "ids.txt", cwd=home)
        shown = forks.run("show", "fitted", cwd=home)
        missing = forks.run("--sim", "кот.npy", cwd=home)
        told(run, status=0)
        told(shown, status=0)
        assert "largest hub" in shown.out
        told(missing, "the file does not exist")
    assert "0 größe 大" in (home / "größe.csv").read_text("utf-8")


# --- clocks, and runs beside each other -----------------------------------------------------------

JUMPS = """
import random, time
time.time = lambda: random.uniform(-1e9, 1e10)
"""


@pytest.mark.parametrize(
    "command",
    [[*SIDES[:-1], "-o", "out.npy"], [*SIDES[:-1], "--plan"],
     ["tune", "--text-bank", "tb.npy", "--video-bank", "vb.npy", "--budget", "1"]],
)  # fmt: skip
def test_a_clock_that_is_set_changes_nothing(forks, home, command):
    run = forks.run(*command, cwd=home, before=JUMPS)
    told(run, status=0)
    assert not re.search(r"-\d+(\.\d+)? s\b", run.err)
    assert "-o" not in command or whole(home)


def test_nothing_looks_at_the_clock_on_the_wall():
    for path in Path(emcl_plugin.__file__).parent.rglob("*.py"):
        assert not re.search(r"time\.time\(|datetime\.(now|today)", path.read_text("utf-8")), path


TOGETHER = """
import os, time
from pathlib import Path
from emcl_plugin.io import atomic
placed = atomic.now_placed
def wait(*paths):
    Path(f"ready{os.getpid()}").touch()
    while len(list(Path().glob("ready*"))) < 2:
        time.sleep(0.001)
    placed(*paths)
atomic.now_placed = wait
"""


@pytest.mark.parametrize("command", [[*SIDES, "-o", "out.npy"], [*FIT, "--save", "fitted"]])
@pytest.mark.parametrize("force", [True, False])
def test_two_runs_write_one_output(forks, home, command, force):
    """One whole result stands; without --force, or with folders, one of them may be told."""
    if not force:
        shutil.rmtree(home / "fitted")
    command = [*command, *(["--force"] if force else [])]
    runs = [forks.start(*command, cwd=home, before=TOGETHER) for _ in range(2)]
    assert all(run.ends() for run in runs)
    first, second = sorted(runs, key=lambda run: run.status)
    told(first, status=0)
    told(second, status=second.status)
    assert force or second.status == 1
    if "out.npy" in command:
        assert whole(home)
        assert force == (second.status == 0)
    else:
        assert Reranker.from_pretrained(home / "fitted").corrector_.names == ()
    assert not list(home.glob(".*.part"))


def test_two_runs_keep_one_checkpoint(forks, home):
    """Each goes on from what either has reached, to the same bits."""
    every = "from emcl_plugin.pipeline import checkpoint; checkpoint.SECONDS = 0.0"
    runs = [
        forks.start(*SIDES, "-o", f"{k}.npy", "--resume", "run.safetensors", cwd=home, before=every)
        for k in range(2)
    ]
    assert all(run.ends() for run in runs)
    for k, run in enumerate(runs):
        told(run, status=0)
        assert whole(home, f"{k}.npy")
    assert new(home) == ["0.npy", "1.npy"]
