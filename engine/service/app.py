"""The application: routes, what errors are answered with, and the guard in front of all of it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..versions import installed
from .guard import Guard
from .problems import problem, refused_as_invalid, refused_by_http
from .routes import Problem, router
from .service import Refused, Service

_TITLE = "sbldm-engine serve"
_DESCRIPTION = (
    "Synthetic 3D brain MRI with tumour masks, as jobs. Every request needs a token: Authorization: Bearer TOKEN. "
    "What is made shows no patient and is not for diagnosis; what is made from an uploaded scan or mask is to be "
    "protected as that is."
)
_EVERYWHERE: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem}, 401: {"model": Problem}, 413: {"model": Problem}, 429: {"model": Problem},
    500: {"model": Problem}, 503: {"model": Problem}, 507: {"model": Problem},
}  # fmt: skip


def create_app(service: Service) -> FastAPI:
    """The ASGI application of an open service; every address of it needs a token."""
    app = FastAPI(
        title=_TITLE, description=_DESCRIPTION, version=installed("sbldm-engine") or "unknown", docs_url=None,
        redoc_url=None, responses=_EVERYWHERE,
    )  # fmt: skip
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, refused_by_http)
    app.add_exception_handler(RequestValidationError, refused_as_invalid)
    app.add_exception_handler(OSError, _disk)
    app.add_middleware(Guard, service.settings, service.tokens, service.logs, service.figures)  # type: ignore[arg-type]
    app.openapi()  # made now and kept: later it would hold up those who ask meanwhile
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    _service(request).figures.refused(str(error.status))
    return problem(error.status, str(error), {"retry-after": "10"} if error.status == 429 else None)


async def _disk(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    _service(request).logs.event("the disk refuses", "error", kind=type(error).__name__, number=error.errno)
    return problem(507, "the service cannot write now; try again later")


def _service(request: Request) -> Service:
    return request.app.state.service
