"""The options of `swin-export build` and `verify`, and the conversion of their values. Imports no torch.

torch takes seconds to import. The modules that need it are imported when the options are used.
"""

import argparse
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from app.bundle.manifest import Activation, Label, Precision, SourceKind
from app.errors import sentence
from model_export.checkpoints.labels import from_text
from model_export.errors import RequestError

if TYPE_CHECKING:
    from model_export.checkpoints.checkpoint import Options
    from model_export.verification.precision_report import PrecisionOptions

Size = tuple[int, int]


def add_checkpoint_options(parser: argparse.ArgumentParser, *, is_build: bool) -> None:
    """Add the options that describe the checkpoint: its format, labels and preprocessing.

    `verify` takes the same options as `build`, with a checkpoint that is optional.
    """
    add = parser.add_argument_group("checkpoint").add_argument
    if not is_build:
        add("--checkpoint", metavar="CHECKPOINT", help="compare with this checkpoint too, given as for build")
    add(
        "--revision",
        metavar="REVISION",
        help="read this branch, tag or commit of the Hugging Face repository (default: its main branch)",
    )
    add(
        "--source",
        choices=get_args(SourceKind),
        help="read the checkpoint as the format of this library (default: detected from the file contents)",
    )
    add(
        "--architecture",
        metavar="NAME",
        help="read a bare state dict as this published variant, for example swinv2_tiny_window8_256 (default: "
        "detected from the weights; give it for timm's version 2, because those weights do not determine it)",
    )
    add(
        "--weights",
        metavar="KEY",
        help="take the weights under this key, for example model_ema, if a file holds several sets",
    )
    add(
        "--input-size",
        metavar="SIZE",
        type=size,
        help="change the input size, in pixels: N or HEIGHTxWIDTH; position biases and embeddings are interpolated "
        "(default: the size of the checkpoint)",
    )
    add(
        "--window",
        metavar="N",
        type=positive,
        help="change the window size, in positions; position biases are interpolated (default: the size of the "
        "checkpoint)",
    )
    add = parser.add_argument_group("labels").add_argument
    add(
        "--labels",
        metavar="FILE",
        type=Path,
        help="read the class names from this file: one name per line, lines numbered from 0, a CSV table with the "
        "header index,name, or JSON (a list, id2label or class_to_idx) (default: names in the checkpoint; without "
        "them ImageNet's names for 1000 and 21841 classes, else numbers)",
    )
    add(
        "--activation",
        choices=get_args(Activation),
        help="compute scores with this function; sigmoid is for classes that do not exclude each other (default: from "
        "the checkpoint, else softmax, or sigmoid for one class)",
    )
    title = "preprocessing"
    description = "Default: the settings of the checkpoint, else the published settings of its source."
    add = parser.add_argument_group(title, description).add_argument
    add(
        "--resize",
        metavar="SIZE",
        type=size,
        help="resize images to this size, in pixels: N for the shorter side, or HEIGHTxWIDTH",
    )
    add(
        "--fit",
        choices=("shorter-side", "squash", "pad"),
        help="resize the shorter side and crop, resize both sides and distort the image, or fit the image and pad it",
    )
    add(
        "--crop",
        metavar="SIZE",
        type=size,
        help="crop the center to this size, in pixels: N or HEIGHTxWIDTH; this is the input size of the network",
    )
    add(
        "--interpolation",
        choices=("bicubic", "bilinear", "lanczos", "nearest"),
        help="resize with this filter",
    )
    add(
        "--mean",
        metavar="VALUES",
        type=channels,
        help="subtract these means of red, green and blue, in units of 255, for example 0.485,0.456,0.406",
    )
    add(
        "--std",
        metavar="VALUES",
        type=spreads,
        help="divide by these standard deviations of red, green and blue, in units of 255",
    )


def add_precision_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the conversion to fp16 and int8."""
    add = parser.add_argument_group("precision").add_argument
    add(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="convert the verified float32 graph: fp16 is for GPUs, int8 for CPUs (default: %(default)s)",
    )
    add(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="compute constant int8 scales of activations from the images in this folder, 256 at most (default: each "
        "batch sets its own scales)",
    )
    add(
        "--min-agreement",
        metavar="FRACTION",
        type=fraction,
        default=0.99,
        help="write no bundle if the best class equals that of float32 for a smaller fraction of images "
        "(default: %(default)s)",
    )


def precision_of(arguments: argparse.Namespace) -> "PrecisionOptions":
    """Return the precision options of the command line.

    Raises:
        RequestError: a folder contains no readable images, or `--calibrate` is given without int8.
    """
    from model_export.verification.images import read_images
    from model_export.verification.precision_report import MAX_IMAGES, PrecisionOptions

    if arguments.calibrate and arguments.precision != "int8":
        raise RequestError("--calibrate is for --precision int8")
    if arguments.precision == "fp32":
        return PrecisionOptions()
    calibration, images = (
        read_images(folder, MAX_IMAGES) if folder else None for folder in (arguments.calibrate, arguments.images)
    )
    return PrecisionOptions(arguments.precision, calibration, images, arguments.min_agreement)


def options_of(arguments: argparse.Namespace) -> "Options":
    """Return the checkpoint options of the command line.

    Raises:
        RequestError: the file of labels cannot be read, or two options contradict each other.
    """
    from model_export.checkpoints.checkpoint import Options
    from model_export.checkpoints.preprocessing import RecipeOptions

    if arguments.crop and arguments.input_size and arguments.crop != arguments.input_size:
        raise RequestError(
            "--crop and --input-size differ; the crop is the input of the network, so give one of them or equal sizes"
        )
    return Options(
        source=arguments.source,
        revision=arguments.revision,
        architecture=arguments.architecture,
        weights=arguments.weights,
        input_size=arguments.input_size,
        window=arguments.window,
        labels=read_labels(arguments.labels) if arguments.labels else None,
        activation=arguments.activation,
        recipe=RecipeOptions(
            fit=arguments.fit,
            resize=arguments.resize,
            crop=arguments.crop,
            interpolation=arguments.interpolation,
            mean=arguments.mean,
            std=arguments.std,
        ),
    )


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read the class names in the order of the classes.

    The file has one name per line, a number and a name per line, a table with a header, or JSON. JSON is a list, an
    object from numbers to names (`id2label`), or an object from names to numbers (`class_to_idx`).

    Raises:
        RequestError: the file cannot be read, or has none of these forms.
    """
    try:
        return from_text(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} does not name classes: it is not text in UTF-8") from error
    except OSError as error:
        raise RequestError(f"{path} does not name classes: {sentence(error)}") from error
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{path} does not name classes: it begins like JSON but is not: {sentence(error)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} does not name classes: {sentence(error)}") from error


def size(text: str) -> Size:
    """Parse a size: `224`, or `192x256` for height and width."""
    if not re.fullmatch(r"[1-9]\d{0,4}([x×][1-9]\d{0,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give a number of pixels or HEIGHTxWIDTH")
    height, *width = map(int, re.split("[x×]", text))
    return height, width[0] if width else height


def positive(text: str) -> int:
    """Parse an integer above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def channels(text: str) -> tuple[float, float, float]:
    """Parse three numbers with commas between them, or one number for all three channels."""
    try:
        values = [float(value) for value in text.split(",")]
        red, green, blue = values * 3 if len(values) == 1 else values
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers with commas between them") from error
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not three finite numbers")
    return red, green, blue


def spreads(text: str) -> tuple[float, float, float]:
    """Parse standard deviations: three numbers above 0."""
    values = channels(text)
    if min(values) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a standard deviation must be above 0")
    return values
