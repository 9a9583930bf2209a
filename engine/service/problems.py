"""What a request that cannot be answered is answered with."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_MOST_FAULTS = 20


def problem(status: int, error: str, headers: Any = None) -> JSONResponse:
    """Why, in words."""
    return JSONResponse({"error": error}, status, headers)


async def refused_by_http(_: Request, error: Exception) -> JSONResponse:
    """An address or a method that does not exist."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


async def refused_as_invalid(_: Request, error: Exception) -> JSONResponse:
    """Every fault of a request by its place; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"[:300] for fault in error.errors()[:_MOST_FAULTS]]
    return problem(422, "\n".join(faults))
