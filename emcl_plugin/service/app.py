"""HTTP service for trying a fitted corrector: JSON in, JSON out, and a page with a form.

It stores nothing, has no authentication and loads nothing from other hosts. An error is returned
as {"error": {"problem": ..., "received": ..., "to_do": ...}}. Put a reverse proxy in front of it
wherever clients are not trusted: slow clients and rate limits are the proxy's task.
"""

from __future__ import annotations

import asyncio
import copy
import html
import ipaddress
import json
import reprlib
import shlex
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from string import Template
from types import FrameType
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model

from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.errors import InputValueError, one_line
from emcl_plugin.reranker import Reranker
from emcl_plugin.service.errors import HANDLERS, Failure, RefusedError, refused
from emcl_plugin.version import __version__

AT_ONCE = 2
"""Searches that run at the same time; each uses all of torch's threads."""
CONNECTIONS = 256
"""Open connections or running requests from which uvicorn answers 503."""
KEEP_ALIVE = 5
"""Seconds for which an idle connection is kept open after a response."""
GRACE = 8
"""Seconds that running requests may take after a signal; a longer search gets status 503."""
HEAD_BYTES = 1 << 14
"""Maximum size of a request's line and headers, in bytes."""


class Result(BaseModel):
    """One gallery item, with its name if the gallery has names."""

    rank: int
    index: int
    name: str | None = None
    score: float


class Answer(BaseModel):
    """The best items, best first, and the share of the correction that was applied, 0 to 1."""

    protocol: str
    results: list[Result]
    like_the_bank: float


class Health(BaseModel):
    """What is served."""

    status: str
    gallery: int
    dimension: int
    protocol: str
    package_version: str


def create_app(reranker: Reranker, *, max_k: int = 1000, max_body: int = 1 << 20) -> FastAPI:
    """Return the service as an ASGI application: POST /search, GET /healthz, a page at GET /.

    Parameters
    ----------
    reranker : Reranker
        Fitted; otherwise NotFittedError is raised.
    max_k, max_body : int
        Maximum number of results per request, and maximum size of its body in bytes.
        InputValueError is raised if one is below 1.
    """
    if max_k < 1 or max_body < 1:
        got = f"max_k={max_k}, max_body={max_body}"
        raise InputValueError("the limits must be at least 1", got, "leave them out")
    query = _query_model(reranker.corrector_, max_k)
    body = {"content": {"application/json": {"schema": query.model_json_schema()}}}
    app = FastAPI(
        title="emcl_plugin",
        summary="Corrected scores of a query vector against a gallery.",
        version=__version__,
        docs_url=None,  # FastAPI's own pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
    )
    app.state.threads = threads = ThreadPoolExecutor(AT_ONCE, "search")

    @app.post(
        "/search",
        response_model_exclude_unset=True,
        responses={code: {"model": Failure} for code in (400, 413, 415, 422, 500, 503)},
        openapi_extra={"requestBody": {"required": True, **body}},
    )
    async def search(request: Request) -> Answer:
        """Return the k gallery items with the highest corrected scores for a vector."""
        try:
            content = await _body(request, max_body)
            job = partial(_answer, reranker.corrector_, query, content, max_k)
            return await asyncio.get_running_loop().run_in_executor(threads, job)
        except asyncio.CancelledError:
            got = f"a request that took more than {GRACE} seconds"
            raise RefusedError(503, "the service is stopping", got, "try again later") from None

    @app.get("/healthz")
    async def healthz() -> Health:
        """Report that the service is up, and what it serves."""
        corrector = reranker.corrector_
        return Health(
            status="ok",
            gallery=len(corrector),
            dimension=corrector.dimension,
            protocol="bank",
            package_version=__version__,
        )

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        text = _page(reranker.corrector_, f"{request.base_url}search", max_k)
        return HTMLResponse(text, headers={"content-security-policy": _POLICY})

    return app


def _query_model(corrector: Corrector, max_k: int) -> type[Any]:
    """Return the model of a request body: D finite numbers that the gallery's dtype can hold."""
    dtype, dimension = torch.finfo(corrector.gallery.dtype), corrector.dimension
    zero = dtype.tiny * dtype.eps / 2  # and below; half of the smallest number of the dtype
    nonzero: Any = {"anyOf": [{"exclusiveMinimum": zero}, {"exclusiveMaximum": -zero}]}
    number = Annotated[float, Field(ge=-dtype.max, le=dtype.max, allow_inf_nan=False)]
    numbers = Annotated[list[number], FailFast(), Field(min_length=dimension, max_length=dimension)]
    extra = {"contains": nonzero} if corrector.metric == "cosine" else None
    return create_model(
        "Query",
        __config__=ConfigDict(extra="forbid", strict=True),
        vector=(numbers, Field(json_schema_extra=extra)),
        k=(Annotated[int, Field(ge=1, le=max_k)], min(10, max_k)),
    )


