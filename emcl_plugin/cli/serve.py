"""`emcl-rerank serve`: a saved corrector over HTTP, to try it."""

from __future__ import annotations

from pathlib import Path

import click

from emcl_plugin.cli import options as opt


@click.command(
    "serve",
    epilog="\b\nExamples:\n  emcl-rerank serve fitted\n  emcl-rerank serve fitted --port 0\n"
    "  emcl-rerank serve fitted --host 0.0.0.0 --max-k 100",
)
@click.argument("folder", metavar="DIR", type=opt.PATH)
@opt.option(
    "--host",
    "Address to listen on. There is no authentication: by default only this machine can connect.",
    default="127.0.0.1",
)
@opt.option(
    "--port", "Port to listen on; 0 picks a free one.", click.IntRange(0, 65535), default=8000
)
@opt.number("--max-k", "Maximum number of results per request.", default=1000)
@opt.device_option
def serve_command(folder: Path, host: str, port: int, max_k: int, device: str) -> None:
    """Answer queries over HTTP with the corrector saved in DIR.

    POST /search takes {"vector": [...], "k": 10} and returns the best items, GET /healthz
    describes what is served, and GET / is a page to try it in a browser. Ctrl+C stops it.
    """
    from emcl_plugin.errors import InputValueError
    from emcl_plugin.reranker import Reranker

    try:
        from emcl_plugin.service.app import serve
    except ModuleNotFoundError as error:
        problem = "a package that the service needs is not installed"
        raise InputValueError(problem, str(error), 'pip install "emcl-plugin[serve]"') from None
    reranker = Reranker.from_pretrained(folder, device=device)
    serve(reranker, host, port, max_k=max_k)
