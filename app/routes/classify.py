"""`POST /classify` and `POST /classify/batch`."""

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any

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

TopK = Annotated[int | None, Query(ge=1, description="Classes in the answer; the service's setting if absent.")]
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
    responses=ERRORS,
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
async def classify(request: Request, top_k: TopK = None) -> Response:
    """The best classes of one image: the body itself, or the field `file` of a form."""
    service = service_of(request)
    started = time.perf_counter()
    data = await _read_one(request)
    read = time.perf_counter() - started
    result = await unless_caller_leaves(request, _classify(service, data, top_k, read))
    timing = ", ".join(f"{stage};dur={value * 1e3:.2f}" for stage, value in result.seconds.items())
    return JSONResponse(_body(result), headers={"Server-Timing": timing})


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
async def classify_batch(request: Request, top_k: TopK = None) -> Response:
    """A result or an error for each image of the form's field `files`, in order."""
    service = service_of(request)
    if not is_form(request):
        raise BadOption("Send the images as multipart/form-data, in a field named 'files'.")
    started = time.perf_counter()
    async with read_form(request, "files", service.settings.max_images) as files:
        images = [await file.read() for file in files]
    read = (time.perf_counter() - started) / len(images)
    work = asyncio.gather(*(_result(service, image, top_k, read) for image in images))
    return JSONResponse({"results": await unless_caller_leaves(request, work)})


async def _read_one(request: Request) -> bytes:
    if not is_form(request):
        return await read_body(request)
    async with read_form(request, "file", most=1) as (file,):
        return await file.read()


async def _classify(service: Service, data: bytes, top_k: int | None, read: float) -> classifier.Classification:
    result = await service.classifier.classify(data, top_k or service.settings.top_k)
    result.seconds["read"] = read
    service.metrics.observe_stages(result.seconds)
    return result


async def _result(service: Service, image: bytes, top_k: int | None, read: float) -> dict[str, Any]:
    try:
        return _body(await _classify(service, image, top_k, read))
    except ServiceError as error:
        service.metrics.rejected.labels(error.code).inc()
        return {"error": problem(error).model_dump()}


def _body(result: classifier.Classification) -> dict[str, Any]:
    return {"predictions": [asdict(prediction) for prediction in result.predictions]}
