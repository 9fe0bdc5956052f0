"""The options of `swin-export build` that speak of the checkpoint: where it is silent, or in place of what it says.

Nothing here needs torch before the options are used.
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Two groups: what the checkpoint is, and how its images are prepared."""
    add = parser.add_argument_group("the checkpoint, where it does not say").add_argument
    add(
        "--source",
        choices=get_args(SourceKind),
        help="whose format it is (default: told from its content)",
    )
    add(
        "--architecture",
        metavar="NAME",
        help="published variant of a bare state dict, for example swinv2_tiny_window8_256 (default: told from the "
        "weights; timm's version 2 does not say)",
    )
    add("--weights", metavar="KEY", help="set of weights to take where a file holds several, for example model_ema")
    add(
        "--labels",
        metavar="FILE",
        type=Path,
        help="names of the classes: a line for each, lines numbered from 0, a table with a header (index,name), "
        "or JSON: a list, id2label or class_to_idx (default: the checkpoint's own; ImageNet's for 1000 and 21841 "
        "classes; else numbers)",
    )
    add("--activation", choices=get_args(Activation), help="sigmoid where classes do not exclude each other")
    add(
        "--input-size",
        metavar="N|HxW",
        type=size,
        help="another input size than it was trained with; bias tables and position embeddings are interpolated",
    )
    add("--window", metavar="N", type=positive, help="another window size, in the same way")
    title = "preprocessing (default: the checkpoint's own, else its source's published one)"
    add = parser.add_argument_group(title).add_argument
    add("--resize", metavar="N|HxW", type=size, help="what images are resized to: the shorter side, or both")
    add("--fit", choices=("shorter-side", "squash", "pad"), help="how: keep the shape and crop, give it up, or fill up")
    add("--crop", metavar="N|HxW", type=size, help="what is kept of the middle; it is the input size")
    add("--interpolation", choices=("bicubic", "bilinear", "lanczos", "nearest"))
    add("--mean", metavar="R,G,B", type=channels, help="in units of 255, for example 0.485,0.456,0.406")
    add("--std", metavar="R,G,B", type=spreads)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """What the graph is converted to, and how much that may cost."""
    add = parser.add_argument_group("precision").add_argument
    add(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="fp16 for GPUs, int8 for CPUs; the float32 graph is proved first in any case (default: %(default)s)",
    )
    add(
        "--calibrate",
        metavar="DIR",
        type=Path,
        help="scale int8 activations by these images, up to 256, once and for all (default: by what each batch holds)",
    )
    add(
        "--min-agreement",
        metavar="FRACTION",
        type=fraction,
        default=0.99,
        help="of images whose best class must be float32's, else no bundle is written (default: %(default)s)",
    )


def precision_of(arguments: argparse.Namespace) -> "PrecisionOptions":
    """What was said at the command line.

    Raises:
        RequestError: there are no images to calibrate with, or nothing to calibrate.
    """
    from model_export.verification.images import from_folder
    from model_export.verification.precision_report import MAX_IMAGES, PrecisionOptions

    if arguments.calibrate and arguments.precision != "int8":
        raise RequestError("--calibrate is for --precision int8")
    if arguments.precision == "fp32":
        return PrecisionOptions()
    calibration, images = (
        from_folder(folder, MAX_IMAGES) if folder else None for folder in (arguments.calibrate, arguments.images)
    )
    return PrecisionOptions(arguments.precision, calibration, images, arguments.min_agreement)


def options_of(arguments: argparse.Namespace) -> "Options":
    """What was said at the command line.

    Raises:
        RequestError: the file of labels cannot be read, or two options contradict each other.
    """
    from model_export.checkpoints.checkpoint import Options
    from model_export.checkpoints.preprocessing import RecipeOptions

    if arguments.crop and arguments.input_size and arguments.crop != arguments.input_size:
        raise RequestError("--crop and --input-size differ; the crop is what the network gets")
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
    """Return the names in the order of the classes.

    The file has a line for each class, a number and a name in each line, a table with a header, or JSON: a list, an
    object from number to name as `id2label` is, or one from name to number as `class_to_idx` is.

    Raises:
        RequestError: the file cannot be read, or does not name the classes in one of these ways.
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
    """`224`, or `192x256` for height and width."""
    if not re.fullmatch(r"[1-9]\d{0,4}([x×][1-9]\d{0,4})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor HEIGHTxWIDTH")
    height, *width = map(int, re.split("[x×]", text))
    return height, width[0] if width else height


def positive(text: str) -> int:
    """A number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def channels(text: str) -> tuple[float, float, float]:
    """Three numbers with commas between them, or one for all three."""
    try:
        values = [float(value) for value in text.split(",")]
        red, green, blue = values * 3 if len(values) == 1 else values
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers with commas between them") from error
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r}: not all of them are finite")
    return red, green, blue


def spreads(text: str) -> tuple[float, float, float]:
    """Three numbers above 0."""
    values = channels(text)
    if min(values) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: images cannot be divided by that")
    return values
