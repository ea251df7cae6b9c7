"""The `emcl-rerank` command: bare options run the main job, sub-commands do the rest."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import click

from emcl_plugin import __version__
from emcl_plugin.cli import processes
from emcl_plugin.cli.apply import apply_command
from emcl_plugin.cli.compare import compare_command
from emcl_plugin.cli.demo import demo
from emcl_plugin.cli.eval import evaluate_command
from emcl_plugin.cli.export import export_command
from emcl_plugin.cli.fit import fit_command
from emcl_plugin.cli.options import (
    bank_options,
    candidate_options,
    device_options,
    input_options,
    measure_options,
    method_options,
    output_options,
    report_options,
    truth_options,
)
from emcl_plugin.cli.rerank import run_rerank
from emcl_plugin.cli.saved import show_command
from emcl_plugin.cli.serve import serve_command
from emcl_plugin.cli.tune import tune_command
from emcl_plugin.errors import EmclError
from emcl_plugin.printable import printable

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
Exit status: 0 done, 1 failed, 2 wrong usage.
"""


@click.group(
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "EMCL_RERANK",
        "max_content_width": 100,
    },
    epilog=EPILOG,
)
@input_options
@bank_options
@candidate_options
@method_options
@truth_options
@measure_options
@report_options
@device_options
@output_options
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Better text-video retrieval from the embeddings or scores you already have.

    Give embeddings (--text, --video), a similarity matrix (--sim, texts x videos), or both: .npy,
    .npz, .safetensors, .pt, .parquet, .h5, .mat, .fvecs, .csv or .jsonl, 'file:name' for one array
    of several, a folder of parts, an address, or - for standard input; or what a retriever wrote
    (--from). The re-scored matrix goes to --output, the best of every query to --run, a summary to
    standard error. No training, no labels, and nothing is applied where it would not help.
    """
    processes.check_environment(context)
    if context.invoked_subcommand is not None and processes.count() > 1:
        raise click.UsageError(
            f"{context.invoked_subcommand} runs in one process: start it without torchrun"
        )
    if context.invoked_subcommand is None:
        run_rerank(context, **options)
        return
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name is not None
        and context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"{', '.join(given)} cannot go with the sub-command {context.invoked_subcommand}"
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
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command.main(prog_name="emcl-rerank", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        if processes.is_first():
            vars(error)["message"] = "\n".join(map(printable, error.message.split("\n")))
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail(processes.INTERRUPTED[processes.count() > 1], told=not processes.is_first())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EmclError as error:
        _fail(str(error), told=error.told)
    except MemoryError:
        _fail(_THREE.format("the memory ran out", "this input", "give --memory, for example 1G"))
    except Exception as error:
        if os.environ.get("EMCL_RERANK_DEBUG"):
            raise
        if "out of memory" in str(error).lower():
            advice = "give --memory, for example 1G, or --device cpu"
            _fail(_THREE.format("the memory ran out", str(error).splitlines()[0], advice))
        _fail(
            _THREE.format(
                "an error of this program, not of yours",
                printable(f"{type(error).__name__}: {error}"),
                "please report it; EMCL_RERANK_DEBUG=1 shows where it comes from",
            )
        )
    sys.exit(0)


_THREE = "{}\n  received: {}\n  to do:    {}"


def _fail(message: str, *, told: bool = False) -> NoReturn:
    if not told:
        which = "" if processes.is_first() else f" in process {os.environ['RANK']}"
        click.echo(f"Error{which}: {message}", err=True)
    sys.exit(1)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
