"""Responses of the Open Inference Protocol, as OpenAPI shows them. Knows no request."""

from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, Field


class Live(BaseModel):
    """The liveness of the server."""

    live: bool


class Ready(BaseModel):
    """The readiness of the server. `error` explains false."""

    ready: bool
    error: str = Field("", description="Present if the server is not ready.")


class ModelReady(Ready):
    """The readiness of a model."""

    name: str = Field(examples=["digits"])


class ServerMetadata(BaseModel):
    """The name and version of the server, and the extensions that it has."""

    name: str = Field(examples=["swin-serve"])
    version: str = Field(examples=[version("swin-serve")])
    extensions: list[str]


class TensorMetadata(BaseModel):
    """The type of a tensor. A size of -1 is that of the batch."""

    name: str = Field(examples=["pixels"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 224, 224, 3]])


class ModelMetadata(BaseModel):
    """The input and the output of a model."""

    name: str = Field(examples=["digits"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = Field(examples=["onnxruntime_onnx"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelConfig(BaseModel):
    """The configuration of a model in the words of Triton's `ModelConfig`."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int = Field(description="The setting `max_client_batch_size`.")
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    dynamic_batching: dict[str, Any]


class Duration(BaseModel):
    """A number of events and their nanoseconds."""

    count: int
    ns: int


class InferenceStatistics(BaseModel):
    """The durations of an image. Each image counts as a request of its own."""

    success: Duration
    fail: Duration = Field(description="Images and requests that ended in an error. Their time is not measured.")
    queue: Duration
    compute_input: Duration = Field(description="Decoding and preprocessing.")
    compute_infer: Duration = Field(description="The engine.")
    compute_output: Duration = Field(description="Ranking and evidence.")
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """The batches of one size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """The statistics of a model since the start of the service."""

    name: str
    version: str
    last_inference: int = Field(description="End of the last batch in milliseconds since 1970; 0 if there was none.")
    inference_count: int = Field(description="Images.")
    execution_count: int = Field(description="Batches.")
    inference_stats: InferenceStatistics
    response_stats: dict[str, Any]
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any]


class Statistics(BaseModel):
    """The statistics of one model or of all models."""

    model_stats: list[ModelStatistics]


class IndexEntry(BaseModel):
    """The state of a model under one of its names."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class OutputMessage(BaseModel):
    """An output. It has `data`, or follows the JSON document in its binary form."""

    name: str = Field(examples=["logits"])
    datatype: Literal["FP32", "BYTES"]
    shape: list[int] = Field(examples=[[1, 10]])
    data: list[Any] = Field([], description="The elements, flat, in row-major order.")
    parameters: dict[str, Any] = Field({}, description="`binary_data_size` of an output in its binary form.")


class InferResult(BaseModel):
    """The outputs of an inference."""

    model_name: str = Field(examples=["digits"])
    model_version: str = Field(examples=["1"])
    id: str = Field("", description="The id of the request, if it has one.")
    outputs: list[OutputMessage]
