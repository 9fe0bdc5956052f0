"""Metadata, configuration and state of models, as the Open Inference Protocol and Triton's extensions show them.

Knows no transport: each function returns the JSON document of REST, and the fields of gRPC have the same names.
"""

import importlib.metadata
from typing import Any

from app.models.registry import ModelRegistry
from app.observability.statistics import Statistics
from app.protocols.inference import ENCODED_SUFFIX, IMAGE, LOGITS, PIXELS, NamedModel, pixel_shape
from app.protocols.tensors import BYTES

SERVER_NAME = "swin-serve"
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"

# The stages of an image in each of Triton's durations.
COMPUTE_INPUT, COMPUTE_INFER, COMPUTE_OUTPUT = ("decode", "preprocess"), ("infer",), ("rank", "evidence")

# The extensions of Triton that the service has, by Triton's names.
EXTENSIONS = (
    "classification",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "model_configuration",
    "model_repository",
)


def server_metadata() -> dict[str, Any]:
    """Return the metadata of the server."""
    version = importlib.metadata.version("swin-serve")
    return {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(named: NamedModel) -> dict[str, Any]:
    """Return the metadata of a model: one input and one output. A size of -1 is that of the batch."""
    if named.takes_encoded:
        entry = {"name": IMAGE, "datatype": BYTES, "shape": [-1, 1]}
    else:
        entry = {"name": PIXELS, "datatype": "UINT8", "shape": [-1, *pixel_shape(named.model)]}
    classes = named.model.contents.manifest.classes
    return {
        "name": named.name,
        "versions": [named.model.version],
        "platform": PLATFORM,
        "inputs": [entry],
        "outputs": [{"name": LOGITS, "datatype": "FP32", "shape": [-1, classes]}],
    }


def model_config(named: NamedModel, max_images: int) -> dict[str, Any]:
    """Return the configuration of a model in the words of Triton. `max_images` bounds the batch of one request."""
    if named.takes_encoded:
        entry = {"name": IMAGE, "data_type": "TYPE_STRING", "format": "FORMAT_NONE", "dims": [1]}
    else:
        shape = list(pixel_shape(named.model))
        entry = {"name": PIXELS, "data_type": "TYPE_UINT8", "format": "FORMAT_NHWC", "dims": shape}
    output = {
        "name": LOGITS,
        "data_type": "TYPE_FP32",
        "dims": [named.model.contents.manifest.classes],
        "label_filename": "labels.txt",
    }
    return {
        "name": named.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_images,
        "input": [entry],
        "output": [output],
        "dynamic_batching": {},
    }


def model_statistics(named: NamedModel, found: Statistics) -> dict[str, Any]:
    """Return the statistics of a model since the start of the service. Each image counts as a request of its own.

    `compute_input` is decoding and preprocessing, `compute_infer` the engine, `compute_output` the
    ranking. `fail` has no requests that were refused before their model was known, such as those
    without a key. The service does not measure how long failed requests took.
    """
    seconds = {stage: duration.seconds for stage, duration in found.stages.items()}

    def duration(*stages: str) -> dict[str, int]:
        return _duration(found.images, sum(seconds.get(stage, 0.0) for stage in stages))

    computed = ("queue", *COMPUTE_INPUT, *COMPUTE_INFER, *COMPUTE_OUTPUT)
    return {
        "name": named.name,
        "version": named.model.version,
        "last_inference": int(found.last_at * 1e3),
        "inference_count": found.images,
        "execution_count": sum(batch.events for batch in found.batches.values()),
        "inference_stats": {
            "success": duration(*computed),
            "fail": _duration(found.failed, 0.0),
            "queue": duration("queue"),
            "compute_input": duration(*COMPUTE_INPUT),
            "compute_infer": duration(*COMPUTE_INFER),
            "compute_output": duration(*COMPUTE_OUTPUT),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(batch.events, 0.0),
                "compute_infer": _duration(batch.events, batch.seconds),
                "compute_output": _duration(batch.events, 0.0),
            }
            for size, batch in sorted(found.batches.items())
        ],
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def repository_index(models: ModelRegistry, *, is_ready: bool, only_ready: bool) -> list[dict[str, Any]]:
    """Return the name, version and state of each model under both of its names."""
    if only_ready and not is_ready:
        return []
    state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "the service is not ready")
    return [
        {"name": name, "version": model.version, "state": state, "reason": reason}
        for model in models
        for name in (model.name, f"{model.name}{ENCODED_SUFFIX}")
    ]
