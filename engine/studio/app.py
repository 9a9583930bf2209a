"""The application of the page: its routes, what errors are answered with, the guard of the service in front."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import InvalidInputError, SbldmError, UsageError
from ..sample import FaultySampleError
from ..service.guard import Guard
from ..service.logs import Figures, Logs
from ..service.problems import problem, refused_as_invalid, refused_by_http
from ..service.settings import Listening
from ..service.tokens import Tokens
from .page import ASSETS, POLICY
from .routes import GoneError, MissingError, router
from .studio import Studio

OPEN = frozenset({"/", *(f"/assets/{name}" for name in ASSETS)})
"""Addresses without a token: the page itself, which says nothing of anybody."""


def create_app(studio: Studio, settings: Listening, tokens: Tokens, logs: Logs) -> FastAPI:
    """The ASGI application of a studio; whatever tells or does something needs the token."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.studio = studio
    app.include_router(router)
    app.add_exception_handler(SbldmError, _told)
    app.add_exception_handler(MissingError, _missing)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(HTTPException, refused_by_http)
    app.add_exception_handler(RequestValidationError, refused_as_invalid)
    app.add_exception_handler(OSError, _system)
    app.add_exception_handler(MemoryError, _memory)
    figures = Figures(dict, lambda: 0)
    app.add_middleware(Guard, settings, tokens, logs, figures, POLICY, OPEN, login=False)  # type: ignore[arg-type]
    return app


async def _told(_: Request, error: Exception) -> JSONResponse:
    """What the command line would say."""
    return problem(422 if isinstance(error, UsageError | InvalidInputError | FaultySampleError) else 500, str(error))


async def _missing(_: Request, __: Exception) -> JSONResponse:
    return problem(404, "nothing lies there")


async def _gone(_: Request, __: Exception) -> JSONResponse:
    return problem(410, "the volume is not kept any more; ask for it again")


async def _system(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    return problem(507, f"the system refuses: {error.strerror}; make room, or mend that")


async def _memory(_: Request, __: Exception) -> JSONResponse:
    return problem(507, "no memory left on this machine; close other pages or programs")
