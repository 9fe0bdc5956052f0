"""What the clients of Triton for REST and for gRPC share. Knows neither of them."""

from typing import Any

import numpy as np

from tests.clients.scripts.calls import Call, image_of

# Classes that the action `classes` requests.
CLASSES = 3

# The shortest timeout of a request, in microseconds.
SHORTEST = 1

# Methods of a client that need the name of a model. Other methods that the action can name need none.
METHODS_OF_MODEL = {
    "is_model_ready",
    "get_model_metadata",
    "get_model_config",
    "get_inference_statistics",
    "load_model",
}


def input_of(call: Call, kind: type[Any]) -> Any:
    """Return the input of a call, of the class `InferInput` of a client: `pixels`, or the file as `image`."""
    if call["action"] == "pixels":
        array = np.load(call["image"])
        tensor = kind("pixels", list(array.shape), "UINT8")
    else:
        array = np.array([[image_of(call)]], np.object_)
        tensor = kind("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def values_of(result: Any, name: str) -> Any:
    """Return an output of a result as lists."""
    array = result.as_numpy(name)
    return array.astype(str).tolist() if array.dtype == np.object_ else array.tolist()
