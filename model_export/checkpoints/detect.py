"""The choice of a checkpoint's reader: a file, a folder or a hub id → the reader of its format.

The format is detected from the content: a folder's by its `config.json`, a file's by the names of
its weights.
"""

from pathlib import Path

from app.bundle.manifest import SourceKind
from model_export.checkpoints import huggingface, original, timm, torchvision
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.files.folder import download, read_json, weight_files
from model_export.checkpoints.files.weights import metadata_of, read_files, unwrap
from model_export.checkpoints.swin_weights import StateDict
from model_export.checkpoints.training import conventions, saved_settings
from model_export.errors import CheckpointError, RequestError, UnsupportedModel


def read_checkpoint(checkpoint: str, options: Options | None = None) -> Checkpoint:
    """Read a checkpoint from a file or folder, or from the hub if no file or folder has this name.

    Raises:
        CheckpointError: the checkpoint cannot be found or read, or contradicts itself.
        UnsupportedModel: the checkpoint holds a network that swin-serve does not export.
    """
    options = options or Options()
    path = Path(checkpoint).expanduser()
    if path.exists() and options.revision is not None:
        raise CheckpointError(f"{checkpoint} is a local path; a revision belongs to a repository on the hub")
    if path.is_dir():
        return _folder(path, path.resolve().name, None, options)
    if path.exists():
        try:
            return _file(path, options)
        except (CheckpointError, UnsupportedModel) as error:
            if path.name in str(error):
                raise
            raise type(error)(f"{path.name}: {error}") from error
    if path.is_absolute() or checkpoint.startswith((".", "~")):
        raise CheckpointError(f"there is no {checkpoint}")
    folder, commit = download(checkpoint, options.revision)
    return _folder(folder, checkpoint, commit, options)


def _folder(folder: Path, name: str, commit: str | None, options: Options) -> Checkpoint:
    config = read_json(folder)
    is_timm = "architecture" in config and "model_type" not in config
    if (options.source or ("timm" if is_timm else "huggingface")) == "huggingface":
        return huggingface.read(folder, name, commit, options)
    if options.source not in (None, "timm"):
        raise RequestError(f"--source {options.source}: a folder with config.json is from timm or Hugging Face")
    if not is_timm:
        raise CheckpointError("config.json: no architecture; timm did not write this folder")
    files = weight_files(folder)
    weights = unwrap(read_files(files), options.weights)
    return timm.read(RawCheckpoint("timm", name, commit, files, weights), config, options)


def _file(path: Path, options: Options) -> Checkpoint:
    content = read_files([path])
    weights = unwrap(content, options.weights)
    if metadata := metadata_of(path):
        content = {**content, "metadata": saved_settings.parse_metadata(metadata)}
    kind = options.source or _kind_by_names(weights)
    if options.source is None and kind == "original" and conventions.is_timm(content, path):
        kind = "timm"
    raw = RawCheckpoint(kind, path.name, None, [path], weights)
    training = conventions.read_settings(kind, content, path, options)
    match kind:
        case "timm":
            return timm.read(raw, None, options, training, content)
        case "torchvision":
            return torchvision.read(raw, options, training, content)
        case "original":
            return original.read(raw, options, training, content)
        case "huggingface":
            raise CheckpointError(f"{path.name} has Hugging Face's weight names; give its folder, with config.json")


def _kind_by_names(weights: StateDict) -> SourceKind:
    # timm's names begin like the authors', so they share a layout up to the head.
    return "timm" if weights.kind == "original" and timm.is_timm(weights) else weights.kind
