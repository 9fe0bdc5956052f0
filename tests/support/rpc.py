"""Clients of `inference.GRPCInferenceService`, and a service in this process for them."""

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from fastapi import FastAPI
from google.protobuf.message_factory import GetMessageClass

from app.grpc.proto.descriptors import METHODS, SERVICE_NAME
from app.grpc.proto.inference_pb2 import InferParameter, ModelInferRequest
from app.grpc.server import RpcServer, serving
from app.main import create_app
from app.observability.tracing import open_tracer
from app.settings import Settings

Metadata = Sequence[tuple[str, str]]


class RpcClient:
    """A client on one channel. `server` is the server at its other end, if that is in this process."""

    def __init__(self, channel: Any, server: RpcServer | None = None) -> None:
        self.channel, self._server = channel, server

    @property
    def address(self) -> str:
        """The address of the server."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.port}"

    @property
    def in_progress(self) -> int:
        """Number of calls that the server has accepted, and whose responses have not been sent."""
        assert self._server is not None
        return self._server.calls.in_progress

    def call(self, name: str, request: Any = None, *, metadata: Metadata = (), timeout: float | None = None) -> Any:
        """Start a call of an RPC by its name. Await the result for the response."""
        method = METHODS[name]
        request = GetMessageClass(method.input_type)() if request is None else request
        answer = GetMessageClass(method.output_type).FromString
        rpc = self.channel.unary_unary(route(name), _serialize, answer)
        return rpc(request, metadata=metadata, timeout=timeout)

    def silent_call(self, name: str, **options: Any) -> Any:
        """Start a call without sending its message."""
        return self.channel.stream_unary(route(name))(**options)


def route(name: str) -> str:
    """Return the full name of an RPC."""
    return f"/{SERVICE_NAME}/{name}"


def image_request(*images: bytes, model: str = "digits", **fields: Any) -> ModelInferRequest:
    """Return a request to infer with encoded images in `raw_input_contents`."""
    entry = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    contents: dict[str, Any] = {"inputs": [entry], "raw_input_contents": [raw]}
    return ModelInferRequest(model_name=model, **contents | fields)


def parameters(**values: Any) -> Mapping[str, InferParameter]:
    """Return parameters with values of the types that tritonclient uses."""
    return {
        name: InferParameter(**{"string_param" if isinstance(value, str) else "int64_param": value})
        for name, value in values.items()
    }


@asynccontextmanager
async def rpc_service(settings: Settings) -> AsyncIterator[tuple[FastAPI, RpcClient]]:
    """Open a service with HTTP and gRPC in this process, and a client of its gRPC port."""
    tracer = open_tracer()
    app = create_app(settings, tracer)
    async with (
        app.router.lifespan_context(app),
        serving(app.state.service, "127.0.0.1:0", tracer) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield app, RpcClient(channel, server)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
