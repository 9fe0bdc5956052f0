"""Checkpoint folders, local or from the hub: configuration and names of weight files."""

import json
from pathlib import Path
from typing import Any

from app.errors import sentence
from model_export.checkpoints.files import unsupported
from model_export.errors import CheckpointError

WEIGHTS = {".safetensors", ".bin", ".pth", ".pt", ".ckpt"}
CONFIGURATION = ("config.json", "preprocessor_config.json")
# Weights at the top level of a repository. The folders below hold the checkpoints of a training
# run.
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Return the JSON object in a file of the folder.

    Raises:
        CheckpointError: the file is missing, or does not hold a JSON object.
    """
    path = folder / name
    try:
        if not path.exists() and (description := unsupported.describe_folder(folder)):
            raise CheckpointError(f"{folder} {description}")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        description = unsupported.describe_file(path)
        if description is None or description.startswith("is text"):
            description = f"is not JSON, from line {error.lineno}, column {error.colno} on"
        raise CheckpointError(f"{path} {description}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON that can be read") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the file with the weights, or its shards. Safetensors come before pickles.

    Raises:
        CheckpointError: the folder has no weights, or the index names files that are not beside it.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return [_present(folder, name) for name in _shards(folder, index.name)]
        if (folder / single).is_file():
            return [folder / single]
    if description := unsupported.describe_folder(folder):
        raise CheckpointError(f"{folder} {description}")
    others = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS)
    hint = f"; if the weights are in {others[0]}, rename it" if others else ""
    raise CheckpointError(f"there is no model.safetensors and no pytorch_model.bin in {folder}{hint}")


def _shards(folder: Path, index: str) -> list[str]:
    places = read_json(folder, index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: weight_map does not map weights to files")
    names = {str(name) for name in places.values()}
    if unexpected := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{index}: {min(unexpected)} is not the name of a file beside it")
    return sorted(names)


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(f"there is no {name} in {folder}")
    return folder / name


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """Download a repository from the hub, and return its folder and commit.

    Pickled weights are downloaded only if the repository has no safetensors.

    Raises:
        CheckpointError: the repository does not exist, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for weights in (SAFETENSORS, PICKLED):
            patterns = [*CONFIGURATION, *weights]
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
            if any(folder.glob("model*.safetensors")):
                break
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no file or folder '{repository}', and it cannot be fetched from the hub: {sentence(error)}"
        ) from error
    return folder, folder.name  # the hub's cache names the folder by the commit
