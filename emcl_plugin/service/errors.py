"""What is wrong with a request, as the JSON that answers it."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Problem(BaseModel):
    """What is wrong, what came in, and what to do."""

    problem: str
    received: str
    to_do: str


class Failure(BaseModel):
    """The body of every status but 200."""

    error: Problem


def failure(
    status: int, problem: str, received: str, to_do: str, *, headers: Any = None
) -> JSONResponse:
    """The answer to a request that is refused."""
    content = Failure(error=Problem(problem=problem, received=received, to_do=to_do))
    return JSONResponse(content.model_dump(), status, headers)
