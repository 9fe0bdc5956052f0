# /// script
# dependencies = ["mlserver==1.7.1", "onnxruntime==1.31.1", "pillow==13.0.0"]
# ///
"""MLServer: FastAPI with adaptive batching and the Open Inference Protocol.

Images are base64 in JSON.
"""

import asyncio
import base64
import json

from mlserver import MLModel, MLServer, ModelSettings
from mlserver.codecs import StringCodec
from mlserver.settings import ModelParameters, Settings
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.comparison.baselines.network import MAX_BATCH, PORT, Network, Recipe


class Classify(MLModel):
    """The model, in the process of the server: without a queue between processes."""

    async def load(self) -> bool:
        """Load the network."""
        self.recipe, self.network = Recipe(), Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the predictions of a batch, each as JSON in a string tensor."""
        answers = await asyncio.to_thread(self._classify, StringCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])

    def _classify(self, images: list[str]) -> list[str]:
        pixels = [self.recipe.read(base64.b64decode(image)) for image in images]
        return [json.dumps(answer) for answer in self.network.classify(pixels)]


async def serve() -> None:
    """Serve until the process is killed."""
    settings = Settings(host="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2, parallel_workers=0)
    model = ModelSettings(
        name="swin",
        implementation=Classify,
        max_batch_size=MAX_BATCH,
        max_batch_time=0.001,
        parameters=ModelParameters(version="1"),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve())
