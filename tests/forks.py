"""The program, started at once, so that thousands of runs can be tried.

It is forked from a process that has loaded torch and used it for nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Run:
    """One run: what it prints, and how it ends."""

    def __init__(self, server, pid, out, err):
        self.server, self.pid, self.status = server, pid, None
        self._out, self._err = out, err

    @property
    def out(self):
        return self._out.read_text("utf-8", "replace")

    @property
    def err(self):
        return self._err.read_text("utf-8", "replace")

    def ends(self, within=60.0):
        """Whether it ends within so many seconds; then ``status`` is that of a shell."""
        until = time.monotonic() + within
        while self.status is None:
            self.status = self.server.ask({"status of": self.pid})
            if self.status is None:
                if time.monotonic() > until:
                    return False
                time.sleep(0.002)
        return True

    def send(self, number):
        """Send a signal, if it still runs."""
        if not self.ends(0):
            os.kill(self.pid, number)


class Forks:
    """A process that forks runs.

    ``environment`` is that of all runs; a value of None takes a name out of it.
    """

    def __init__(self, **environment):
        kept = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={name: value for name, value in kept.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.printed = tempfile.TemporaryDirectory()
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=60)
        self.printed.cleanup()

    def ask(self, what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments, cwd, before=""):
        """Start ``emcl-rerank`` with these arguments; ``before`` is Python that runs first."""
        self.count += 1
        out, err = (Path(self.printed.name, f"{self.count}.{name}") for name in ("out", "err"))
        job = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "before": before}
        return Run(self, self.ask({**job, "out": str(out), "err": str(err)}), out, err)

    def run(self, *arguments, cwd, before="", within=60.0):
        """As :meth:`start`, to its end."""
        run = self.start(*arguments, cwd=cwd, before=before)
        if not run.ends(within):
            run.send(signal.SIGKILL)
            raise TimeoutError(f"{arguments}: {run.err}")
        return run


def _serve():
    import numpy.random  # noqa: F401  this and torch are loaded once for all runs

    from emcl_plugin import tune  # noqa: F401
    from emcl_plugin.bank import both_directions  # noqa: F401
    from emcl_plugin.cli import inputs, outputs, rerank, show  # noqa: F401
    from emcl_plugin.cli import main as program
    from emcl_plugin.evaluation import ablation  # noqa: F401
    from emcl_plugin.index import export  # noqa: F401
    from emcl_plugin.scores import candidates  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    begin = program.__globals__["files_of_a_run"]

    def begun(files):  # before this there is no program yet that could say what it did
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        return begin(files)

    program.__globals__["files_of_a_run"] = begun

    running = set()
    for line in sys.stdin:
        job = json.loads(line)
        if "status of" in job:
            ended, status = os.waitpid(job["status of"], os.WNOHANG)
            running.discard(ended)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
            continue
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            running.add(pid)
            print(pid, flush=True)
            continue
        os.chdir(job["cwd"])
        for handle, name in enumerate(("/dev/null", job["out"], job["err"])):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if handle else os.O_RDONLY
            os.dup2(os.open(name, flags), handle)
        os.closerange(3, 64)
        words = (word.encode() for word in job["arguments"])
        sys.argv = ["emcl-rerank", *map(os.fsdecode, words)]
        exec(job["before"], {})
        _end(program)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _end(main):
    """Run it and end as the interpreter does, but for taking torch down, which takes a second."""
    try:
        main()
    except SystemExit as end:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    _serve()
