"""The Open Inference Protocol over REST, `/v2`, with extensions of Triton. Knows no tensor and no image.

Specification: https://github.com/kserve/open-inference-protocol. The extensions are those of Triton's documentation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.classification.decoding import SMALL_BYTES
from app.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InvalidBody,
    InvalidParameter,
    NotSupported,
    Overloaded,
    UnknownModel,
    UnsupportedEncoding,
)
from app.http import open_inference_schemas as schemas
from app.http.json_requests import decoded
from app.http.json_responses import json_response
from app.http.openapi import BINARY, MODEL_ERRORS, NAME, VERSION
from app.http.parameters import timeout_parameter
from app.http.problems import ERRORS_ANYWHERE, documented_as_json
from app.http.request_head import header_of
from app.http.uploads import cancel_on_disconnect, deadline_of, receive_body, service_of
from app.models.model import Service
from app.protocols import inference, metadata, rest_messages
from app.protocols.inference import NamedModel, find_model
from app.protocols.json_body import parse
from app.protocols.messages import InferRequest
from app.protocols.rest_messages import HEADER_LENGTH, InferMessage

router = APIRouter(tags=["Open Inference Protocol"], responses=documented_as_json(*ERRORS_ANYWHERE))

LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Length of the JSON document in front of binary tensors. 0: the whole body is the only input.",
}
UNKNOWN = documented_as_json(UnknownModel)
INFER_ERRORS = documented_as_json(*MODEL_ERRORS)
HEADER_LENGTH_BYTES = HEADER_LENGTH.lower().encode()

# Parts of Triton's API that the service does not have.
NOT_SUPPORTED = {
    "/v2/systemsharedmemory/{rest:path}": "Shared memory",
    "/v2/cudasharedmemory/{rest:path}": "Shared memory",
    "/v2/trace/setting": "The trace extension",
    "/v2/models/{name}/trace/setting": "The trace extension",
    "/v2/logging": "The logging extension",
    "/v2/models/{name}/generate": "The generate extension",
    "/v2/models/{name}/generate_stream": "The generate extension",
    "/v2/repository/models/{name}/load": "Loading a model while the service runs",
    "/v2/repository/models/{name}/unload": "Unloading a model while the service runs",
}

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class IndexRequest(BaseModel):
    """The body of a request for the index; it can be empty."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ready: bool = Field(default=False, description="List only the models that are ready.")


def carries_no_image(path: str) -> bool:
    """Return whether a path is one of `/v2` whose requests carry no image."""
    return path.startswith("/v2/") and not path.endswith("/infer")


def _get(path: str, model: Any, **options: Any) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint for GET and HEAD, and under the version of a model if the path has a model."""

    def register(endpoint: Endpoint) -> Endpoint:
        for each, parameters in _with_versions(path):
            extra = {"parameters": parameters} if parameters else None
            router.get(each, response_model=model, openapi_extra=extra, **options)(endpoint)
            router.head(each, include_in_schema=False)(endpoint)
        return endpoint

    return register


def _with_versions(path: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return a path with its parameters, and the same path with a version if it has a model."""
    if "{name}" not in path:
        return [(path, [])]
    return [(path, [NAME]), (path.replace("{name}", "{name}/versions/{version}"), [NAME, VERSION])]


@_get("/v2/health/live", schemas.Live, responses={503: {"model": schemas.Live, "description": "Restart the process."}})
async def live(request: Request) -> Response:
    """Return whether the server lives. If it does not, restart the process."""
    is_live = not service_of(request).is_broken
    return JSONResponse({"live": is_live}, 200 if is_live else 503)


@_get("/v2/health/ready", schemas.Ready, responses={503: {"model": schemas.Ready, "description": "Send no requests."}})
async def ready(request: Request) -> Response:
    """Return whether the server is ready for inference."""
    return _readiness(service_of(request), {})


@_get("/v2", schemas.ServerMetadata)
async def server(_: Request) -> Response:
    """Return the name, the version and the extensions of the server."""
    return json_response(metadata.server_metadata())


@_get("/v2/models/stats", schemas.Statistics)
async def all_statistics(request: Request) -> Response:
    """Return the statistics of all models."""
    service = service_of(request)
    found = await service.backend.statistics()
    named = [find_model(service.models, model.name) for model in service.models]
    return json_response({"model_stats": [metadata.model_statistics(each, found) for each in named]})


@_get("/v2/models/{name}", schemas.ModelMetadata, responses=UNKNOWN)
async def model(request: Request) -> Response:
    """Return the input and the output of a model: `pixels`, or `image` for `NAME.encoded`."""
    return json_response(metadata.model_metadata(_model_of(request)))


