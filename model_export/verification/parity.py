"""The comparison of an exported graph with its checkpoint, in stages, so that a failure names the faulty part.

    stage           compared                             with
    preprocessing   the preprocessing of the service     the preprocessing of the source library
    network         swin.py                              the network of the source library
    static          static.py                            swin.py
    onnx            the graph, at every batch size       static.py
    evidence        the sum of each evidence map         the logits of the graph
    embedding       the embedding of the service         the pooled features of the source library
    end to end      encoded bytes → logits               the network of the source library

The unit of logit differences is the range of the logits over the images, so that one tolerance fits every head. The
unit of embedding differences is the range of the embeddings. The logits do not prove the embedding: a head of 10
classes reads 10 of its directions, and the network can have 768.
"""

import io
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import onnx
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from app.bundle.load import Head
from app.bundle.manifest import Preprocessing, Stage, Verified
from app.classification.embedding import mean_token
from app.classification.evidence import contributions
from app.images.preprocess import decode_pixels
from app.inference.engine import Engine, Logits
from model_export.checkpoints.checkpoint import Checkpoint
from model_export.errors import VerificationFailed
from model_export.network.static import StaticSwin
from model_export.verification.images import Images, preprocess_images

# Batch sizes of the `onnx` stage. 3 is not a power of two.
BATCH_SIZES = (1, 2, 3, 8)
# Tolerance of float32 logits and embeddings, as a share of their range.
LOGIT_TOLERANCE = 1e-4
# Tolerances of the mean and the largest pixel difference, in levels of 255. The service resizes only the part that the
# crop keeps, which rounds some pixels differently.
MEAN_PIXEL_TOLERANCE, MAX_PIXEL_TOLERANCE = 0.03, 6.0
# Libraries with versions that the manifest records.
LIBRARIES = {"torch": torch, "onnx": onnx, "pillow": PIL, "numpy": np}


