"""A checkpoint's folder, here or on the hub: which files it has, and what is in its configuration."""

import json
from pathlib import Path
from typing import Any

from app.errors import sentence
from model_export.checkpoints.files import foreign
from model_export.errors import CheckpointError

WEIGHTS = {".safetensors", ".bin", ".pth", ".pt", ".ckpt"}
CONFIGURATION = ("config.json", "preprocessor_config.json")
SAFE = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Of the repository's top level: a training run's own checkpoints are in folders below."""


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of the folder.

    Raises:
        CheckpointError: it is missing, or holds no object.
    """
    path = folder / name
    try:
        if not path.exists() and (what := foreign.folder_of(folder)):
            raise CheckpointError(f"{folder} {what}")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        what = foreign.kind_of(path)
        is_json = what is None or what.startswith("is text")
        place = f"is not JSON, from line {error.lineno}, column {error.colno} on" if is_json else what
        raise CheckpointError(f"{path} {place}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON that can be read") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The file with the weights, or its shards; safetensors where there are both.

    Raises:
        CheckpointError: there is none, or the index names files that are not beside it.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return [_present(folder, name) for name in _shards(folder, index.name)]
        if (folder / single).is_file():
            return [folder / single]
    if what := foreign.folder_of(folder):
        raise CheckpointError(f"{folder} {what}")
    others = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS)
    hint = f"; if the weights are in {others[0]}, rename it" if others else ""
    raise CheckpointError(f"there is no model.safetensors and no pytorch_model.bin in {folder}{hint}")


def _shards(folder: Path, index: str) -> list[str]:
    places = config_of(folder, index).get("weight_map")
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
    """Fetch a repository's files from the hub: pickles only where it has no safetensors. Returns folder and commit.

    Raises:
        CheckpointError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for weights in (SAFE, PICKLED):
            patterns = [*CONFIGURATION, *weights]
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
            if any(folder.glob("model*.safetensors")):
                break
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no file or folder '{repository}' here, and the hub did not give it: {sentence(error)}"
        ) from error
    return folder, folder.name  # the cache names a snapshot's folder by its commit