def _answer(corrector: Corrector, model: type[Any], content: bytes, max_k: int) -> Answer:
    try:
        query = model.model_validate_json(content)
    except ValidationError as error:
        remedy = f'send {{"vector": [{corrector.dimension} finite numbers], "k": 1 to {max_k}}}'
        raise refused(error, remedy) from None
    vector = torch.tensor([query.vector], dtype=torch.float64)
    scores, indices = corrector.search(vector, min(query.k, len(corrector)))
    if not bool(torch.isfinite(scores).all()):
        raise InputValueError("the scores overflow", "numbers too large", "scale the vector")
    pairs = zip(scores[0].tolist(), indices[0].tolist(), strict=True)
    results = [Result(rank=n, index=i, score=score) for n, (score, i) in enumerate(pairs, 1)]
    for result in results if corrector.names else ():
        result.name = _utf8(corrector.names[result.index])
    gate = next(corrector.vectors(vector))[0, -1]
    return Answer(protocol="bank", results=results, like_the_bank=float(gate))


async def _body(request: Request, limit: int) -> bytes:
    """Return the body of a request if it is JSON and not too large."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        remedy = "add the header content-type: application/json"
        raise RefusedError(415, "the content type is not JSON", reprlib.repr(kind), remedy)
    told = request.headers.get("content-length", "0")[:20]
    length, content = int(told) if told.isdecimal() else 0, bytearray()
    if length <= limit:
        async for part in request.stream():
            content += part
            if len(content) > limit:
                break
    if max(length, len(content)) > limit:
        remedy = "send one vector per request"
        raise RefusedError(413, "the body is too large", f"more than {limit} bytes", remedy)
    return bytes(content)


def _page(corrector: Corrector, url: str, max_k: int) -> str:
    template = resources.files("emcl_plugin") / "service" / "service.html"
    return Template(template.read_text(encoding="utf-8")).substitute(
        items=f"{len(corrector):,}",
        dimension=corrector.dimension,
        version=__version__,
        max_k=max_k,
        k=min(10, max_k),
        example=json.dumps([float(f"{x:.6g}") for x in corrector.gallery[0].tolist()]),
        name=html.escape(one_line(_utf8(corrector.names[0] if corrector.names else ""))),
        curl=html.escape(_CURL.format(shlex.quote(url), corrector.dimension)),
    )


def _utf8(name: str) -> str:
    """Replace what UTF-8 cannot encode, such as odd bytes of a file name."""
    return name.encode(errors="replace").decode()


def serve(
    reranker: Reranker,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_k: int = 1000,
    max_body: int = 1 << 20,
    access_log: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; a second signal stops at once. Print the address to stderr.

    Parameters
    ----------
    reranker, max_k, max_body
        As in :func:`create_app`.
    host, port : str, int
        Address to listen on; port 0 selects a free one. There is no authentication. InputValueError
        is raised if the address cannot be used.
    access_log : bool
        Log every request to standard error.
    """
    app = create_app(reranker, max_k=max_k, max_body=max_body)
    listener = _listener(host, port)
    logs = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logs["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=logs,
        log_level="info" if access_log else "error",  # any client can cause warnings
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    with listener:
        _Server(config, _notice(reranker.corrector_, listener)).run([listener])
    app.state.threads.shutdown()


def _notice(corrector: Corrector, listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    text = (
        f"Serving {len(corrector)} items of dimension {corrector.dimension} at {url}/ (open it to "
        f"try a vector; Ctrl+C stops). Example:\n"
        f"  {_CURL.format(f'{url}/search', corrector.dimension)}"
    )
    if not ipaddress.ip_address(address).is_loopback:
        text += "\nNote: there is no authentication; anyone who reaches this address can search"
    return text


def _listener(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port < 1 << 16:  # bind would raise OverflowError and leave the socket open
            raise OSError("ports go from 0 to 65535")
        family, *_, found = min(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        return socket.create_server((str(found[0]), port), family=family)
    except (OSError, UnicodeError) as error:
        raise InputValueError(
            "the service cannot listen on this address",
            f"{host}, port {port}: {getattr(error, 'strerror', None) or error}",
            "take another port (0 selects a free one) or an address of this machine",
        ) from None


class _Server(uvicorn.Server):
    """Print a notice once listening; exit with status 0 after a signal, at once after two."""

    def __init__(self, config: uvicorn.Config, notice: str) -> None:
        super().__init__(config)
        self.notice = notice

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.notice, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del frame
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True


_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CURL = (
    "curl -s {} -H 'content-type: application/json' "
    """-d "{{\\"vector\\": $(python3 -c 'print([1] * {})')}}\""""
)
