"""`swin-export`: the build step at the command line."""

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

from app.errors import StartError
from app.system.device import CPU, Device, one_device
from model_export.cli.arguments import add_options, add_precision, options_of, positive, precision_of
from model_export.errors import ExportError, RequestError

BUILD = """\
Turn a checkpoint into a bundle that swin-serve can serve.

CHECKPOINT is one of

  a folder that save_pretrained wrote, or timm's equivalent: config.json with model.safetensors or pytorch_model.bin
  the id of either on the Hugging Face hub: microsoft/swin-tiny-patch4-window7-224, timm/swin_s3_tiny_224.ms_in1k
  a file of weights: a state dict of timm, torchvision (swin_t, swin_v2_b, …) or the authors' code, also inside what a
    training script saved ({"model": …}, {"state_dict": …})

Which it is, is told from the content. Settings that a training script saved beside the weights (timm's args or
args.yaml, torchvision's args, the authors' config, Lightning's hyper_parameters) count before the published ones: input
size, preprocessing, names of classes. What is assumed is printed as assumed, with the option that changes it.

No checkpoint can run code: pickles are read for their tensors only.

OUTPUT is the folder to write. It appears only after the proof has passed: the exported graph, run by the very code that
will serve it, gives the logits of the source library's own network, on images that go through the library's own
preprocessing. Where timm or torchvision is not installed, or a network is resized, swin.py stands in, and the manifest
says so. Each stage is compared by itself, so that a failure names its place:

  preprocessing   resize and crop            against the library's, or the recipe in separate steps
  network         swin.py in torch           against the library's network
  static          masks and biases baked in  against swin.py
  onnx            on ONNX Runtime            against the static network, in batches of 1, 2, 3 and 8
  evidence        the maps of each class     summed, against its logits
  end to end      bytes to logits            against the library's network

Then, for fp16 and int8, the graph is converted and compared with the one that was proved.
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
  1  the work failed; OUTPUT is untouched
  2  the request was wrong: bad option, unreadable checkpoint, unsupported model
"""


EVALUATE = """\
Measure how good a bundle is on labeled images, by the very code that serves it: top-1 and top-5 with their 95 %
intervals, calibration, the classes it is worst at and what it takes them for.

DATA is a folder with a folder for each class, named by label, WordNet id or index as in the bundle's labels.json; or a
CSV file with the columns path (relative to the file) and one of label, wnid and index. Files that cannot be read are
counted and listed. Where the accuracy of the checkpoint was published, it stands beside what is measured.
"""
EVALUATE_END = """\
examples:
  swin-export evaluate ./my-bundle ./held-out
  swin-export evaluate ./swin-tiny ./imagenet/val --limit 5000 --output report.json
  swin-export evaluate ./swin-tiny ./photos.csv --classes n02099601 "tabby, tabby cat"

exit codes:
  0  measured
  1  not one image could be read
  2  the request was wrong: bad option, bad bundle, no such device, a folder that names no class
"""
VERIFY = """\
Prove a bundle again, on this machine: its files by their digests, the device, the golden samples by pixels and logits,
and that every batch size gives what a batch of 1 gives. With --checkpoint everything that was proved when it was built,
from the source library's own network on; say the options it was built with again.
"""
VERIFY_END = """\
examples:
  swin-export verify ./my-bundle --device cuda
  swin-export verify ./my-bundle --checkpoint ./my-fine-tune

exit codes:
  0  every stage passed
  1  one did not; it is named
  2  the request was wrong: bad option, no bundle, unreadable checkpoint
"""
INSPECT = """\
Show what a bundle is: source, architecture, preprocessing, labels, proof, golden samples, files; and what its graph is
made of and costs.
"""
INSPECT_END = """\
exit codes:
  0  shown
  2  there is no bundle, or it is damaged
"""


