"""The command line of the build step (`swin-export`). Imports torch only after the arguments are parsed."""

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app import shell_completion
from app.errors import StartError
from app.inference import onnx_runtime
from app.system.device import CPU, Device, one_device
from model_export.cli.arguments import (
    add_checkpoint_options,
    add_precision_options,
    options_of,
    positive,
    precision_of,
)
from model_export.errors import ExportError, RequestError

BUILD = """\
Export a checkpoint to a bundle that swin-serve can serve.

CHECKPOINT is one of:

  a folder of transformers' save_pretrained or of timm: config.json with model.safetensors or pytorch_model.bin
  the id of such a repository on the Hugging Face Hub: microsoft/swin-tiny-patch4-window7-224,
    timm/swin_s3_tiny_224.ms_in1k
  a file of weights: a state dict of timm, torchvision (swin_t, swin_v2_b, …) or the original code, bare or inside the
    dictionary of a training script ({"model": …}, {"state_dict": …})

The format is detected from the file contents; override it with --source. The input size, the preprocessing and the
class names come from the settings that a training script saved beside the weights: timm's args or args.yaml,
torchvision's args, the original code's config, Lightning's hyper_parameters. Without them, published settings are used.
Before the export, a table shows network, preprocessing and labels with their origins. Each assumption is printed with
the option that changes it.

A checkpoint cannot run code: only the tensors of a pickle are read.

OUTPUT is the folder of the bundle. It is written only after the verification has passed. The verification runs the
exported graph with the code of the service, and compares logits and embeddings with those of the source library. The
source library runs its own network and preprocessing. If timm or torchvision is not installed, or the network is
resized, swin.py is the reference instead; the manifest names the reference. The verification has these stages:

  preprocessing   resize and crop             compared with the library, or with the recipe in separate steps
  network         swin.py in torch            compared with the network of the library
  static          constant masks and biases   compared with swin.py
  onnx            ONNX Runtime                compared with the static network, in batches of 1, 2, 3 and 8
  evidence        the sum of each map         compared with the logits
  embedding       the mean of the tokens      compared with the pooled features of the library
  end to end      encoded bytes to logits     compared with the network of the library

For fp16 and int8, the verified graph is then converted and compared with itself in float32.
"""
BUILD_END = """\
examples:
  swin-export build ./my-fine-tune ./my-bundle
  swin-export build microsoft/swin-tiny-patch4-window7-224 swin-tiny --images ./some-photos
  swin-export build ./swin_t_flowers.pth ./flowers --labels flowers.txt
  swin-export build ./swinv2.safetensors ./mine --architecture swinv2_tiny_window8_256
  swin-serve run --bundle ./my-bundle

exit codes:
  0  the bundle is written
  1  a step failed; OUTPUT is unchanged
  2  an argument is wrong, the checkpoint cannot be read, or the model is not supported
"""


EVALUATE = """\
Measure the accuracy of a bundle on labeled images, with the code of the service. The report contains top-1 and top-5
accuracy with 95 % confidence intervals, the calibration error, the worst classes and the most frequent confusions.

DATA is a folder with one folder per class, or a CSV file. The folders are named by label, WordNet id or index of the
bundle's labels.json. The CSV file has the column path, relative to the file, and one of label, wnid and index. Files
that cannot be read are counted and listed. If the accuracy of the checkpoint has been published, it is shown beside the
measured accuracy.
"""
EVALUATE_END = """\
examples:
  swin-export evaluate ./my-bundle ./held-out
  swin-export evaluate ./swin-tiny ./imagenet/val --limit 5000 --output report.json
  swin-export evaluate ./swin-tiny ./photos.csv --classes n02099601 "tabby, tabby cat"

exit codes:
  0  the accuracy is measured
  1  none of the images can be read
  2  an argument is wrong, the bundle or the device cannot be used, or a folder names no class
"""
VERIFY = """\
Verify a bundle on this machine: the digests of its files, the device, the pixels and logits of the golden samples, and
that all batch sizes give the same logits as a batch of 1.

With --checkpoint, the stages of build run again too, from the network of the source library to the graph in the bundle.
Repeat the options that the bundle was built with.
"""
VERIFY_END = """\
examples:
  swin-export verify ./my-bundle --device cuda
  swin-export verify ./my-bundle --checkpoint ./my-fine-tune

exit codes:
  0  every stage passed
  1  a stage failed; the message names it
  2  an argument is wrong, there is no bundle, or the checkpoint cannot be read
"""
INSPECT = """\
Show the contents of a bundle: source, architecture, preprocessing, labels, verification, golden samples and files. Also
show the operators of its graph and the multiply-accumulates per image.
"""
INSPECT_END = """\
exit codes:
  0  the contents are shown
  2  there is no bundle, or it is damaged
"""


PROGRAM = "swin-export"

# The remedy for a library that is not installed.
NEEDED = f"{PROGRAM} needs: pip install 'swin-serve[cpu,export]'"


