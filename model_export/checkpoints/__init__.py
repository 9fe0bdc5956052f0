"""Readers of checkpoints: one file per source format, each mapping names and configuration to `model_export.swin`."""

from pathlib import Path

from model_export.checkpoints import huggingface
from model_export.checkpoints.checkpoint import Checkpoint
from model_export.errors import CheckpointError


def read(checkpoint: str, revision: str | None = None) -> Checkpoint:
    """Read a local folder if there is one of this name, else fetch it from the hub at `revision`.

    Raises:
        CheckpointError: it cannot be found or read, or contradicts itself.
        UnsupportedModel: it is not a network this project exports.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{checkpoint} is a folder here; a revision belongs to a repository on the hub")
        return huggingface.read(path, path.resolve().name, None)
    if path.exists():
        raise CheckpointError(f"{checkpoint} is a file; a folder with config.json and model.safetensors is read")
    if path.is_absolute() or checkpoint.startswith((".", "~")):
        raise CheckpointError(f"there is no folder {checkpoint}")
    folder, commit = huggingface.download(checkpoint, revision)
    return huggingface.read(folder, checkpoint, commit)
