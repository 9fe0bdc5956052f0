"""The client of Triton for REST, `tritonclient.http`."""

from typing import Any

from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.clients.scripts.calls import Call, answer
from tests.clients.scripts.triton import CLASSES, METHODS_OF_MODEL, SHORTEST, input_of, values_of


def options_of(call: Call) -> dict[str, Any]:
    """Return the arguments of `infer` that an action needs beside the model and the input."""
    options: dict[str, dict[str, Any]] = {
        "logits": {},
        "pixels": {},
        "json": {"outputs": [InferRequestedOutput("logits", binary_data=False)]},
        "gzip": {"request_compression_algorithm": "gzip"},
        "deflate": {"request_compression_algorithm": "deflate"},
        "classes": {"outputs": [InferRequestedOutput("logits", class_count=CLASSES)]},
        "embedding": {"outputs": [InferRequestedOutput("embedding")]},
        "options": {"request_id": "42", "priority": 1, "timeout": 60_000_000},
        "timeout": {"timeout": SHORTEST},
    }
    return options[call["action"]]


def value_of(call: Call, result: Any) -> Any:
    """Return the only output of a result as lists, or with the id if the call has set one."""
    (name,) = [entry["name"] for entry in result.get_response()["outputs"]]
    rows = values_of(result, name)
    return [result.get_response()["id"], rows] if call["action"] == "options" else rows


def run(call: Call) -> Any:
    """Run a call with a client of its own."""
    client = InferenceServerClient(call["url"].removeprefix("http://"))
    action, model, headers = call["action"], call["model"], call["headers"]
    try:
        if action == "index":
            return client.get_model_repository_index(headers=headers)
        if hasattr(client, action):
            arguments = [model] if action in METHODS_OF_MODEL else []
            return getattr(client, action)(*arguments, headers=headers)
        return value_of(call, client.infer(model, [input_of(call, InferInput)], headers=headers, **options_of(call)))
    finally:
        client.close()


if __name__ == "__main__":
    answer(run)
