"""A checkpoint's format, detected from its content → the reader of that format."""

from pathlib import Path

from app.bundle.manifest import SourceKind
from model_export.checkpoints import huggingface, original, timm, torchvision
from model_export.checkpoints.checkpoint import Checkpoint, Options, RawCheckpoint
from model_export.checkpoints.files.folder import config_of, download, weight_files
from model_export.checkpoints.files.weights import metadata_of, read_files, unwrap
from model_export.checkpoints.parts import StateDict
from model_export.checkpoints.training import conventions, saved_settings
from model_export.errors import CheckpointError, RequestError, UnsupportedModel


def read_checkpoint(checkpoint: str, options: Options | None = None) -> Checkpoint:
    """Read a file or folder if there is one of this name, else fetch it from the hub.

    What it is, is told from the content: a folder by its `config.json`, weights by their names.

    Raises:
        CheckpointError: it cannot be found or read, or contradicts itself.
        UnsupportedModel: it is not a network this project exports.
    """
    options = options or Options()
    path = Path(checkpoint).expanduser()
    if path.exists() and options.revision is not None:
        raise CheckpointError(f"{checkpoint} is here on this machine; a revision belongs to a repository on the hub")
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
    config = config_of(folder)
    is_timm = "architecture" in config and "model_type" not in config
    if (options.source or ("timm" if is_timm else "huggingface")) == "huggingface":
        return huggingface.read(folder, name, commit, options)
    if options.source not in (None, "timm"):
        raise RequestError(f"--source {options.source}: a folder with config.json is timm's or Hugging Face's")
    if not is_timm:
        raise CheckpointError("config.json: no architecture; this is not a folder of timm's")
    files = weight_files(folder)
    weights = unwrap(read_files(files), options.weights)
    return timm.read(RawCheckpoint("timm", name, commit, files, weights), config, options)


def _file(path: Path, options: Options) -> Checkpoint:
    content = read_files([path])
    weights = unwrap(content, options.weights)
    if metadata := metadata_of(path):
        content = {**content, "metadata": saved_settings.of_metadata(metadata)}
    kind = options.source or _recognized(weights)
    if options.source is None and kind == "original" and conventions.is_timm(content, path):
        kind = "timm"
    found = RawCheckpoint(kind, path.name, None, [path], weights)
    training = conventions.settings_of(kind, content, path, options)
    match kind:
        case "timm":
            return timm.read(found, None, options, training, content)
        case "torchvision":
            return torchvision.read(found, options, training, content)
        case "original":
            return original.read(found, options, training, content)
        case "huggingface":
            raise CheckpointError(f"{path.name} has Hugging Face's names; give its folder, with config.json")


def _recognized(weights: StateDict) -> SourceKind:
    """Whose names these are; timm's begin like the authors'."""
    return "timm" if weights.kind == "original" and timm.is_timm(weights) else weights.kind
