"""The client of Hugging Face, `huggingface_hub.InferenceClient`."""

import base64
from pathlib import Path
from typing import Any

from huggingface_hub import InferenceClient

from tests.clients.scripts.calls import Call, answer, image_of


def run(call: Call) -> Any:
    """Return what the task that the action names returns. The client makes the header field of an API key itself."""
    headers = dict(call["headers"])
    key = headers.pop("Authorization", "").removeprefix("Bearer ") or None
    client = InferenceClient(base_url=f"{call['url']}{path_of(call)}", api_key=key, headers=headers)
    if call["action"].startswith("features"):
        text = base64.b64encode(image_of(call)).decode()
        return client.feature_extraction(
            text, normalize=True if call["action"].endswith("normalized") else None
        ).tolist()
    if call["action"] == "parameters":
        return client.image_classification(image_of(call), top_k=3, function_to_apply="none")
    return client.image_classification(Path(call["image"]) if call["action"] == "path" else image_of(call))


def path_of(call: Call) -> str:
    """Return the path of the task: `/`, the model, or its features."""
    if call["action"] == "root":
        return ""
    return f"/models/{call['model']}{'/features' if call['action'].startswith('features') else ''}"


if __name__ == "__main__":
    answer(run)
