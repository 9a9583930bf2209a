"""The addresses of a service: each reads a request, calls `Service`, shapes the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ..errors import InvalidInputError
from ..versions import installed
from .asked import AskedJob
from .job import Job, Kind, State
from .page import api_page
from .service import Refused, Service
from .uploads import HEAD_BYTES

_PIECE = 1 << 20  # bytes that are written or sent at once
_FIRST, _MOST = 50, 200  # jobs of a page

router = APIRouter()


class Problem(BaseModel):
    """What was wrong with a request."""

    error: str


class Health(BaseModel):
    """That the service answers, and what it has to do."""

    status: str
    version: str | None
    jobs: dict[State, int]


class Model(BaseModel):
    """What can be asked of a model."""

    name: str
    kinds: list[Kind]
    modalities: list[str]
    labels: list[str]
    columns: list[str]
    grid: list[int]
    spacing_mm: list[float]
    sha256: str


class JobStatus(BaseModel):
    """A job and how it stands."""

    id: str
    number: int
    kind: Kind
    model: str
    state: State
    created: float
    changed: float
    samples: int | None
    done: int
    faulty: int
    uploads: dict[str, int]
    reason: str | None

    @staticmethod
    def of(job: Job) -> JobStatus:
        """What a client is told of a job."""
        return JobStatus(
            id=job.id, number=job.number, kind=job.kind, model=job.model, state=job.state, created=job.created,
            changed=job.changed, samples=job.count, done=job.done, faulty=job.faulty, uploads=job.inputs,
            reason=job.reason,
        )  # fmt: skip


class JobPage(BaseModel):
    """Jobs, the newest first; `before` is what the next page is asked with."""

    jobs: list[JobStatus]
    before: int | None


class FileEntry(BaseModel):
    """A file of a job's run."""

    path: str
    bytes: int


def _service(request: Request) -> Service:
    return request.app.state.service


def _client(request: Request) -> str:
    return request.state.client


Of = Annotated[Service, Depends(_service)]
Client = Annotated[str, Depends(_client)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="What the job was answered with.")]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of refusals; those of every address are added by the application."""
    return {status: {"model": Problem} for status in statuses}


@router.get("/v1/health", tags=["service"])
async def health(service: Of) -> Health:
    """Whether the service answers, and how many jobs are in each state."""
    return Health(status="ok", version=installed("sbldm-engine"), jobs=service.store.states())


@router.get("/v1/metrics", tags=["service"], response_class=PlainTextResponse)
async def metrics(service: Of) -> PlainTextResponse:
    """Figures in Prometheus text format."""
    return PlainTextResponse(service.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models", tags=["service"])
async def models(service: Of) -> list[Model]:
    """The models that jobs may ask for; the first is the default."""
    found = []
    for name, bundle in service.models.items():
        m = bundle.manifest
        kinds: list[Kind] = ["generate", "augment"] if m.mask_first is None else ["generate", "masks", "augment"]
        found.append(
            Model(
                name=name,
                kinds=kinds,
                modalities=list(m.modalities),
                labels=list(m.labels),
                columns=[column.name for column in m.condition_columns],
                grid=list(m.grid.shape),
                spacing_mm=list(m.grid.spacing_mm),
                sha256=bundle.sha256,
            )
        )
    return found


@router.post("/v1/jobs", tags=["jobs"], status_code=201, responses=_problems(413, 422, 429))
def create(asked: AskedJob, service: Of, client: Client) -> JobStatus:
    """Ask for a job. One of kind `masks` or `augment` waits for its uploads, then for its start."""
    return JobStatus.of(service.create(client, asked))


@router.get("/v1/jobs", tags=["jobs"], responses=_problems(422))
async def jobs(
    service: Of,
    client: Client,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = _FIRST,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="A job's number: older ones are listed.")] = None,
    state: State | None = None,
) -> JobPage:
    """Your jobs, the newest first."""
    found = service.store.newest(client, before, limit, state)
    return JobPage(jobs=[JobStatus.of(job) for job in found], before=found[-1].number if len(found) == limit else None)


@router.get("/v1/jobs/{job_id}", tags=["jobs"], responses=_problems(404, 422))
async def status(job_id: JobId, service: Of, client: Client) -> JobStatus:
    """How a job stands."""
    return JobStatus.of(service.job(client, job_id))


@router.put("/v1/jobs/{job_id}/inputs/{name}", tags=["uploads"], responses=_problems(404, 408, 409, 413, 422, 429),
            openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {
                "schema": {"type": "string", "format": "binary"}}}}})  # fmt: skip
async def upload(
    job_id: JobId,
    name: Annotated[str, Path(max_length=32, description="t1, ..., seg; of kind masks a name of yours.")],
    request: Request,
    service: Of,
    client: Client,
) -> JobStatus:
    """Send a scan or a mask as the body: NIfTI, plain or gzip. A name that is sent again replaces the one before."""
    with service.uploading(client, job_id, name) as job:
        try:
            return JobStatus.of(await _received(request, service, job, name))
        except InvalidInputError as error:
            raise Refused(422, str(error)) from error
        except ClientDisconnect:
            raise Refused(400, "the upload ended too early") from None


@router.post("/v1/jobs/{job_id}/start", tags=["jobs"], responses=_problems(404, 409, 422, 429))
def start(job_id: JobId, service: Of, client: Client) -> JobStatus:
    """Queue a job that has its uploads."""
    return JobStatus.of(service.start(client, job_id))


@router.post("/v1/jobs/{job_id}/cancel", tags=["jobs"], responses=_problems(404, 409, 422))
def cancel(job_id: JobId, service: Of, client: Client) -> JobStatus:
    """End a job; what it has made can still be had."""
    return JobStatus.of(service.cancel(client, job_id))


@router.delete("/v1/jobs/{job_id}", tags=["jobs"], status_code=204, responses=_problems(404, 409, 422))
def remove(job_id: JobId, service: Of, client: Client) -> Response:
    """Remove a job with its uploads and results; the service's audit trail tells of it."""
    service.remove(client, job_id)
    return Response(status_code=204)


