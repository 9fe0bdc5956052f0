"""`POST /classify` and `POST /classify/batch`."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from app.classification import classifier
from app.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    ImageTooLarge,
    InternalError,
    InvalidParameter,
    NotReady,
    Overloaded,
    ServiceError,
    TooManyConnections,
    UnreadableImage,
    UnsupportedEncoding,
    UnsupportedImage,
)
from app.http import schemas
from app.http.forms import MAX_TEXT_FIELDS
from app.http.parameters import MAX_MAPS, Options, OptionsOfOne, declared, options_of
from app.http.problems import documented, problem
from app.http.uploads import content_type_of, deadline_of, hint_for, is_form, received, service_of, while_caller_stays
from app.models.model import Service

router = APIRouter(tags=["classify"])

ERRORS = documented(
    ImageTooLarge,
    UnsupportedImage,
    UnsupportedEncoding,
    UnreadableImage,
    InvalidParameter,
    Overloaded,
    NotReady,
    Draining,
    TooManyConnections,
    DeadlineExceeded,
    EngineFailed,
    InternalError,
)
BINARY = {"schema": {"type": "string", "format": "binary"}}

# Of the text in other fields: a zero byte makes it a file.
NO_ZERO = r"^[^\x00]*$"


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": {
            "type": "object",
            "required": [field],
            "properties": {field: schema},
            "additionalProperties": {"type": "string", "pattern": NO_ZERO},
            "maxProperties": MAX_TEXT_FIELDS + 1,
        }
    }


of_one = partial(
    router.api_route,
    "/classify",
    response_model=schemas.Classification,
    responses=ERRORS | {200: {"content": {"image/png": BINARY}}},
    openapi_extra={
        "parameters": declared(OptionsOfOne),
        "requestBody": {
            "required": True,
            "content": {
                "image/*": BINARY,
                "application/octet-stream": BINARY,
                "multipart/form-data": _form("file", BINARY["schema"]),
            },
        },
    },
)


@of_one(methods=["PUT"], description="The same as POST: `curl -T` sends files so.")
@of_one(methods=["POST"])
async def classify(request: Request) -> Response:
    """The best classes of one image: the body itself, or the field `file` of a form."""
    service, options = service_of(request), options_of(request, OptionsOfOne)
    if options.index is not None and options.format != "png":
        raise InvalidParameter("A class is named for its picture: class goes with evidence=true and format=png.")
    if options.format == "png" and not options.evidence:
        raise InvalidParameter("Only evidence is drawn: format=png goes with evidence=true.")
    k = _count(service, options)
    deadline = deadline_of(request)
    with await received(request, "file", 1, deadline) as upload, while_caller_stays(request):
        (image,) = upload.images
        try:
            if options.format == "png":
                return await _picture(service, image, options.index, upload.seconds, deadline)
            result = await _classify(service, image, k, upload.seconds, deadline, evidence=options.evidence)
        except (UnsupportedImage, UnreadableImage) as error:
            error.detail += hint_for(request)
            raise
        return _json(_body(result), {"Server-Timing": _timing(result.seconds)})


@router.post(
    "/classify/batch",
    response_model=schemas.BatchClassification,
    responses=ERRORS,
    openapi_extra={
        "parameters": declared(Options),
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": _form("files", {"type": "array", "minItems": 1, "items": BINARY["schema"]}),
            },
        },
    },
)
async def classify_batch(request: Request) -> Response:
    """A result or an error for each image of the form's field `files`, in order."""
    service, options = service_of(request), options_of(request, Options)
    if not is_form(request):
        raise InvalidParameter(
            f"The request has {content_type_of(request)}. Send the images as multipart/form-data, in a field named "
            "'files'; one alone to /classify."
        )
    k = _count(service, options)
    deadline = deadline_of(request)
    with (
        await received(request, "files", service.settings.max_client_batch_size, deadline) as upload,
        while_caller_stays(request),
    ):
        async with asyncio.TaskGroup() as group:  # if one image breaks, the others are not left to run for nobody
            results = [
                group.create_task(_result(service, image, k, upload.seconds, deadline, evidence=options.evidence))
                for image in upload.images
            ]
    return _json({"results": [result.result() for result in results]})


def _count(service: Service, options: Options) -> int:
    if options.top_k is None:
        return min(service.settings.top_k, MAX_MAPS) if options.evidence else service.settings.top_k
    if options.evidence and options.top_k > MAX_MAPS:
        raise InvalidParameter(f"Evidence is given for at most {MAX_MAPS} classes; top_k is {options.top_k}.")
    return options.top_k


async def _picture(service: Service, image: bytes, index: int | None, read: float, deadline: float) -> Response:
    drawn = await service.classifier.draw_evidence(image, index, deadline=deadline)
    drawn.seconds["read"] = read
    service.metrics.observe_stages(drawn.seconds)
    headers = {"X-Class-Index": str(drawn.index), "Server-Timing": _timing(drawn.seconds)}
    return Response(drawn.png, media_type="image/png", headers=headers)


async def _classify(
    service: Service, image: bytes, k: int, read: float, deadline: float, *, evidence: bool
) -> classifier.Classification:
    result = await service.classifier.classify(image, k, evidence=evidence, deadline=deadline)
    result.seconds["read"] = read
    service.metrics.observe_stages(result.seconds)
    return result


async def _result(
    service: Service, image: bytes, k: int, read: float, deadline: float, *, evidence: bool
) -> dict[str, Any]:
    try:
        return _body(await _classify(service, image, k, read, deadline, evidence=evidence))
    except ServiceError as error:
        service.metrics.rejected.labels(error.code).inc()
        return {"error": problem(error).model_dump()}


def _timing(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage};dur={value * 1e3:.2f}" for stage, value in seconds.items())


def _body(result: classifier.Classification) -> dict[str, Any]:
    return {"predictions": [vars(prediction) for prediction in result.predictions]}


def _json(body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(body), headers=headers, media_type="application/json")
