"""The bundle: the folder the export writes and the service reads, and the only contract between the two.

    bundle/
      model.onnx      input  `pixels`  uint8    (batch, height, width, 3), RGB
                      output `logits`  float32  (batch, classes)
                      output `tokens`  float32  (batch, positions, channels), in raster order: see `LastMap`
      labels.json     [{"name": …, "wnid": …}, …] in the order of the classes
      manifest.json   everything else: see `Manifest`
      golden/         images, and the logits the network must give for them
      head/           weight.npy (classes, channels), bias.npy (classes): logits = weight · mean token + bias

An unknown key is an error, and so is a missing one: there are no defaults on the reading side.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

SCHEMA_VERSION: Literal[1] = 1
MODEL, LABELS, MANIFEST, GOLDEN_LOGITS = "model.onnx", "labels.json", "manifest.json", "golden/logits.npy"
HEAD_WEIGHT, HEAD_BIAS = "head/weight.npy", "head/bias.npy"

MAX_TOLERANCE = 0.05
"""Of the logit range: a golden sample that may be further off proves nothing."""

Size = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Level = Annotated[int, Field(ge=0, le=255)]
SourceKind = Literal["huggingface", "timm", "torchvision", "original"]
PreprocessingFrom = Literal["checkpoint", "published recipe", "options"]
LabelsFrom = Literal["checkpoint", "published names", "options", "numbers"]
Activation = Literal["softmax", "sigmoid"]
Precision = Literal["fp32", "fp16", "int8"]
Method = Literal["fp32", "fp16", "int8 dynamic", "int8 calibrated"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


class Contract(BaseModel):
    """A part of the manifest: strictly typed, complete, and fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Contract):
    """Where the weights came from."""

    kind: SourceKind
    id: str
    revision: str | None
    weights_sha256: Sha256
    preprocessing_from: PreprocessingFrom
    labels_from: LabelsFrom


class Architecture(Contract):
    """The network, in the words of the paper; by stage where there are several values, windows as (height, width).

    `dialect`: whose treatment of maps that the windows do not divide.
    """

    family: Literal["swin", "swin_v2"]
    patch_size: Size
    embed_dim: Size
    depths: tuple[Size, ...]
    num_heads: tuple[Size, ...]
    window_sizes: tuple[tuple[Size, Size], ...]
    dialect: Literal["original", "timm", "torchvision"]
    mlp_ratio: float
    qkv_bias: bool
    patch_norm: bool
    absolute_position_embedding: bool
    norm_eps: float
    parameters: Size


class Squash(Contract):
    """Resize to exactly this size, whatever the shape of the image."""

    mode: Literal["squash"]
    height: Size
    width: Size


class ShorterSide(Contract):
    """Resize so that the shorter side has this length; the longer one is rounded down, as the sources do."""

    mode: Literal["shorter_side"]
    size: Size


class Cover(Contract):
    """Resize so that the image just covers this size, keeping its shape; the other side is rounded half to even."""

    mode: Literal["cover"]
    height: Size
    width: Size


class Pad(Contract):
    """Resize so that the image just fits into this size, keeping its shape, and fill what is left with one color."""

    mode: Literal["pad"]
    height: Size
    width: Size
    fill: tuple[Level, Level, Level]


class CenterCrop(Contract):
    """Cut the middle out. Half of an odd margin is rounded: down by Hugging Face, half to even by torchvision."""

    height: Size
    width: Size
    rounding: Literal["down", "half_even"]


class Preprocessing(Contract):
    """RGB image → pixels as the checkpoint was trained; then (scale · byte - mean) / std, inside the network."""

    resize: Annotated[Squash | ShorterSide | Cover | Pad, Field(discriminator="mode")]
    crop: CenterCrop | None
    interpolation: Interpolation
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        """The sources would pad with black here; nobody trains so, and it is more likely a mistake."""
        if self.crop is None or isinstance(self.resize, Pad):
            return self
        resize = self.resize
        sides = (resize.size, resize.size) if isinstance(resize, ShorterSide) else (resize.height, resize.width)
        if self.crop.height > sides[0] or self.crop.width > sides[1]:
            raise ValueError(f"a crop of {self.crop.height}×{self.crop.width} is larger than the resized image")
        return self

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) every image comes out with; None where that depends on the image."""
        if self.crop is not None:
            return self.crop.height, self.crop.width
        return (self.resize.height, self.resize.width) if isinstance(self.resize, Squash | Pad) else None


class Stage(Contract):
    """One stage of the proof: what was compared with what, and the largest difference seen."""

    name: str
    against: str
    unit: str
    difference: float
    tolerance: float


class Verified(Contract):
    """The proof the export passed before it wrote the bundle."""

    stages: tuple[Stage, ...]
    images: Size
    batch_sizes: tuple[Size, ...]
    max_logit_difference: float
    logit_range: float
    top1_agreement: float
    versions: dict[str, str]


class BucketTime(Contract):
    """How long a batch took on the machine that exported, and how long in float32 beside it."""

    batch: Size
    milliseconds: float
    fp32_milliseconds: float


class Ledger(Contract):
    """What the precision gains and costs, beside the float32 graph that was proved.

    `max_batch_difference` is how far a logit moves when its image is run together with others: with int8 dynamic,
    activations are scaled by all that a batch holds.
    """

    method: Method
    bytes: Size
    fp32_bytes: Size
    images: Size
    top1_agreement: float
    max_logit_difference: float
    max_batch_difference: float
    logit_range: float
    kept_float32: tuple[str, ...]
    buckets: tuple[BucketTime, ...]


class GoldenSample(Contract):
    """An image and the digest of the pixels it must become. Row i of the golden logits belongs to sample i."""

    file: str
    pixels_sha256: Sha256


class Golden(Contract):
    """What the service must reproduce on its own device before it is ready. The tolerance is in logits."""

    samples: Annotated[tuple[GoldenSample, ...], Field(min_length=1)]
    tolerance: float


class Evaluation(Contract):
    """Accuracy measured on images the network has not seen."""

    dataset: str
    images: Size
    top1: float


class LastMap(Contract):
    """The map of tokens that evidence is laid out on.

    A position stands for `stride`² pixels; the last row and column may reach over the image's edge.
    """

    height: Size
    width: Size
    channels: Size
    stride: Size

    @property
    def positions(self) -> int:
        """Tokens of an image."""
        return self.height * self.width


class Manifest(Contract):
    """`manifest.json`."""

    schema_version: Literal[1]
    name: str
    source: Source
    architecture: Architecture
    opset: Size
    input_height: Size
    input_width: Size
    classes: Size
    evidence: LastMap
    activation: Activation
    preprocessing: Preprocessing
    precision: Precision
    ledger: Ledger
    golden: Golden
    verified: Verified
    evaluation: Evaluation | None
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.preprocessing.output_size != (self.input_height, self.input_width):
            raise ValueError(f"preprocessing does not end with {self.input_height}×{self.input_width} pixels")
        grid = tuple(-(-side // self.evidence.stride) for side in (self.input_height, self.input_width))
        if grid != (self.evidence.height, self.evidence.width):
            raise ValueError(f"evidence.height and width should be {grid[0]} and {grid[1]}")
        if not 0 < self.golden.tolerance <= MAX_TOLERANCE * self.verified.logit_range:
            raise ValueError(f"golden.tolerance {self.golden.tolerance:g} would let any logits pass")
        return self


class Label(Contract):
    """The name of a class, and its WordNet id where one is known."""

    name: str
    wnid: str | None


LABEL_LIST = TypeAdapter(tuple[Label, ...])
