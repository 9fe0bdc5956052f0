"""`GET /model` and the paths below it: the model in service, its golden samples, and the device of each engine."""

import importlib.metadata
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from app.bundle.load import Contents
from app.classification.ranking import top_k
from app.http.json_responses import json_response
from app.http.openapi import BINARY, path_parameter
from app.http.schemas import Problem
from app.http.uploads import service_of
from app.images.sniff import format_of
from app.settings import Settings

router = APIRouter(tags=["model"])

GOLDEN = "golden/"


@router.head("/model", include_in_schema=False)
@router.get("/model", response_model=dict[str, Any])
async def model(request: Request) -> Response:
    """Return the manifest, the labels, the answers of the golden samples, and what `GET /model/report` returns.

    `limits` has the limits on an image, and the number of classes in an answer.
    """
    service = service_of(request)
    content = {
        "version": importlib.metadata.version("swin-serve"),
        "name": service.models.default.name,
        "manifest": service.bundle.manifest.model_dump(mode="json"),
        "labels": [label.name for label in service.bundle.labels],
        "golden": _golden(service.bundle),
        "limits": _limits(service.settings),
        **await service.backend.report(),
    }
    # FastAPI's encoder takes twenty times as long: 13 ms of the event loop for 22,000 labels.
    return json_response(content)


@router.head("/model/report", include_in_schema=False)
@router.get("/model/report", response_model=dict[str, Any])
async def report(request: Request) -> Response:
    """Return a report of each engine, the utilization of each component, and the bottleneck in a sentence.

    A report has the device, as the engine's session reports it, and the time of each batch size.
    """
    return json_response(await service_of(request).backend.report())


@router.head("/model/golden/{file}", include_in_schema=False)
@router.get(
    "/model/golden/{file}",
    response_class=Response,
    responses={200: {"content": {"image/*": BINARY}}, 404: {"model": Problem, "description": "No such sample."}},
    openapi_extra={"parameters": [path_parameter("file", "The file name of a golden sample.")]},
)
async def golden(request: Request) -> Response:
    """Return the image of a golden sample."""
    file = GOLDEN + request.path_params["file"]
    for sample in service_of(request).bundle.samples:
        if sample.file == file:
            headers = {"X-Content-Type-Options": "nosniff"}
            return Response(sample.image, media_type=f"image/{format_of(sample.image)}", headers=headers)
    raise HTTPException(HTTPStatus.NOT_FOUND)


def _golden(contents: Contents) -> list[dict[str, Any]]:
    """Return the best class of each golden sample, by the logits in the bundle."""
    rows = list[dict[str, Any]]()
    for sample in contents.samples:
        ((index, score),) = top_k(sample.logits, 1, contents.manifest.activation)
        rows.append({"file": sample.file, "index": index, "label": contents.labels[index].name, "score": score})
    return rows


def _limits(settings: Settings) -> dict[str, Any]:
    return {
        "body_bytes": settings.max_body_mib * 2**20,
        "megapixels": settings.max_megapixels,
        "formats": settings.formats,
        "top_k": settings.top_k,
    }
