"""The addresses of the page: each reads a request, calls `Studio`, shapes the answer."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from ..generator import Cancelled
from ..scans.options import read_options
from .basket import Basket
from .given import passing_folder
from .made import Made
from .page import ASSETS, Asset, page
from .received import Received
from .studio import Studio
from .wish import Wish

_PIECE = 1 << 20
_IMAGE = "application/gzip"

router = APIRouter()


def _studio(request: Request) -> Studio:
    return request.app.state.studio


class MissingError(Exception):
    """Nothing lies there."""


class GoneError(Exception):
    """The volume was made, and is kept no more."""


class AskedVolume(BaseModel):
    """A wish, and where on the page it is shown."""

    model_config = ConfigDict(extra="forbid", strict=True)

    wish: Wish
    pane: str = Field(max_length=8)


class AskedRun(BaseModel):
    """A basket, and the directory that it is written to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    basket: Basket
    out: str = Field(max_length=1000)


Of = Annotated[Studio, Depends(_studio)]
PageId = Annotated[str, Query(alias="page", pattern="^[0-9a-f]{32}$", description="Made up by the page.")]
Key = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
GivenId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Where = Literal["grid", "own"]
Role = Annotated[str, Path(pattern="^[a-z0-9_-]{1,32}$")]


@router.get("/")
async def start() -> Response:
    """The page; it holds nothing of anybody."""
    return _asset(page())


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """A script or style of the page."""
    if name not in ASSETS:
        raise MissingError
    return _asset(ASSETS[name]())


@router.get("/api/model")
def model(studio: Of, page_id: PageId) -> dict[str, Any]:
    """What can be asked of the model."""
    studio.here(page_id)
    return studio.facts()


@router.get("/api/here")
async def here(studio: Of, page_id: PageId) -> dict[str, list[str]]:
    """A page says that it is still open; what is held for it."""
    return {"held": studio.here(page_id)}


@router.post("/api/leave")
async def leave(studio: Of, page_id: PageId) -> Response:
    """A page is closed: what it dropped is forgotten."""
    studio.leave(page_id)
    return Response(status_code=204)


@router.post("/api/wish")
def wish(asked: Wish, studio: Of) -> dict[str, object]:
    """What is wrong with a wish, how usual it is, what is drawn for it."""
    return studio.check(asked).as_dict()


@router.post("/api/volumes")
def volume(asked: AskedVolume, studio: Of, page_id: PageId) -> dict[str, object]:
    """Make the volume of a wish; a newer wish of the same pane ends it, and `given_up` says so."""
    try:
        return studio.make(page_id, asked.pane, asked.wish).facts
    except Cancelled:
        return {"given_up": True}


@router.get("/api/volumes/{key}/picture.png")
def picture(key: Key, studio: Of) -> Response:
    """Sections of a made volume."""
    return Response(_made(studio, key).picture(studio.bundle), media_type="image/png")


@router.get("/api/volumes/{key}/{role}.nii.gz")
async def volume_file(key: Key, role: Role, studio: Of) -> Response:
    """A file of a made volume, the bytes of the command line."""
    files = _made(studio, key).files
    if role not in files:
        raise MissingError
    return Response(files[role], media_type=_IMAGE)


@router.put("/api/given", openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}}})
async def give(
    request: Request, studio: Of, page_id: PageId,
    labels: Annotated[str, Query(max_length=200)] = "",
    cavity: Annotated[str, Query(max_length=20)] = "",
    orientation: Annotated[str, Query(max_length=10)] = "",
    series: Annotated[str, Query(alias="map", max_length=400)] = "",
) -> dict[str, Any]:  # fmt: skip
    """Take a mask, or the files of a scan; see `received.Received`."""
    options = read_options(labels or None, cavity or "refuse", orientation or None, series or None)
    with passing_folder() as folder:
        received, gathered = Received(folder), bytearray()
        async for part in request.stream():
            gathered += part
            if len(gathered) >= _PIECE:
                await run_in_threadpool(received.take, bytes(gathered))
                gathered.clear()
        await run_in_threadpool(received.take, bytes(gathered))
        given = await run_in_threadpool(studio.take, page_id, folder, received, options)
    return await run_in_threadpool(studio.given_facts, page_id, given)


@router.get("/api/given/{given_id}/{where}/picture.png")
def given_picture(given_id: GivenId, where: Where, studio: Of, page_id: PageId) -> Response:
    """Sections of what was dropped."""
    data = studio.given_picture(page_id, given_id, where)
    if data is None:
        raise MissingError
    return Response(data, media_type="image/png")


@router.get("/api/given/{given_id}/{where}/{role}.nii.gz")
def given_file(given_id: GivenId, where: Where, role: Role, studio: Of, page_id: PageId) -> Response:
    """What was dropped, on the model's voxels or its own."""
    data = studio.given_file(page_id, given_id, where, role)
    if data is None:
        raise MissingError
    return Response(data, media_type=_IMAGE)


@router.post("/api/basket")
def basket(asked: Basket, studio: Of) -> dict[str, Any]:
    """A basket as table, commands and snippet."""
    return dataclasses.asdict(studio.takeaway(asked))


@router.post("/api/run")
def run(asked: AskedRun, studio: Of, page_id: PageId) -> dict[str, Any]:
    """Begin to write a basket's run directories."""
    return studio.run(page_id, asked.basket, asked.out).as_dict()


@router.get("/api/run")
async def run_state(studio: Of, page_id: PageId) -> dict[str, Any]:
    """How far that is."""
    found = studio.run_of(page_id)
    if found is None:
        raise MissingError
    return found.as_dict()


@router.post("/api/run/stop")
def stop(studio: Of, page_id: PageId) -> dict[str, Any]:
    """End it; what was made stays."""
    found = studio.run_of(page_id)
    if found is None:
        raise MissingError
    found.stop()
    return found.as_dict()


def _made(studio: Studio, key: str) -> Made:
    made = studio.maker.get(key)
    if made is None:
        raise GoneError
    return made


def _asset(asset: Asset) -> Response:
    return Response(asset.packed, media_type=asset.kind, headers={"content-encoding": "gzip"})