@dataclass(frozen=True)
class Command:
    """A subcommand: its summary, its help page, its arguments and its function."""

    summary: str
    description: str
    end: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Return the exit code: 0 for success, 1 for a failure, 2 for wrong arguments or inputs."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        options.run(options)
    except ExportError as error:
        return _fail(str(error), error.exit_code)
    except StartError as error:  # the given bundle or device cannot be used
        return _fail(str(error), RequestError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", ExportError.exit_code)
    return 0


def _build(options: argparse.Namespace) -> None:
    with _libraries():
        onnx_runtime.load()
        from model_export.build import build
        from model_export.console import Progress
        from model_export.verification.images import read_images
    try:
        build(
            options.checkpoint,
            options.output,
            options=options_of(options),
            precision=precision_of(options),
            images=read_images(options.images) if options.images else None,
            name=options.name,
            replace=options.force,
            progress=Progress(quiet=options.quiet),
        )
    except StartError as error:  # the service's reader rejected the bundle that was written
        raise ExportError(str(error)) from error
    if not options.quiet:
        print(f"wrote {options.output}; serve it with: swin-serve run --bundle {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    with _libraries():
        onnx_runtime.load()
        from model_export.console import open_console
        from model_export.evaluation.evaluate import evaluate, show
    if options.output and not options.output.parent.is_dir():
        raise RequestError(
            f"there is no folder {options.output.parent} to write {options.output.name} into; create it first"
        )
    if options.output and (options.output.is_dir() or not os.access(options.output.parent, os.W_OK)):
        raise RequestError(f"cannot write {options.output}; choose another --output")
    report = evaluate(
        options.bundle,
        options.data,
        device=options.device,
        batch=options.batch,
        limit=options.limit,
        classes=options.classes,
    )
    show(report, open_console())
    if options.output:
        options.output.write_text(_json(report.document()), encoding="utf-8")


def _verify(options: argparse.Namespace) -> None:
    with _libraries():
        onnx_runtime.load()
        from model_export.console import Progress
        from model_export.verification.bundle import verify_bundle
    verify_bundle(
        options.bundle,
        checkpoint=options.checkpoint,
        options=options_of(options),
        device=options.device,
        progress=Progress(),
    )


def _inspect(options: argparse.Namespace) -> None:
    with _libraries():
        from model_export.bundle_io.describe import inspect, show
        from model_export.console import open_console
    facts = inspect(options.bundle)
    if options.json:
        print(_json(facts), end="")
    else:
        show(facts, open_console())


def _completion(options: argparse.Namespace) -> None:
    print(shell_completion.script(_parser(), options.shell), end="")


@contextlib.contextmanager
def _libraries() -> Iterator[None]:
    """Convert a failed import of a library. torch takes seconds to import, so it is imported inside the commands.

    A command that runs a graph loads ONNX Runtime first, with telemetry off. In transformers, it would be on.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RequestError(f"{error.name} is not installed; {NEEDED}") from error
    except StartError as error:
        raise RequestError(f"onnxruntime is not installed; {NEEDED}") from error


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _fail(reason: str, code: int) -> int:
    print(f"swin-export: {reason}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Export a Swin Transformer classifier to a bundle, and evaluate, verify or inspect a bundle.",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("swin-serve"))
    commands = parser.add_subparsers(title="commands", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.summary,
            description=command.description,
            epilog=command.end,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a folder, a file of weights, or the id of a repository on the Hub")
    add("output", metavar="OUTPUT", type=Path, help="the folder of the bundle; it must not exist without --force")
    add_checkpoint_options(parser, is_build=True)
    add_precision_options(parser)
    add = parser.add_argument_group("verification images").add_argument
    add(
        "--images",
        metavar="DIR",
        type=Path,
        help="verify on the first 8 images of this folder by name, and keep them as golden samples of 640 pixels at "
        "most (default: generated images)",
    )
    add = parser.add_argument_group("output").add_argument
    add("--name", metavar="NAME", help="name the bundle (default: the name of the checkpoint)")
    add("--force", action="store_true", help="replace OUTPUT if it is a bundle")
    add("--quiet", action="store_true", help="print only assumptions and errors")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    add = parser.add_argument
    add("data", metavar="DATA", type=Path, help="a folder with one folder per class, or a CSV file")
    _add_device(parser)
    add("--batch", metavar="N", type=positive, default=8, help="run N images at a time (default: %(default)s)")
    add("--limit", metavar="N", type=positive, help="evaluate N images, evenly spread over DATA (default: all)")
    add(
        "--classes", metavar="CLASS", nargs="+", default=(), help="evaluate only images of these classes (default: all)"
    )
    add("--output", metavar="FILE", type=Path, help="also write the complete report to this file, as JSON")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    _add_device(parser)
    add_checkpoint_options(parser, is_build=False)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder of a bundle")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=_device,
        default=CPU,
        metavar="DEVICE",
        help="run on this device: cpu, cuda or cuda:N (default: cpu)",
    )


def _device(name: str) -> Device:
    try:
        return one_device(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


COMMANDS = {
    "build": Command("export a checkpoint to a bundle", BUILD, BUILD_END, _build_arguments, _build),
    "evaluate": Command(
        "measure the accuracy of a bundle on labeled images", EVALUATE, EVALUATE_END, _evaluate_arguments, _evaluate
    ),
    "verify": Command("verify a bundle on this machine", VERIFY, VERIFY_END, _verify_arguments, _verify),
    "inspect": Command("show the contents of a bundle", INSPECT, INSPECT_END, _inspect_arguments, _inspect),
    "completion": Command(
        shell_completion.SUMMARY,
        shell_completion.DESCRIPTION.format(program=PROGRAM),
        shell_completion.END,
        shell_completion.add_argument,
        _completion,
    ),
}