@dataclass(frozen=True)
class Command:
    """A subcommand: its line in the list, its manual page, its arguments, and what it does."""

    summary: str
    description: str
    end: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code: 0 done, 1 the work failed, 2 the request was wrong."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    try:
        options.run(options)
    except ExportError as error:
        return _fail(str(error), error.exit_code)
    except StartError as error:  # a bundle that was given, or the device asked for
        return _fail(str(error), RequestError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", ExportError.exit_code)
    return 0


def _build(options: argparse.Namespace) -> None:
    with _libraries():
        from model_export.build import build
        from model_export.console import Progress
        from model_export.verification.images import from_folder
    try:
        build(
            options.checkpoint,
            options.output,
            options=options_of(options),
            precision=precision_of(options),
            images=from_folder(options.images) if options.images else None,
            name=options.name,
            replace=options.force,
            progress=Progress(quiet=options.quiet),
        )
    except StartError as error:  # the bundle's own reader refused what was written
        raise ExportError(str(error)) from error
    if not options.quiet:
        print(f"wrote {options.output}; serve it with: swin-serve run --bundle {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    with _libraries():
        from rich.console import Console

        from model_export.evaluation.evaluate import evaluate, show
    if options.output and not options.output.parent.is_dir():
        raise RequestError(f"there is no folder {options.output.parent} to write {options.output.name} into")
    if options.output and (options.output.is_dir() or not os.access(options.output.parent, os.W_OK)):
        raise RequestError(f"{options.output} cannot be written")
    report = evaluate(
        options.bundle,
        options.data,
        device=options.device,
        batch=options.batch,
        limit=options.limit,
        classes=options.classes,
    )
    show(report, Console())
    if options.output:
        options.output.write_text(_json(report.document()), encoding="utf-8")


def _verify(options: argparse.Namespace) -> None:
    with _libraries():
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
        from rich.console import Console

        from model_export.bundle_io.describe import inspect, show
    facts = inspect(options.bundle)
    if options.json:
        print(_json(facts), end="")
    else:
        show(facts, Console())


@contextlib.contextmanager
def _libraries() -> Iterator[None]:
    """Around imports that are not at the top of the file: torch takes seconds, and --help does not need it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise RequestError(
            f"{error.name} is not installed; the export needs: pip install 'swin-serve[cpu,export]'"
        ) from error


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _fail(reason: str, code: int) -> int:
    print(f"swin-export: {reason}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swin-export", description="Export a Swin Transformer classifier to a bundle, and look at bundles."
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
    add("checkpoint", metavar="CHECKPOINT", help="a folder, a file of weights, or the id of a repository on the hub")
    add("output", metavar="OUTPUT", type=Path, help="the bundle's folder; must not exist, unless --force is given")
    _add_revision(parser)
    add("--name", help="what the bundle calls itself (default: the checkpoint's own name)")
    add(
        "--images",
        metavar="DIR",
        type=Path,
        help="prove on these images and keep them as golden samples: the first 8 by name, shrunk to 640 pixels "
        "(default: pictures that are generated)",
    )
    add_options(parser)
    add_precision(parser)
    add("--force", action="store_true", help="replace OUTPUT if it is a bundle already")
    add("--quiet", action="store_true", help="say only what is assumed, and what fails")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    add = parser.add_argument
    add("data", metavar="DATA", type=Path, help="a folder with a folder for each class, or a CSV file")
    _add_device(parser)
    add("--batch", metavar="N", type=positive, default=8, help="images in one run of the network (default: 8)")
    add("--limit", metavar="N", type=positive, help="take so many images, evenly spread (default: all)")
    add("--classes", metavar="CLASS", nargs="+", default=(), help="take the images of these classes only")
    add("--output", metavar="FILE", type=Path, help="write the report there too, complete, as JSON")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    _add_device(parser)
    parser.add_argument("--checkpoint", metavar="CHECKPOINT", help="what the bundle was made of, as for build")
    _add_revision(parser)
    add_options(parser)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder that build wrote")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", type=_device, default=CPU, metavar="cpu|cuda[:N]", help="where to run (default: cpu)"
    )


def _device(name: str) -> Device:
    try:
        return one_device(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of the repository on the hub (default: its main branch)",
    )


COMMANDS = {
    "build": Command("turn a checkpoint into a bundle", BUILD, BUILD_END, _build_arguments, _build),
    "evaluate": Command("measure it on labeled images", EVALUATE, EVALUATE_END, _evaluate_arguments, _evaluate),
    "verify": Command("prove it again, on this machine", VERIFY, VERIFY_END, _verify_arguments, _verify),
    "inspect": Command("show what a bundle is", INSPECT, INSPECT_END, _inspect_arguments, _inspect),
}
