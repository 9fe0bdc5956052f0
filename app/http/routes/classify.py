"""`POST /classify` and `POST /classify/batch`. Knows no image format and no engine."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from app.classification import classifier
from app.errors import InvalidParameter, ServiceError, UnreadableImage, UnsupportedImage
from app.http import schemas
from app.http.openapi import BINARY, IMAGE_ERRORS, form, image_or_form
from app.http.parameters import (
    MAX_MAPS,
    QueryParameters,
    SingleImageParameters,
    openapi_parameters,
    query_parameters_of,
)
from app.http.problems import documented, problem
from app.http.uploads import (
    cancel_on_disconnect,
    content_type_of,
    deadline_of,
    hint_for,
    is_form,
    receive_upload,
    service_of,
)
from app.models.model import Service

# Classifies one encoded image.
Run = Callable[[bytes], Awaitable[classifier.Classification]]

router = APIRouter(tags=["classify"])

ERRORS = documented(*IMAGE_ERRORS)

of_one = partial(
    router.api_route,
    "/classify",
    response_model=schemas.Classification,
    responses=ERRORS | {200: {"content": {"image/png": BINARY}}},
    openapi_extra={
        "parameters": openapi_parameters(SingleImageParameters),
        "requestBody": image_or_form("file"),
    },
)


@of_one(methods=["PUT"], description="The same as POST, for `curl -T FILE`.")
@of_one(methods=["POST"])
async def classify(request: Request) -> Response:
    """Return the best classes of one image. The image is the body, or the field `file` of a form."""
    service, parameters = service_of(request), query_parameters_of(request, SingleImageParameters)
    if parameters.index is not None and parameters.format != "png":
        raise InvalidParameter("The parameter class needs evidence=true and format=png, which draw its evidence.")
    if parameters.format == "png" and not parameters.evidence:
        raise InvalidParameter("The parameter format=png needs evidence=true, because only evidence can be drawn.")
    if parameters.format == "png" and parameters.embedding:
        raise InvalidParameter("The parameter embedding=true needs format=json, because a picture has no numbers.")
    deadline = deadline_of(request)
    run = _run(service, parameters, deadline)
    with await receive_upload(request, ["file"], 1, deadline) as upload, cancel_on_disconnect(request):
        (image,) = upload.images
        try:
            if parameters.format == "png":
                return await _picture(service, image, parameters.index, upload.seconds, deadline)
            result = await _classify(service, run, image, upload.seconds)
        except (UnsupportedImage, UnreadableImage) as error:
            error.detail += hint_for(request)
            raise
        return _json(await _write(service, result, deadline), {"Server-Timing": _timing(result.seconds)})


@router.post(
    "/classify/batch",
    response_model=schemas.BatchClassification,
    responses=ERRORS,
    openapi_extra={
        "parameters": openapi_parameters(QueryParameters),
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": form("files", {"type": "array", "minItems": 1, "items": BINARY["schema"]}),
            },
        },
    },
)
async def classify_batch(request: Request) -> Response:
    """Return a result or an error for each image in the field `files` of the form, in order."""
    service, parameters = service_of(request), query_parameters_of(request, QueryParameters)
    if not is_form(request):
        raise InvalidParameter(
            f"The request has {content_type_of(request)}. Send the images as multipart/form-data, in a field named "
            "'files', or a single image to /classify."
        )
    deadline = deadline_of(request)
    run = _run(service, parameters, deadline)
    with (
        await receive_upload(request, ["files"], service.settings.max_client_batch_size, deadline) as upload,
        cancel_on_disconnect(request),
    ):
        async with asyncio.TaskGroup() as group:  # a defect in one task cancels the others
            results = [
                group.create_task(_result(service, run, image, upload.seconds, deadline)) for image in upload.images
            ]
    return _json(b'{"results":[' + b",".join(result.result() for result in results) + b"]}")


def _run(service: Service, parameters: QueryParameters, deadline: float) -> Run:
    """Return the classification of one image as the parameters ask for it."""
    return partial(
        service.classifier.classify,
        k=_top_k(service, parameters),
        evidence=parameters.evidence,
        embedding=parameters.embedding,
        deadline=deadline,
    )


def _top_k(service: Service, parameters: QueryParameters) -> int:
    if parameters.top_k is None:
        return min(service.settings.top_k, MAX_MAPS) if parameters.evidence else service.settings.top_k
    if parameters.evidence and parameters.top_k > MAX_MAPS:
        raise InvalidParameter(f"top_k '{parameters.top_k}' is too large with evidence=true; give at most {MAX_MAPS}.")
    return parameters.top_k


async def _picture(service: Service, image: bytes, index: int | None, read: float, deadline: float) -> Response:
    drawn = await service.classifier.draw_evidence(image, index, deadline=deadline)
    drawn.seconds["read"] = read
    service.observe_stages(drawn.seconds)
    headers = {"X-Class-Index": str(drawn.index), "Server-Timing": _timing(drawn.seconds)}
    return Response(drawn.png, media_type="image/png", headers=headers)


async def _classify(service: Service, run: Run, image: bytes, read: float) -> classifier.Classification:
    result = await run(image)
    result.seconds["read"] = read
    service.observe_stages(result.seconds)
    return result


async def _result(service: Service, run: Run, image: bytes, read: float, deadline: float) -> bytes:
    try:
        return await _write(service, await _classify(service, run, image, read), deadline)
    except ServiceError as error:
        service.metrics.rejected.labels(error.code).inc()
        return to_json({"error": problem(error).model_dump()})


async def _write(service: Service, result: classifier.Classification, deadline: float) -> bytes:
    """Return the result of one image as JSON."""
    return await service.classifier.write(lambda: to_json(_body(result)), len(result.predictions), deadline)


def _timing(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{stage};dur={value * 1e3:.2f}" for stage, value in seconds.items())


def _body(result: classifier.Classification) -> dict[str, Any]:
    predictions = {"predictions": [vars(prediction) for prediction in result.predictions]}
    return predictions if result.embedding is None else predictions | {"embedding": result.embedding.tolist()}


def _json(content: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, headers=headers, media_type="application/json")
