"""The `emcl-rerank` command: bare options run the main job, sub-commands do the rest."""

from __future__ import annotations

import _thread
import atexit
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from emcl_plugin.cli import options as opt
from emcl_plugin.cli import processes, streams
from emcl_plugin.cli.apply import apply_command
from emcl_plugin.cli.compare import compare_command
from emcl_plugin.cli.config import RunConfig
from emcl_plugin.cli.demo import demo
from emcl_plugin.cli.eval import evaluate_command
from emcl_plugin.cli.export import export_command
from emcl_plugin.cli.fit import fit_command
from emcl_plugin.cli.method import method_options
from emcl_plugin.cli.saved import show_command
from emcl_plugin.cli.serve import serve_command
from emcl_plugin.cli.tune import tune_command
from emcl_plugin.errors import EmclError, escaped, ran_out_of_memory
from emcl_plugin.io.seen import Files, files_of_a_run
from emcl_plugin.version import __version__

EPILOG = """\b
Examples:
  emcl-rerank demo
  emcl-rerank --text t.npy --video v.npy
  emcl-rerank --text run.npz:text --video run.npz:video
  emcl-rerank --sim sims.npy --output better.npy --json
  emcl-rerank --text t.npy --video v.npy --gt diagonal --report out.html
  emcl-rerank --text t.npy --video v.npy --run best.csv --top 10
  emcl-rerank --from mmt MSRVTT-test-sims.npy --trust-pickle
  emcl-rerank --text t.npy --video v.npy --text-bank tb.npy --video-bank vb.npy
  emcl-rerank --text t.npy --video v.npy --sim sims.npy --memory 2G

Every option can also be set by an environment variable: EMCL_RERANK_TEXT for --text and so on.
Exit status: 0 success, 1 failure, 2 wrong usage.
"""


class _Commands(opt.Sections, click.Group):
    """Sub-commands; explains stray file arguments."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and Path(args[0]).suffix:
            raise opt.wrong_usage(
                f"unexpected argument {args[0]}: pass files with options, as in --text t.npy"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "EMCL_RERANK",
        "max_content_width": 100,
    },
    epilog=EPILOG,
)
@opt.input_options
@opt.bank_options
@opt.candidate_options
@method_options
@opt.truth_options
@opt.measure_options
@opt.report_options
@opt.device_options
@opt.output_options
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Better text-video retrieval from the embeddings or scores you already have.

    Give embeddings (--text, --video), a similarity matrix (--sim, texts x videos), or both: .npy,
    .npz, .safetensors, .pt, .parquet, .h5, .mat, .fvecs, .csv or .jsonl, 'file:name' for one array
    of several, a folder of parts, a URL, or - for standard input; or the output of a retriever
    (--from). The re-scored matrix goes to --output, the best results of each query to --run, a
    summary to standard error. No training, no labels; without evidence of hubs the scores stay as
    they are.
    """
    processes.check_environment()
    if context.invoked_subcommand is not None and processes.count() > 1:
        raise opt.wrong_usage(
            f"{context.invoked_subcommand} runs in one process: start it without torchrun"
        )
    if context.invoked_subcommand is None:
        config = RunConfig.from_options(context, **options)

        from emcl_plugin.cli.rerank import run_rerank

        run_rerank(config)
        return
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name is not None
        and context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise opt.wrong_usage(
            f"{', '.join(given)} does not go with the sub-command {context.invoked_subcommand}"
        )


for sub_command in (
    demo,
    evaluate_command,
    compare_command,
    fit_command,
    tune_command,
    apply_command,
    show_command,
    export_command,
    serve_command,
):
    command.add_command(sub_command)


def main() -> NoReturn:
    """Run the command line; errors become messages and exit statuses, never tracebacks."""
    files = Files()
    try:
        streams.open_all()
        _listen()
        with files_of_a_run(files):
            command.main(prog_name="emcl-rerank", standalone_mode=False)
        sys.stdout.flush()
        _end(0)
    except click.ClickException as error:
        if processes.is_first():
            vars(error)["message"] = "\n".join(map(escaped, error.message.split("\n")))
            error.show()
        _end(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        there = ", ".join(map(escaped, files.written))
        words = f"interrupted; written before: {there}" if there else None
        several = processes.count() > 1
        _fail(words or processes.INTERRUPTED[several], told=not processes.is_first())
    except EmclError as error:
        _fail(str(error), files, told=error.told)
    except Exception as error:
        if os.environ.get("EMCL_RERANK_DEBUG"):
            raise
        words = str(error)
        if ran_out_of_memory(error):
            advice = "give --memory, for example 1G, or --device cpu"
            received = words.partition("\n")[0] or "this input"
            _fail(_THREE.format("out of memory", received, advice), files)
        if isinstance(error, OSError):
            if error.filename is None:  # standard output, as where its disk is full
                streams.drop_output()
            _fail(_THREE.format("reading or writing failed", words, _REFUSED), files)
        _fail(
            _THREE.format(
                "internal error",
                escaped(f"{type(error).__name__}: {words}"),
                "please report it; EMCL_RERANK_DEBUG=1 shows the traceback",
            ),
            files,
        )


_ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_THREE = "{}\n  received: {}\n  to do:    {}"
_REFUSED = "check that file and its disk, or where standard output goes"


def _fail(message: str, files: Files | None = None, *, told: bool = False) -> NoReturn:
    if files is not None and files.written:
        message += f"\n  written before: {', '.join(map(escaped, files.written))}"
    if not told:
        which = "" if processes.is_first() else f" in process {os.environ['RANK']}"
        click.echo(f"Error{which}: {message}", err=True)
    _end(1)


def _listen() -> None:
    """Treat signals as Ctrl-C, except ignored ones (nohup)."""
    for number in _ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _again


def _end(status: int) -> NoReturn:
    atexit.register(_no_longer)  # runs before what libraries have registered
    sys.exit(status)


def _no_longer() -> None:
    """Ignore signals from now on: the run is over."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


class _Interrupted(KeyboardInterrupt):
    """Own class: a bare KeyboardInterrupt after an ``exec`` overrides the exit status."""


_heard = -math.inf


def _interrupt(number: int, _: object) -> None:
    """Stop the work; further signals within a second do not disturb the clean-up."""
    global _heard
    now = time.monotonic()
    if now - _heard > 1:
        _heard = now
        raise _Interrupted(number)


def _again(lost: sys.UnraisableHookArgs) -> None:
    """Raise again a signal that arrived where nothing can be raised, as in a destructor."""
    global _heard
    if isinstance(lost.exc_value, _Interrupted):
        _heard = -math.inf
        threading.Timer(0.01, _thread.interrupt_main, lost.exc_value.args).start()
    else:
        sys.__unraisablehook__(lost)
