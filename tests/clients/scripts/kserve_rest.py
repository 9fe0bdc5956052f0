"""The client of KServe for REST, `kserve.InferenceRESTClient`, with the protocols V1 and V2."""

import asyncio
import base64
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from tests.clients.scripts.calls import Call, answer, image_of


async def ask(call: Call) -> Any:
    """Return what the method of the client that the action names returns."""
    protocol, _, action = call["action"].partition(" ")
    url, model, headers = call["url"], call["model"], call["headers"]
    async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
        if action == "predict":
            instances = {"instances": [{"data": base64.b64encode(image_of(call)).decode()}]}
            return await client.infer(url, instances, model_name=model, headers=headers)
        if action in {"binary", "base64"}:
            request = InferRequest(model, [binary_input(call) if action == "binary" else base64_input(call)])
            result = await client.infer(url, request, model_name=model, headers=headers)
            return result.outputs[0].as_numpy().tolist()
        if action == "is_model_ready":
            return await client.is_model_ready(url, model, headers=headers)
        return await getattr(client, action)(url, headers=headers)


def binary_input(call: Call) -> InferInput:
    """Return the input `image`: the bytes of a file, in their binary form."""
    tensor = InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image_of(call)]], np.object_), binary_data=True)
    return tensor


def base64_input(call: Call) -> InferInput:
    """Return the input `image`: the bytes of a file in base64."""
    data = [base64.b64encode(image_of(call)).decode()]
    return InferInput("image", [1, 1], "BYTES", data=data, parameters={"content_type": "base64"})


if __name__ == "__main__":
    answer(lambda call: asyncio.run(ask(call)))
