"""The proof, stage by stage, so that a failure names its place.

    preprocessing   ours                    against the source library's own
    network         swin.py                 against the source library's own
    static          static.py               against swin.py
    onnx            the graph, as it serves against static.py, at every batch size
    evidence        the maps of each class  summed, against its logits
    end to end      bytes → logits          against the source library's own network

Logits are compared in units of their range over the images, so that one tolerance fits every head.
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
from app.classification.evidence import contributions
from app.images.preprocess import decode_pixels
from app.inference.engine import Engine, Logits
from model_export.checkpoints.checkpoint import Checkpoint
from model_export.errors import ProofFailed
from model_export.network.static import StaticSwin
from model_export.verification.images import Images, pixels_of

BATCH_SIZES = (1, 2, 3, 8)
LOGITS = 1e-4  # of the logit range, in float32
MEAN_LEVEL, ANY_LEVEL = 0.03, 6.0  # of 255: resizing only what the crop keeps rounds differently here and there
LIBRARIES = {"torch": torch, "onnx": onnx, "pillow": PIL, "numpy": np}


class Proof:
    """Compares one exported network with its source on some images."""

    def __init__(
        self, checkpoint: Checkpoint, static: StaticSwin, engine: Engine, images: Images, tolerance: float = LOGITS
    ) -> None:
        """`tolerance`, of the logit range, is the graph's: float32's, unless it is in another precision."""
        self.images = images
        self.head = Head(static.head.weight.detach().numpy(), static.head.bias.detach().numpy())
        self.pixels = pixels_of(images, checkpoint.preprocessing)
        self.engine, self._tolerance = engine, tolerance
        self._checkpoint, self._static = checkpoint, static
        self._source_images = torch.cat([checkpoint.reference.images(image) for image in images.values()])
        self._source_logits = checkpoint.reference.logits(self._source_images).numpy()
        self.logit_range = float(np.ptp(self._source_logits))
        if not self.logit_range > 0:
            raise ProofFailed("network", "the source's logits are all the same: there is nothing to compare")

    def stages(self) -> Iterator[Stage]:
        """Run the proof; each stage is yielded once it has passed.

        Raises:
            ProofFailed: at the first stage that does not.
        """
        return map(passed, self._stages())

    def verified(self, stages: Sequence[Stage]) -> Verified:
        """What the manifest says of it."""
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
        ours = normalize(torch.from_numpy(self.pixels), recipe)
        std = torch.tensor(recipe.std).view(3, 1, 1)
        levels = ((ours - self._source_images) * std / recipe.scale).abs()
        yield _stage("preprocessing, mean", source, "levels of 255", levels.mean(), MEAN_LEVEL)
        yield _stage("preprocessing, largest", source, "levels of 255", levels.max(), ANY_LEVEL)
        with torch.inference_mode():
            network = self._checkpoint.network(self._source_images).numpy()
            if self._checkpoint.reference.is_independent:
                yield self._logits("network", source, network, self._source_logits)
            expected = self._checkpoint.network(ours).numpy()
            static = self._static(torch.from_numpy(self.pixels))[0].numpy()
            yield self._logits("static", "the network", static, expected)
        for size in BATCH_SIZES:
            batch = np.resize(self.pixels, (size, *self.pixels.shape[1:]))  # repeats the images to fill it
            expected = np.resize(static, (size, static.shape[1]))
            yield self._served(f"onnx, batch of {size}", "the static network", self.engine.run(batch), expected)
        pairs = [self.engine.run_with_tokens(pixels[None]) for pixels in self.pixels]
        sums = np.stack([contributions(tokens[0], self.head).sum(axis=1) for _, tokens in pairs])
        yield self._logits("evidence", "the logits", sums, np.concatenate([logits for logits, _ in pairs]))
        # On our pixels: how far those may be from the source's own, the first two stages have said.
        expected = self._checkpoint.reference.logits(ours).numpy()
        yield self._served("end to end", source, self.logits, expected)

    def _logits(self, name: str, against: str, ours: Logits, theirs: Logits) -> Stage:
        return _stage(name, against, "of the logit range", np.abs(ours - theirs).max() / self.logit_range, LOGITS)

    def _served(self, name: str, against: str, ours: Logits, theirs: Logits) -> Stage:
        """A stage of the graph's."""
        return self._logits(name, against, ours, theirs).model_copy(update={"tolerance": self._tolerance})

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """What the engine makes of the images, from their bytes on: (images, classes)."""
        recipe = self._checkpoint.preprocessing
        decoded = (decode_pixels(png(image), recipe) for image in self.images.values())
        return np.concatenate([self.engine.run(pixels[None]) for pixels in decoded])


def passed(stage: Stage) -> Stage:
    """The stage, if its difference is tolerated.

    Raises:
        ProofFailed: it is not.
    """
    if not stage.difference <= stage.tolerance:  # also catches NaN
        raise ProofFailed(stage.name, f"differs by {stage.difference:.3g} {stage.unit}, {stage.tolerance:.3g} allowed")
    return stage


def normalize(pixels: Tensor, recipe: Preprocessing) -> Tensor:
    """Pixels (batch, height, width, 3) → what the published network takes, float32 (batch, 3, height, width)."""
    images = (pixels.float() * recipe.scale - torch.tensor(recipe.mean)) / torch.tensor(recipe.std)
    return images.permute(0, 3, 1, 2)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _stage(name: str, against: str, unit: str, difference: Tensor | np.floating, tolerance: float) -> Stage:
    return Stage(name=name, against=against, unit=unit, difference=float(difference), tolerance=tolerance)


def _versions() -> dict[str, str]:
    return {name: str(library.__version__) for name, library in LIBRARIES.items()}
