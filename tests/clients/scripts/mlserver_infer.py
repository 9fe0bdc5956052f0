"""The command `mlserver infer`, in one process: its import takes seconds."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlserver.cli.main import root

from tests.clients.scripts.calls import Call, answer, image_of


def run(call: Call) -> Any:
    """Return the first output that the command has written, or raise the error that it has written instead."""
    with tempfile.TemporaryDirectory() as folder:
        requests, results = Path(folder, "requests"), Path(folder, "results")
        requests.write_text(json.dumps({"inputs": [input_of(call)]}) + "\n")
        fields = [word for name, value in call["headers"].items() for word in ("-H", f"{name}:{value}")]
        words = [
            "-u",
            call["url"].removeprefix("http://"),
            "-m",
            call["model"],
            "-i",
            str(requests),
            "-o",
            str(results),
        ]
        root.main(["infer", *words, *fields, "--retries", "1"], standalone_mode=False)
        result = json.loads(results.read_text())
    if "error" in result:
        raise RuntimeError(result["error"]["msg"])
    (output,) = result["outputs"]
    return np.reshape(output["data"], output["shape"]).tolist()


def input_of(call: Call) -> dict[str, Any]:
    """Return `pixels`, an array of a file, or `image`, the text of a file: the command drops the mark of base64."""
    if call["action"] == "image":
        return {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [image_of(call).decode()]}
    array = np.load(call["image"])
    return {"name": "pixels", "datatype": "UINT8", "shape": list(array.shape), "data": array.ravel().tolist()}


if __name__ == "__main__":
    answer(run)
