"""The client of Triton for gRPC, `tritonclient.grpc`."""

from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tests.clients.scripts.calls import Call, answer, image_of

# Classes that the action `classes` requests.
CLASSES = 3

# The shortest timeout of a request, in microseconds.
SHORTEST = 1


def metadata_of(call: Call) -> dict[str, str]:
    """Return the header fields of a call as metadata, whose names are in lower case."""
    return {name.lower(): value for name, value in call["headers"].items()}


def encoded(call: Call) -> InferInput:
    """Return the input `image`: the bytes of a file."""
    tensor = grpc.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image_of(call)]], np.object_))
    return tensor


def pixels(call: Call) -> InferInput:
    """Return the input `pixels`: an array of a file."""
    array = np.load(call["image"])
    tensor = grpc.InferInput("pixels", list(array.shape), "UINT8")
    tensor.set_data_from_numpy(array)
    return tensor


def input_of(call: Call) -> InferInput:
    """Return the input of a call."""
    return pixels(call) if call["action"] == "pixels" else encoded(call)


def output(name: str, **options: Any) -> InferRequestedOutput:
    """Return an output to request."""
    return grpc.InferRequestedOutput(name, **options)


def options_of(call: Call) -> dict[str, Any]:
    """Return the arguments of `infer` that an action needs beside the model and the input."""
    options: dict[str, dict[str, Any]] = {
        "logits": {},
        "pixels": {},
        "gzip": {"compression_algorithm": "gzip"},
        "deflate": {"compression_algorithm": "deflate"},
        "classes": {"outputs": [output("logits", class_count=CLASSES)]},
        "embedding": {"outputs": [output("embedding")]},
        "options": {"request_id": "42", "priority": 1, "timeout": 60_000_000, "client_timeout": 60},
        "timeout": {"timeout": SHORTEST},
    }
    return options[call["action"]] | {"headers": metadata_of(call)}


def value_of(call: Call, result: Any) -> Any:
    """Return the only output of a result as lists, or with the id if the call has set one."""
    response = result.get_response()
    (name,) = [entry.name for entry in response.outputs]
    array = result.as_numpy(name)
    rows = array.astype(str).tolist() if array.dtype == np.object_ else array.tolist()
    return [response.id, rows] if call["action"] == "options" else rows


# Methods of the client that need the name of a model. Other methods that the action can name need none.
METHODS_OF_MODEL = {
    "is_model_ready",
    "get_model_metadata",
    "get_model_config",
    "get_inference_statistics",
    "load_model",
}


def run(call: Call) -> Any:
    """Run a call with a client of its own."""
    client = InferenceServerClient(call["rpc_address"])
    action, model, headers = call["action"], call["model"], metadata_of(call)
    try:
        if action == "index":
            return client.get_model_repository_index(headers=headers, as_json=True)["models"]
        if hasattr(client, action):
            arguments = [model] if action in METHODS_OF_MODEL else []
            options = {"as_json": True} if action.startswith("get_") else {}
            return getattr(client, action)(*arguments, headers=headers, **options)
        return value_of(call, client.infer(model, [input_of(call)], **options_of(call)))
    finally:
        client.close()


if __name__ == "__main__":
    answer(run)
