"""The schema of the bundle, which is the only contract between export and service. Reads no files.

The export writes this folder and the service reads it:

    bundle/
        model.onnx      input  `pixels`  uint8    (batch, height, width, 3), RGB
                        output `logits`  float32  (batch, classes)
                        output `tokens`  float32  (batch, positions, channels), in raster order: see `LastMap`
        labels.json     [{"name": …, "wnid": …}, …] in the order of the classes
        manifest.json   everything else: see `Manifest`
        golden/         images, and the logits that the network must return for them
        head/           weight.npy (classes, channels), bias.npy (classes): logits = weight · mean token + bias

An unknown key is an error, and so is a missing key: the reader has no defaults.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

SCHEMA_VERSION: Literal[1] = 1
MODEL, LABELS, MANIFEST, GOLDEN_LOGITS = "model.onnx", "labels.json", "manifest.json", "golden/logits.npy"
HEAD_WEIGHT, HEAD_BIAS = "head/weight.npy", "head/bias.npy"

# The largest tolerance of golden samples, as a share of the logit range. A larger one would let
# wrong logits pass.
MAX_TOLERANCE = 0.05

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
    """A part of the manifest: strictly typed, complete and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Contract):
    """The origin of the weights, the preprocessing and the labels."""

    kind: SourceKind
    id: str
    revision: str | None
    weights_sha256: Sha256
    preprocessing_from: PreprocessingFrom
    labels_from: LabelsFrom


class Architecture(Contract):
    """The network, in the words of the paper (Liu et al. 2021). Tuples have one value per stage.

    Windows are (height, width). `dialect` names the implementation that defines the treatment of
    maps with sides that are no multiple of the window.
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
    """Resize the shorter side to this length. The longer side is rounded down, as in the sources."""

    mode: Literal["shorter_side"]
    size: Size


class Cover(Contract):
    """Resize to just cover this size, in the shape of the image. Sides are rounded half to even."""

    mode: Literal["cover"]
    height: Size
    width: Size


class Pad(Contract):
    """Resize to just fit into this size, in the shape of the image. Fill the rest with one color."""

    mode: Literal["pad"]
    height: Size
    width: Size
    fill: tuple[Level, Level, Level]


class CenterCrop(Contract):
    """Crop to the center.

    Half of an odd margin is rounded down by Hugging Face, and half to even by torchvision.
    """

    height: Size
    width: Size
    rounding: Literal["down", "half_even"]


class Preprocessing(Contract):
    """The way from an RGB image to pixels, as in training.

    The network itself normalizes the pixels: (scale · byte - mean) / std.
    """

    resize: Annotated[Squash | ShorterSide | Cover | Pad, Field(discriminator="mode")]
    crop: CenterCrop | None
    interpolation: Interpolation
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        # The sources would pad with black. Networks are not trained so, so this is more likely a
        # mistake.
        if self.crop is None or isinstance(self.resize, Pad):
            return self
        resize = self.resize
        sides = (resize.size, resize.size) if isinstance(resize, ShorterSide) else (resize.height, resize.width)
        if self.crop.height > sides[0] or self.crop.width > sides[1]:
            raise ValueError(f"a crop of {self.crop.height}×{self.crop.width} is larger than the resized image")
        return self

    @property
    def output_size(self) -> tuple[int, int] | None:
        """The (height, width) of every preprocessed image; None if the size depends on the image."""
        if self.crop is not None:
            return self.crop.height, self.crop.width
        return (self.resize.height, self.resize.width) if isinstance(self.resize, Squash | Pad) else None


class Stage(Contract):
    """One stage of the proof: the two sides that were compared, and the largest difference."""

    name: str
    against: str
    unit: str
    difference: float
    tolerance: float


class Verified(Contract):
    """The proof that the export passed before it wrote the bundle."""

    stages: tuple[Stage, ...]
    images: Size
    batch_sizes: tuple[Size, ...]
    max_logit_difference: float
    logit_range: float
    top1_agreement: float
    versions: dict[str, str]


class BucketTime(Contract):
    """The time of a batch on the machine of the export, in this precision and in float32."""

    batch: Size
    milliseconds: float
    fp32_milliseconds: float


class Ledger(Contract):
    """The gain and cost of the precision, compared with the float32 graph that passed the proof.

    `max_batch_difference` is the largest change of a logit when its image is run together with
    others. With dynamic int8, the images of a batch share the scale of the activations.
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
    """An image, and the digest of its pixels after preprocessing.

    Row i of the golden logits belongs to sample i.
    """

    file: str
    pixels_sha256: Sha256


class Golden(Contract):
    """The samples that the service must reproduce on its device, to a tolerance in logits."""

    samples: Annotated[tuple[GoldenSample, ...], Field(min_length=1)]
    tolerance: float


class Evaluation(Contract):
    """The accuracy on images that the network was not trained on."""

    dataset: str
    images: Size
    top1: float


class LastMap(Contract):
    """The map of tokens on which evidence is laid out.

    A position stands for `stride`² pixels. The last row and column may extend over the edge of the
    image.
    """

    height: Size
    width: Size
    channels: Size
    stride: Size

    @property
    def positions(self) -> int:
        """The number of tokens of an image."""
        return self.height * self.width


class Manifest(Contract):
    """The content of `manifest.json`."""

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
    """The name of a class, and its WordNet id if one is known."""

    name: str
    wnid: str | None


LABEL_LIST = TypeAdapter(tuple[Label, ...])
