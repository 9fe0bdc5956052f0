"""The client of Triton for gRPC, `tritonclient.grpc`."""

from typing import Any

from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tests.clients.scripts.calls import Call, answer
from tests.clients.scripts.triton import CLASSES, METHODS_OF_MODEL, SHORTEST, input_of, values_of


def metadata_of(call: Call) -> dict[str, str]:
    """Return the header fields of a call as metadata, whose names are in lower case."""
    return {name.lower(): value for name, value in call["headers"].items()}


def options_of(call: Call) -> dict[str, Any]:
    """Return the arguments of `infer` that an action needs beside the model and the input."""
    options: dict[str, dict[str, Any]] = {
        "logits": {},
        "pixels": {},
        "gzip": {"compression_algorithm": "gzip"},
        "deflate": {"compression_algorithm": "deflate"},
        "classes": {"outputs": [InferRequestedOutput("logits", class_count=CLASSES)]},
        "embedding": {"outputs": [InferRequestedOutput("embedding")]},
        "options": {"request_id": "42", "priority": 1, "timeout": 60_000_000, "client_timeout": 60},
        "timeout": {"timeout": SHORTEST},
    }
    return options[call["action"]] | {"headers": metadata_of(call)}


def value_of(call: Call, result: Any) -> Any:
    """Return the only output of a result as lists, or with the id if the call has set one."""
    response = result.get_response()
    (name,) = [entry.name for entry in response.outputs]
    rows = values_of(result, name)
    return [response.id, rows] if call["action"] == "options" else rows


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
        return value_of(call, client.infer(model, [input_of(call, InferInput)], **options_of(call)))
    finally:
        client.close()


if __name__ == "__main__":
    answer(run)
