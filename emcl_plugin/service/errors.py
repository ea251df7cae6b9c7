"""Refused requests: three-part error messages as JSON."""

from __future__ import annotations

import reprlib
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from emcl_plugin.errors import EmclError, InputValueError


class Problem(BaseModel):
    """What is wrong, what was received, and what to do."""

    problem: str
    received: str
    to_do: str


class Failure(BaseModel):
    """Body of every response with a status other than 200."""

    error: Problem


class RefusedError(EmclError):
    """A request that gets this HTTP status."""

    def __init__(self, status: int, problem: str, received: str, remedy: str) -> None:
        super().__init__(problem, received, remedy)
        self.status = status


def refused(error: ValidationError, remedy: str) -> RefusedError:
    """Return the first validation error of a request body as a refusal."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = "".join(f"[{k}]" if isinstance(k, int) else str(k)[:40] for k in first["loc"])
    value = first["input"]
    received = f"{len(value)} entries" if isinstance(value, list) else reprlib.repr(value)
    status = 400 if first["type"] == "json_invalid" else 422
    return RefusedError(status, f"{where or 'the body'}: {first['msg']}", received, remedy)


async def respond(request: Request, error: Exception) -> JSONResponse:
    """Return any error as a response. The server logs the traceback of an internal error."""
    status, headers = 500, None
    parts = ("internal error of the service", type(error).__name__, "see the server's log")
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
        received = f"{request.method[:20]} {reprlib.repr(request.scope['path'])}"
        parts = (error.detail, received, "POST /search, GET /healthz, GET / or GET /openapi.json")
    elif isinstance(error, ClientDisconnect):
        status, parts = 400, ("the client disconnected", "an incomplete body", "try again")
    elif isinstance(error, RefusedError | InputValueError):
        status = error.status if isinstance(error, RefusedError) else 422
        parts = (error.problem, error.received, error.remedy)
    failure = Failure(error=Problem(**dict(zip(Problem.model_fields, parts, strict=True))))
    return JSONResponse(failure.model_dump(), status, headers)


HANDLERS: Any = dict.fromkeys(
    (RefusedError, InputValueError, HTTPException, ClientDisconnect, Exception), respond
)