class ParityCheck:
    """A comparison of one exported graph with its checkpoint on some images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        static: StaticSwin,
        engine: Engine,
        images: Images,
        tolerance: float = LOGIT_TOLERANCE,
    ) -> None:
        """Preprocess the images and run the source network.

        Args:
            checkpoint: the source.
            static: the static network made from the checkpoint.
            engine: an engine that runs the exported graph.
            images: the images to compare on.
            tolerance: the tolerance of the graph, as a share of the range of its values; by default that of float32.

        Raises:
            VerificationFailed: all logits of the source are equal.
        """
        self.images = images
        self.head = Head(static.head.weight.detach().numpy(), static.head.bias.detach().numpy())
        self.pixels = preprocess_images(images, checkpoint.preprocessing)
        self.engine, self._tolerance = engine, tolerance
        self._checkpoint, self._static = checkpoint, static
        self._source_images = torch.cat([checkpoint.reference.images(image) for image in images.values()])
        self._source_logits = checkpoint.reference.logits(self._source_images).numpy()
        self.logit_range = float(np.ptp(self._source_logits))
        if not self.logit_range > 0:
            raise VerificationFailed("network", "all logits of the source are equal, so there is nothing to compare")

    def stages(self) -> Iterator[Stage]:
        """Run the stages in order, and yield each stage that has passed.

        Raises:
            VerificationFailed: a stage found a difference above its tolerance.
        """
        return map(check_tolerance, self._stages())

    def verified(self, stages: Sequence[Stage]) -> Verified:
        """Summarize the stages for the manifest."""
        logits = self.logits
        agreement = np.mean(logits.argmax(axis=1) == self._source_logits.argmax(axis=1))
        return Verified(
            stages=tuple(stages),
            images=len(self.images),
            batch_sizes=BATCH_SIZES,
            max_logit_difference=float(np.abs(logits - self._source_logits).max()),
            logit_range=self.logit_range,
            top1_agreement=float(agreement),
            versions={"onnxruntime": self.engine.device_report.runtime, **_versions()},
        )

    def _stages(self) -> Iterator[Stage]:
        source, recipe = self._checkpoint.reference.name, self._checkpoint.preprocessing
        normalized = normalize(torch.from_numpy(self.pixels), recipe)
        std = torch.tensor(recipe.std).view(3, 1, 1)
        levels = ((normalized - self._source_images) * std / recipe.scale).abs()
        yield _stage("preprocessing, mean", source, "levels of 255", levels.mean(), MEAN_PIXEL_TOLERANCE)
        yield _stage("preprocessing, largest", source, "levels of 255", levels.max(), MAX_PIXEL_TOLERANCE)
        with torch.inference_mode():
            network = self._checkpoint.network(self._source_images).numpy()
            if self._checkpoint.reference.is_independent:
                yield self._logits_stage("network", source, network, self._source_logits)
            expected = self._checkpoint.network(normalized).numpy()
            static = self._static(torch.from_numpy(self.pixels))[0].numpy()
            yield self._logits_stage("static", "the network", static, expected)
        for size in BATCH_SIZES:
            batch = np.resize(self.pixels, (size, *self.pixels.shape[1:]))  # repeat the images to fill the batch
            expected = np.resize(static, (size, static.shape[1]))
            yield self._graph_stage(f"onnx, batch of {size}", "the static network", self.engine.run(batch), expected)
        pairs = [self.engine.run_with_tokens(pixels[None]) for pixels in self.pixels]
        sums = np.stack([contributions(tokens[0], self.head).sum(axis=1) for _, tokens in pairs])
        yield self._logits_stage("evidence", "the logits", sums, np.concatenate([logits for logits, _ in pairs]))
        # Use the pixels of the service. The preprocessing stages have compared them with those of the source.
        embeddings = np.stack([mean_token(tokens[0]) for _, tokens in pairs])
        yield self._embedding_stage(source, embeddings, self._checkpoint.reference.embedding(normalized).numpy())
        expected = self._checkpoint.reference.logits(normalized).numpy()
        yield self._graph_stage("end to end", source, self.logits, expected)

    def _logits_stage(self, name: str, against: str, actual: Logits, expected: Logits) -> Stage:
        difference = np.abs(actual - expected).max() / self.logit_range
        return _stage(name, against, "of the logit range", difference, LOGIT_TOLERANCE)

    def _graph_stage(self, name: str, against: str, actual: Logits, expected: Logits) -> Stage:
        """Compare with the tolerance of the graph, which depends on its precision."""
        stage = self._logits_stage(name, against, actual, expected)
        return stage.model_copy(update={"tolerance": self._tolerance})

    def _embedding_stage(self, against: str, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> Stage:
        difference = np.abs(actual - expected).max() / np.ptp(expected)
        return _stage("embedding", against, "of the embedding range", difference, self._tolerance)

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """The logits of the engine for the PNG files of the images: `(images, classes)`."""
        recipe = self._checkpoint.preprocessing
        decoded = (decode_pixels(png(image), recipe) for image in self.images.values())
        return np.concatenate([self.engine.run(pixels[None]) for pixels in decoded])


def check_tolerance(stage: Stage) -> Stage:
    """Return the stage if its difference is within its tolerance.

    Raises:
        VerificationFailed: the difference is above the tolerance, or NaN.
    """
    if not stage.difference <= stage.tolerance:  # `>` would be false for NaN
        raise VerificationFailed(
            stage.name, f"differs by {stage.difference:.3g} {stage.unit}, {stage.tolerance:.3g} allowed"
        )
    return stage


def normalize(pixels: Tensor, recipe: Preprocessing) -> Tensor:
    """Normalize pixels `(batch, height, width, 3)` to float32 `(batch, 3, height, width)`, as `swin.py` expects."""
    images = (pixels.float() * recipe.scale - torch.tensor(recipe.mean)) / torch.tensor(recipe.std)
    return images.permute(0, 3, 1, 2)


def png(image: Image.Image) -> bytes:
    """Encode the image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _stage(name: str, against: str, unit: str, difference: Tensor | np.floating, tolerance: float) -> Stage:
    return Stage(name=name, against=against, unit=unit, difference=float(difference), tolerance=tolerance)


def _versions() -> dict[str, str]:
    return {name: str(library.__version__) for name, library in LIBRARIES.items()}
