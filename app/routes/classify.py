"""`POST /classify` and `POST /classify/batch`."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from app import classifier, schemas
from app.errors import (
    BadOption,
    Draining,
    EngineFailed,
    ImageTooLarge,
    InternalError,
    NotReady,
    Overloaded,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
)
from app.routes.problems import documented, problem
from app.routes.upload import is_form, read_body, read_form, service_of, unless_caller_leaves
from app.service import Service

router = APIRouter(tags=["classify"])

MOST_MAPS = 100
"""Evidence maps in an answer, of one image: a network can have tens of thousands of classes, and each map is a page."""

TopK = Annotated[int | None, Query(ge=1, description="Classes in the answer; the service's setting if absent.")]
Evidence = Annotated[
    bool, Query(description=f"Add what each place of the image contributes; for at most {MOST_MAPS} classes.")
]
Format = Annotated[
    Literal["json", "png"],
    Query(alias="format", description="`png`, with evidence: a picture of it, for the best class or the one named."),
]
ClassIndex = Annotated[
    int | None, Query(alias="class", ge=0, description="Number of the class to draw the evidence for.")
]
ERRORS = documented(
    ImageTooLarge,
    UnsupportedImage,
    UnreadableImage,
    BadOption,
    Overloaded,
    NotReady,
    Draining,
    EngineFailed,
    InternalError,
)
BINARY = {"schema": {"type": "string", "format": "binary"}}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [field], "properties": {field: schema}}}


@router.post(
    "/classify",
    response_model=schemas.Classification,
    responses=ERRORS | {200: {"content": {"image/png": BINARY}}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": _form("file", BINARY["schema"]),
            },
        }
    },
)
async def classify(
    request: Request,
    top_k: TopK = None,
    evidence: Evidence = False,  # noqa: FBT002 (FastAPI passes it by name)
    answer_format: Format = "json",
    index: ClassIndex = None,
) -> Response:
    """The best classes of one image: the body itself, or the field `file` of a form."""
    service = service_of(request)
    if answer_format == "png":
        return await _picture(request, index, evidence=evidence)
    if index is not None:
        raise BadOption("A class is named for its picture: class goes with evidence=true and format=png.")
    k = _count(service, top_k, evidence=evidence)
    data, read = await _read_one(request)
    result = await unless_caller_leaves(request, _classify(service, data, k, read, evidence=evidence))
    return JSONResponse(_body(result), headers={"Server-Timing": _timing(result.seconds)})


@router.post(
    "/classify/batch",
    response_model=schemas.BatchClassification,
    responses=ERRORS,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": _form("files", {"type": "array", "items": BINARY["schema"]}),
            },
        }
    },
)
async def classify_batch(
    request: Request,
    top_k: TopK = None,
    evidence: Evidence = False,  # noqa: FBT002 (FastAPI passes it by name)
) -> Response:
    """A result or an error for each image of the form's field `files`, in order."""
    service = service_of(request)
    if not is_form(request):
        raise BadOption("Send the images as multipart/form-data, in a field named 'files'.")
    k = _count(service, top_k, evidence=evidence)
    started = time.perf_counter()
    async with read_form(request, "files", service.settings.max_images) as files:
        images = [await file.read() for file in files]
    read = (time.perf_counter() - started) / len(images)
    work = asyncio.gather(*(_result(service, image, k, read, evidence=evidence) for image in images))
    return JSONResponse({"results": await unless_caller_leaves(request, work)})


def _count(service: Service, top_k: int | None, *, evidence: bool) -> int:
    if top_k is None:
        return min(service.settings.top_k, MOST_MAPS) if evidence else service.settings.top_k
    if evidence and top_k > MOST_MAPS:
        raise BadOption(f"Evidence is given for at most {MOST_MAPS} classes; top_k is {top_k}.")
    return top_k


async def _read_one(request: Request) -> tuple[bytes, float]:
    """The image, and the seconds it took to arrive."""
    started = time.perf_counter()
    if not is_form(request):
        return await read_body(request), time.perf_counter() - started
    async with read_form(request, "file", most=1) as (file,):
        return await file.read(), time.perf_counter() - started


async def _picture(request: Request, index: int | None, *, evidence: bool) -> Response:
    if not evidence:
        raise BadOption("Only evidence is drawn: format=png goes with evidence=true.")
    data, read = await _read_one(request)
    drawn = await unless_caller_leaves(request, _draw(service_of(request), data, index, read))
    headers = {"X-Class-Index": str(drawn.index), "Server-Timing": _timing(drawn.seconds)}
    return Response(drawn.png, media_type="image/png", headers=headers)


async def _classify(service: Service, data: bytes, k: int, read: float, *, evidence: bool) -> classifier.Classification:
    result = await service.classifier.classify(data, k, evidence=evidence)
    result.seconds["read"] = read
    service.metrics.observe_stages(result.seconds)
    return result


async def _draw(service: Service, data: bytes, index: int | None, read: float) -> classifier.Overlay:
    drawn = await service.classifier.draw_evidence(data, index)
    drawn.seconds["read"] = read
    service.metrics.observe_stages(drawn.seconds)
    return drawn


async def _result(service: Service, image: bytes, k: int, read: float, *, evidence: bool) -> dict[str, Any]:
    try:
        return _body(await _classify(service, image, k, read, evidence=evidence))
    except ServiceError as error:
        service.metrics.rejected.labels(error.code).inc()
        return {"error": problem(error).model_dump()}


def _timing(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage};dur={value * 1e3:.2f}" for stage, value in seconds.items())


def _body(result: classifier.Classification) -> dict[str, Any]:
    return {"predictions": [asdict(prediction) for prediction in result.predictions]}
