"""A fitted corrector over HTTP, to try it: JSON in, JSON out, and a page with a form.

It keeps nothing, asks for no password and loads nothing from elsewhere. What is wrong with a
request comes back as {"error": {"problem": ..., "received": ..., "to_do": ...}}.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import html
import ipaddress
import json
import reprlib
import shlex
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from string import Template
from types import FrameType
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from emcl_plugin.errors import EmclError, InputValueError, one_line
from emcl_plugin.reranker import Reranker
from emcl_plugin.service import connection
from emcl_plugin.service.connection import Connection
from emcl_plugin.service.errors import Failure, failure
from emcl_plugin.version import __version__

AT_ONCE = 2
"""Searches that run at the same time; each uses all of torch's threads."""
GRACE = 8
"""Seconds that requests may take to finish after a signal to end; more than ``PATIENCE``. A
search that takes longer gets status 503, and its thread is waited for."""


class Result(BaseModel):
    """One gallery item; its name where names are known."""

    rank: int
    index: int
    name: str | None = None
    score: float


class Answer(BaseModel):
    """The best items, best first, and how far the bank's correction was applied, 0 to 1."""

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


class _RefusedError(EmclError):
    def __init__(self, status: int, problem: str, received: str, remedy: str) -> None:
        super().__init__(problem, received, remedy)
        self.status = status