@router.get("/v1/jobs/{job_id}/files", tags=["results"], responses=_problems(404, 409, 422))
def files(job_id: JobId, service: Of, client: Client) -> list[FileEntry]:
    """The files of a job's run directory so far; with manifest.csv it is complete."""
    return [FileEntry(path=file.path, bytes=file.bytes) for file in service.files(client, job_id)]


@router.get("/v1/jobs/{job_id}/files/{path:path}", tags=["results"], response_class=StreamingResponse,
            responses=_problems(404, 409, 422))  # fmt: skip
def result(job_id: JobId, path: Annotated[str, Path(max_length=300)], service: Of, client: Client) -> StreamingResponse:
    """A file of a job's run directory, as bytes."""
    stack = ExitStack()
    handle, size = stack.enter_context(service.result(client, job_id, path))
    headers = {"content-length": str(size), "content-disposition": "attachment"}
    return StreamingResponse(_pieces(handle, size, stack), media_type="application/octet-stream", headers=headers)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The addresses as a page that loads nothing."""
    return HTMLResponse(api_page(request.app.openapi()))


async def _received(request: Request, service: Service, job: Job, name: str) -> Job:
    """The job with an upload that came whole."""
    parts = request.stream()
    gathered = bytearray()
    async for part in parts:
        gathered += part
        if len(gathered) >= HEAD_BYTES:
            break
    upload = await run_in_threadpool(service.open_upload, job, name, bytes(gathered))
    try:
        async for part in parts:
            gathered += part
            if len(gathered) >= _PIECE:
                await run_in_threadpool(upload.write, bytes(gathered))
                gathered.clear()
        await run_in_threadpool(upload.write, bytes(gathered))
        return await run_in_threadpool(service.keep_upload, job, name, upload)
    except BaseException:
        await run_in_threadpool(upload.drop)
        raise


def _pieces(handle: BinaryIO, size: int, stack: ExitStack) -> Iterator[bytes]:
    """The first `size` bytes of a file, which is closed after them."""
    with stack:
        while size > 0 and (piece := handle.read(min(size, _PIECE))):
            size -= len(piece)
            yield piece
