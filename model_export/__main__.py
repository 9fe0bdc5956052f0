"""`swin-export`: the build step at the command line."""

import argparse
import importlib.metadata
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from app.errors import StartError
from model_export.errors import ExportError, RequestError
from model_export.options import add_options, options_of

BUILD = """\
Turn a checkpoint into a bundle that swin-serve can serve.

CHECKPOINT is one of

  a folder that save_pretrained wrote, or timm's equivalent: config.json with model.safetensors or pytorch_model.bin
  the id of either on the Hugging Face hub: microsoft/swin-tiny-patch4-window7-224, timm/swin_base_patch4_window7_224
  a file of weights: a state dict of timm, torchvision (swin_t, swin_v2_b, …) or the authors' code, also inside what a
    training script saved ({"model": …}, {"state_dict": …})

Which it is, is told from the content. No checkpoint can run code: pickles are read for their tensors only.

OUTPUT is the folder to write. It appears only after the proof has passed: the exported graph, run by the very code that
will serve it, gives the logits of the transformers library's own network, on images that go through the library's own
preprocessing. Each stage is compared by itself, so that a failure names its place:

  preprocessing   resize and crop            against the image processor in the checkpoint
  network         swin.py in torch           against the library's network
  static          masks and biases baked in  against swin.py
  onnx            on ONNX Runtime            against the static network, in batches of 1, 2, 3 and 8
  evidence        the maps of each class     summed, against its logits
  end to end      bytes to logits            against the library's network
"""
EXAMPLES = """\
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code: 0 done, 1 the work failed, 2 the request was wrong."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    try:
        _build(options)
    except ExportError as error:
        return _fail(str(error), error.exit_code)
    except StartError as error:  # the bundle's own reader refused what was written
        return _fail(str(error), ExportError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", ExportError.exit_code)
    if not options.quiet:
        print(f"wrote {options.output}; serve it with: swin-serve run --bundle {options.output}")
    return 0


def _build(options: argparse.Namespace) -> None:
    try:  # not at the top of the file: torch takes seconds to import, and --help does not need it
        from model_export import golden
        from model_export.build import build
        from model_export.progress import Progress
    except ModuleNotFoundError as error:
        raise RequestError(
            f"{error.name} is not installed; the export needs: pip install 'swin-serve[cpu,export]'"
        ) from error
    build(
        options.checkpoint,
        options.output,
        options=options_of(options),
        images=golden.from_folder(options.images) if options.images else None,
        name=options.name,
        replace=options.force,
        progress=Progress(quiet=options.quiet),
    )


def _fail(reason: str, code: int) -> int:
    print(f"swin-export: {reason}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swin-export", description="Export a Swin Transformer classifier to a bundle."
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("swin-serve"))
    commands = parser.add_subparsers(title="commands", required=True)
    build_parser = commands.add_parser(
        "build",
        help="turn a checkpoint into a bundle",
        description=BUILD,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = build_parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a folder, a file of weights, or the id of a repository on the hub")
    add("output", metavar="OUTPUT", type=Path, help="the bundle's folder; must not exist, unless --force is given")
    add(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of the repository on the hub (default: its main branch)",
    )
    add("--name", help="what the bundle calls itself (default: the checkpoint's own name)")
    add(
        "--images",
        metavar="DIR",
        type=Path,
        help="prove on these images and keep them as golden samples: the first 8 by name, shrunk to 640 pixels "
        "(default: pictures that are generated)",
    )
    add_options(build_parser)
    add("--force", action="store_true", help="replace OUTPUT if it is a bundle already")
    add("--quiet", action="store_true", help="say nothing unless something fails")
    return parser


if __name__ == "__main__":
    sys.exit(main())