def create_app(reranker: Reranker, *, max_k: int = 1000, max_body: int = 1 << 20) -> FastAPI:
    """The service as an ASGI application: POST /search, GET /healthz, and a page at GET /.

    Parameters
    ----------
    reranker : Reranker
        Fitted.
    max_k, max_body : int
        Most results that a request may ask for, and most bytes of its body.
    """
    if max_k < 1 or max_body < 1:
        got = f"max_k={max_k}, max_body={max_body}"
        raise InputValueError("the limits must be at least 1", got, "leave them out")
    dimension = reranker.corrector_.dimension
    kind = torch.finfo(reranker.corrector_.gallery.dtype)
    most, least = kind.max, kind.tiny * kind.eps
    some: Any = {"contains": {"anyOf": [{"minimum": least}, {"maximum": -least}]}}  # not all zeros
    cosine = reranker.corrector_.metric == "cosine"
    advice = f'send {{"vector": [{dimension} finite numbers], "k": 1 to {max_k}}}'
    number = Annotated[float, Field(ge=-most, le=most, allow_inf_nan=False)]
    numbers = Annotated[list[number], FailFast(), Field(min_length=dimension, max_length=dimension)]

    class Query(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

        vector: numbers = Field(json_schema_extra=some if cosine else None)
        k: Annotated[int, Field(ge=1, le=max_k)] = min(10, max_k)

    def answer(content: bytes) -> Answer:
        try:
            query = Query.model_validate_json(content)
        except ValidationError as error:
            raise _refused(error, advice) from None
        corrector = reranker.corrector_
        vector = torch.tensor([query.vector], dtype=torch.float64)
        scores, indices = corrector.search(vector, min(query.k, len(corrector)))
        if not bool(torch.isfinite(scores).all()):
            raise InputValueError("the scores overflow", "numbers too large", "scale the vector")
        results = []
        pairs = zip(scores[0].tolist(), indices[0].tolist(), strict=True)
        for rank, (score, index) in enumerate(pairs, 1):
            results.append(Result(rank=rank, index=index, score=score))
            if corrector.names:
                results[-1].name = _printable(corrector.names[index])
        gate = next(corrector.vectors(vector))[0, -1]
        return Answer(protocol="bank", results=results, like_the_bank=float(gate))

    caught = (_RefusedError, InputValueError, HTTPException, Exception)
    app = FastAPI(
        title="emcl_plugin",
        summary="Corrected scores of a query vector against a gallery.",
        version=__version__,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys(caught, _failure),
    )
    app.state.threads = threads = ThreadPoolExecutor(AT_ONCE, "search")
    template = Template(
        (resources.files("emcl_plugin") / "service" / "service.html").read_text(encoding="utf-8")
    )
    body = {
        "required": True,
        "content": {"application/json": {"schema": Query.model_json_schema()}},
    }

    @app.post(
        "/search",
        response_model_exclude_unset=True,
        responses={code: {"model": Failure} for code in (400, 408, 413, 415, 422, 500, 503)},
        openapi_extra={"requestBody": body},
    )
    async def search(request: Request) -> Answer:
        """The k gallery items with the highest corrected scores for a vector."""
        content = await _body(request, max_body)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, answer, content)
        except asyncio.CancelledError:
            got = f"a search of more than {GRACE} seconds"
            raise _RefusedError(503, "the service ends", got, "try again later") from None

    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the service is up, and what it serves."""
        return Health(
            status="ok",
            gallery=len(reranker.corrector_),
            dimension=dimension,
            protocol="bank",
            package_version=__version__,
        )

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        corrector = reranker.corrector_
        text = template.substitute(
            items=f"{len(corrector):,}",
            dimension=dimension,
            version=__version__,
            max_k=max_k,
            k=min(10, max_k),
            example=json.dumps([float(f"{x:.6g}") for x in corrector.gallery[0].tolist()]),
            name=html.escape(one_line(_printable(corrector.names[0] if corrector.names else ""))),
            curl=html.escape(_CURL.format(shlex.quote(f"{request.base_url}search"), dimension)),
        )
        return HTMLResponse(text, headers={"content-security-policy": _POLICY})

    return app


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request, if it is JSON, in time and not too large."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        advice = "add the header content-type: application/json"
        raise _RefusedError(415, "the content type is not JSON", reprlib.repr(kind), advice)
    large = (413, "the body is too large", f"more than {limit} bytes", "send one vector at a time")

    async def read() -> bytes:
        content = bytearray()
        length = request.headers.get("content-length", "0")[:20]
        if length.isdecimal() and int(length) > limit:
            raise _RefusedError(*large)
        async for part in request.stream():
            content += part
            if len(content) > limit:
                raise _RefusedError(*large)
        return bytes(content)

    try:
        return await asyncio.wait_for(read(), connection.PATIENCE)
    except asyncio.TimeoutError:
        got = f"not all of it within {connection.PATIENCE} seconds"
        raise _RefusedError(408, "the body came too slowly", got, "send it at once") from None
    except ClientDisconnect:  # nobody will read this
        raise _RefusedError(400, "the client went away", "half a body", "try again") from None


def _refused(error: ValidationError, advice: str) -> _RefusedError:
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = "".join(f"[{k}]" if isinstance(k, int) else str(k)[:40] for k in first["loc"])
    given = first["input"]
    received = f"{len(given)} entries" if isinstance(given, list) else reprlib.repr(given)
    status = 400 if first["type"] == "json_invalid" else 422
    return _RefusedError(status, f"{where or 'the body'}: {first['msg']}", received, advice)


async def _failure(request: Request, error: Exception) -> JSONResponse:
    """Any error as a response; after one that was not meant, the server logs where it arose."""
    status, headers = 500, None
    parts = ("an error of this program, not of yours", type(error).__name__, "see the server's log")
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
        received = f"{request.method[:20]} {reprlib.repr(request.scope['path'])}"
        parts = (error.detail, received, "POST /search, GET /healthz, GET / or GET /openapi.json")
    elif isinstance(error, _RefusedError | InputValueError):
        status = error.status if isinstance(error, _RefusedError) else 422
        parts = (error.problem, error.received, error.remedy)
    return failure(status, *parts, headers=headers)


def _printable(name: str) -> str:
    """A name without what UTF-8 cannot hold, such as odd bytes of a file name."""
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
    """Serve until SIGINT or SIGTERM; a second one ends it at once. The address goes to stderr.

    Parameters
    ----------
    reranker : Reranker
        Fitted.
    host, port : str, int
        Where to listen; port 0 takes a free one. There is no authentication.
    max_k, max_body : int
        As in :func:`create_app`.
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
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=logs,
        log_level="info" if access_log else "error",  # a warning is what any client can cause
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        backlog=connection.CONNECTIONS,
        timeout_keep_alive=connection.PATIENCE,
        timeout_graceful_shutdown=GRACE,
    )
    address, port = listener.getsockname()[:2]
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    count, dimension = reranker.corrector_.gallery.shape
    notice = (
        f"Serving {count} items of dimension {dimension} at {url}/ (open it to try a vector; "
        f"Ctrl+C ends it). For example:\n  {_CURL.format(f'{url}/search', dimension)}"
    )
    if not ipaddress.ip_address(address).is_loopback:
        notice += "\nNote: there is no authentication; whoever reaches this address can search"
    with listener:
        _Server(config, notice).run([listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port < 1 << 16:  # bind would raise OverflowError and leave the socket open
            raise OSError("ports go from 0 to 65535")
        family, *_, found = min(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        return socket.create_server((str(found[0]), port), family=family)
    except (OSError, UnicodeError) as error:
        raise InputValueError(
            "the service cannot listen there",
            f"{host}, port {port}: {getattr(error, 'strerror', None) or error}",
            "take another port (0: any that is free), or an address of this machine",
        ) from None


class _Server(uvicorn.Server):
    """Tells when it listens; a signal is a wish to end, not an error, and a second one ends it."""

    def __init__(self, config: uvicorn.Config, notice: str) -> None:
        super().__init__(config)
        self.notice = notice

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():  # also while a search that nobody waits for is still running
            super().run(sockets)
            self.config.app.state.threads.shutdown()  # type: ignore[union-attr]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().set_exception_handler(self._odd)
        print(self.notice, file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.1)  # until what was being accepted is a connection that is told, too
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del frame
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True

    def _odd(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio's own log, but for lack of files: it tells that thousands of times a second.

        A second later it tries again, by then perhaps at a socket that `shutdown` has closed.
        """
        error = context.get("exception")
        if self.should_exit and self.lacked_files and "_start_serving" in context["message"]:
            return
        if not isinstance(error, OSError) or error.errno not in _SCARCE:
            loop.default_exception_handler(context)
        elif not self.lacked_files:
            self.lacked_files = True
            print(f"Note: connections had to wait: {error.strerror}", file=sys.stderr, flush=True)

    lacked_files = False


_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CURL = (
    "curl -s {} -H 'content-type: application/json' "
    """-d "{{\\"vector\\": $(python3 -c 'print([1] * {})')}}\""""
)
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
