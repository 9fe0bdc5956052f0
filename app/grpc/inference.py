"""The RPCs of `inference.GRPCInferenceService`. Knows no tensor and no image.

Specification: https://github.com/kserve/open-inference-protocol. The extensions are those of Triton's documentation.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict

from app.errors import NotSupported
from app.grpc.calls import Call
from app.grpc.messages import decode_infer_request, encode_infer_response, parse, structure_bytes
from app.grpc.proto.inference_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from app.protocols import inference, metadata
from app.protocols.inference import NamedModel, find_model

M = TypeVar("M")


async def server_live(call: Call) -> ServerLiveResponse:
    """Return whether the server lives. If it does not, restart the process."""
    return ServerLiveResponse(live=not call.service.is_broken)


async def server_ready(call: Call) -> ServerReadyResponse:
    """Return whether the server is ready for inference."""
    return ServerReadyResponse(ready=call.service.is_ready)


async def model_ready(call: Call) -> ModelReadyResponse:
    """Return whether a model is ready for inference."""
    await _named_model(call, ModelReadyRequest)
    return ModelReadyResponse(ready=call.service.is_ready)


async def server_metadata(_: Call) -> ServerMetadataResponse:
    """Return the name, the version and the extensions of the server."""
    return _message(metadata.server_metadata(), ServerMetadataResponse())


async def model_metadata(call: Call) -> ModelMetadataResponse:
    """Return the input and the output of a model: `pixels`, or `image` for `NAME.encoded`."""
    named = await _named_model(call, ModelMetadataRequest)
    return _message(metadata.model_metadata(named), ModelMetadataResponse())


async def model_config(call: Call) -> ModelConfigResponse:
    """Return the configuration of a model in the words of Triton."""
    named = await _named_model(call, ModelConfigRequest)
    config = metadata.model_config(named, call.service.settings.max_client_batch_size)
    return _message({"config": config}, ModelConfigResponse())


async def model_statistics(call: Call) -> ModelStatisticsResponse:
    """Return the statistics of a model, or of all models, since the start of the service."""
    models = call.service.models
    request = await call.receive(partial(parse, ModelStatisticsRequest))
    names = [request.name] if request.name else [model.name for model in models]
    named = [find_model(models, name, request.version or None) for name in names]
    found = await call.service.backend.statistics()
    return _message(
        {"model_stats": [metadata.model_statistics(each, found) for each in named]}, ModelStatisticsResponse()
    )


async def repository_index(call: Call) -> RepositoryIndexResponse:
    """Return the state of each model."""
    service = call.service
    request = await call.receive(partial(parse, RepositoryIndexRequest))
    index = metadata.repository_index(service.models, is_ready=service.is_ready, only_ready=request.ready)
    return _message({"models": index}, RepositoryIndexResponse())


async def model_infer(call: Call) -> ModelInferResponse:
    """Return the outputs of a model for one or several images.

    The input is `pixels`, preprocessed, or `image`, encoded. The outputs are `logits`, or their best
    classes with the parameter `classification`, and `embedding` on request.
    """
    service = call.service
    service.classifier.admit()  # refuse before the message is read
    started = time.perf_counter()
    async with call.receive_upload(decode_infer_request, structure_bytes) as (name, version, request):
        read_seconds = time.perf_counter() - started
        named = find_model(service.models, name, version)
        deadline = call.deadline
        if request.timeout is not None:
            deadline = min(deadline, call.started + request.timeout)
        response = await inference.infer(
            named,
            request,
            max_images=service.settings.max_client_batch_size,
            deadline=deadline,
            read_seconds=read_seconds,
            on_image=service.observe_stages,
        )
        return await named.model.classifier.write(partial(encode_infer_response, response), response.values, deadline)


async def not_supported(_: Call) -> None:
    """Refuse an RPC that the service does not have."""
    raise NotSupported("The RPC is not supported. Server reflection lists the RPCs of the service.")


# The RPCs by name, as in `inference.proto`.
RPCS: Mapping[str, Callable[[Call], Awaitable[Any]]] = {
    "ServerLive": server_live,
    "ServerReady": server_ready,
    "ModelReady": model_ready,
    "ServerMetadata": server_metadata,
    "ModelMetadata": model_metadata,
    "ModelInfer": model_infer,
    "ModelConfig": model_config,
    "ModelStatistics": model_statistics,
    "RepositoryIndex": repository_index,
}

# The RPCs that can be served without an API key.
HEALTH = ("ServerLive", "ServerReady")


async def _named_model(call: Call, kind: type[Any]) -> NamedModel:
    """Return the model that a message names."""
    request = await call.receive(partial(parse, kind))
    return find_model(call.service.models, request.name, request.version or None)


def _message(document: Mapping[str, Any], message: M) -> M:
    """Return a message with the fields of a document of REST. Fields that gRPC does not have are left out."""
    filled: M = ParseDict(document, message, ignore_unknown_fields=True)
    return filled
