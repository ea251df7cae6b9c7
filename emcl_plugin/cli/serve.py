"""`emcl-rerank serve`: a saved corrector over HTTP, to try it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "serve",
    epilog="\b\nExamples:\n  emcl-rerank serve fitted\n  emcl-rerank serve fitted --port 0\n"
    "  emcl-rerank serve fitted --host 0.0.0.0 --max-k 100",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at. There is no authentication: by default only this machine gets in.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--max-k",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Most results that a request may ask for.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
def serve_command(folder: Path, host: str, port: int, max_k: int, device: str) -> None:
    """Answer queries over HTTP with the corrector that was saved in DIR.

    POST /search takes {"vector": [...], "k": 10} and gives the best items, GET /healthz tells
    what is served, and GET / is a page to try it in a browser. Ctrl+C ends it.
    """
    from emcl_plugin.errors import InputValueError
    from emcl_plugin.reranker import Reranker

    try:
        from emcl_plugin.service.app import serve
    except ModuleNotFoundError as error:
        raise InputValueError(
            "a package that the service needs is not installed",
            str(error),
            'pip install "emcl-plugin[serve]"',
        ) from None
    reranker = Reranker.from_pretrained(folder, device=device)
    serve(reranker, host, port, max_k=max_k)