@_get(
    "/v2/models/{name}/ready",
    schemas.ModelReady,
    responses={503: {"model": schemas.ModelReady, "description": "Send no requests."}} | UNKNOWN,
)
async def model_ready(request: Request) -> Response:
    """Return whether a model is ready for inference."""
    return _readiness(service_of(request), {"name": _model_of(request).name})


@_get("/v2/models/{name}/config", schemas.ModelConfig, responses=UNKNOWN)
async def config(request: Request) -> Response:
    """Return the configuration of a model in the words of Triton."""
    return json_response(metadata.model_config(_model_of(request), service_of(request).settings.max_client_batch_size))


@_get("/v2/models/{name}/stats", schemas.Statistics, responses=UNKNOWN)
async def statistics(request: Request) -> Response:
    """Return the statistics of a model since the start of the service."""
    named, found = _model_of(request), await service_of(request).backend.statistics()
    return json_response({"model_stats": [metadata.model_statistics(named, found)]})


@router.post(
    "/v2/repository/index",
    response_model=list[schemas.IndexEntry],
    responses=documented_as_json(
        InvalidBody, InvalidParameter, UnsupportedEncoding, ImageTooLarge, Overloaded, DeadlineExceeded
    ),
    openapi_extra={
        "parameters": [timeout_parameter()],
        "requestBody": {"content": {"application/json": {"schema": IndexRequest.model_json_schema()}}},
    },
)
async def index(request: Request) -> Response:
    """Return the state of each model."""
    service = service_of(request)
    with await receive_body(request, deadline_of(request)) as upload:
        (body,) = upload.images
        if len(body) > SMALL_BYTES:
            raise InvalidBody(f"The body has {len(body)} bytes. A request for the index has at most {SMALL_BYTES}.")
        only_ready = parse(IndexRequest, body or b"{}").ready
    return json_response(metadata.repository_index(service.models, is_ready=service.is_ready, only_ready=only_ready))


async def infer(request: Request) -> Response:
    """Return the outputs of a model for one or several images.

    The input is `pixels`, preprocessed, or `image`, encoded. The outputs are `logits`, or their best
    classes with the parameter `classification`, and `embedding` on request.
    """
    service, named, deadline = service_of(request), _model_of(request), deadline_of(request)
    with await receive_body(request, deadline) as upload, cancel_on_disconnect(request):
        message = await _decode(request, named, upload.images[0], deadline)
        if message.timeout is not None:
            deadline = min(deadline, request.state.started + message.timeout)
        response = await inference.infer(
            named,
            message,
            max_images=service.settings.max_client_batch_size,
            deadline=deadline,
            read_seconds=upload.seconds,
            on_image=service.observe_stages,
        )
        content, header_length = await named.model.classifier.write(
            partial(rest_messages.encode_response, response), response.values, deadline
        )
    if header_length is None:
        return Response(content, media_type="application/json")
    headers = {HEADER_LENGTH: str(header_length)}
    return Response(content, headers=headers, media_type="application/octet-stream")


for _path, _parameters in _with_versions("/v2/models/{name}/infer"):
    router.post(
        _path,
        response_model=schemas.InferResult,
        responses=INFER_ERRORS | {200: {"content": {"application/octet-stream": BINARY}}},
        openapi_extra={
            "parameters": [*_parameters, LENGTH, timeout_parameter()],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": InferMessage.model_json_schema()},
                    "application/octet-stream": BINARY,
                },
            },
        },
    )(infer)


async def not_supported(request: Request) -> Response:
    """Refuse a part of Triton's API that the service does not have."""
    raise NotSupported(f"{NOT_SUPPORTED[request.scope['route'].path]} is not supported.")


for _path in NOT_SUPPORTED:
    router.api_route(_path, methods=["GET", "POST"], include_in_schema=False)(not_supported)


async def _decode(request: Request, named: NamedModel, body: bytes, deadline: float) -> InferRequest:
    """Return the request in a body. A large JSON document is not parsed on the event loop."""
    length = header_of(request.scope, HEADER_LENGTH_BYTES)
    if rest_messages.is_raw(length):
        return InferRequest([inference.raw_input(named, body)], is_binary=True)
    size = rest_messages.document_length(length, len(body))
    decode = partial(rest_messages.decode_request, header_length=length)
    return await decoded(named.model, body, decode, deadline, size)


def _model_of(request: Request) -> NamedModel:
    parameters = request.path_params
    return find_model(service_of(request).models, parameters["name"], parameters.get("version"))


def _readiness(service: Service, fields: dict[str, Any]) -> Response:
    if service.is_ready:
        return json_response({**fields, "ready": True})
    return JSONResponse({**fields, "ready": False, "error": "The service is not ready."}, 503)
