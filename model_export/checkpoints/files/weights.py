"""Readers of weight files: safetensors or pickles → tensors by name. A file cannot run code.

`unwrap` finds the weights in the dictionaries that training code saves (`{"model": …}`), and
removes a prefix of the network's names (`module.`, `_orig_mod.`). Knows nothing about
configurations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from app.bundle.digests import bytes_digest, file_digest
from model_export.checkpoints import swin_weights
from model_export.checkpoints.files import pickles, unsupported
from model_export.checkpoints.files.pickles import FETCH_AGAIN, SAVE_STATE_DICT, RecordedObject
from model_export.checkpoints.other_networks import refuse
from model_export.checkpoints.swin_weights import StateDict
from model_export.errors import CheckpointError

Weights = dict[str, Tensor]

# The largest number of dictionaries around a state dict.
MAX_DEPTH = 4


def read_files(files: Sequence[Path]) -> dict[str, Any]:
    """Return the whole content of one file, or of its shards.

    Raises:
        CheckpointError: a file is missing, damaged, of another format, or asks for code to be run.
    """
    content: dict[str, Any] = {}
    for file in files:
        try:
            description = unsupported.describe_file(file)
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
        if description is not None:
            raise CheckpointError(f"{file.name} {description}")
        content |= _safetensors(file) if _is_safetensors(file) else _pickled(file)
    return content


def digest_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the joined digests of several shards."""
    digests = [file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else bytes_digest("".join(digests).encode())


def unwrap(content: Mapping[str, Any], key: str | None = None) -> StateDict:
    """Return the weights in a file's content, by the usual names of their source library.

    Args:
        content: of the file.
        key: of the set to take if there are several (`model_ema`), or the prefix of the network if
            a set has several networks (`student`).

    Raises:
        CheckpointError: the content has no Swin, or more than one and `key` is None.
        UnsupportedModel: the network is not a Swin classifier.
    """
    sets = _sets(content)
    if key is not None:
        return _select(content, sets, key)
    if not sets:
        _raise_no_swin(content)
    found = {
        _option_value(path, prefix, sets): path
        for path, names in sets.items()
        for prefix in swin_weights.find_prefixes(names)
    }
    if len(found) > 1:
        raise CheckpointError(f"several sets of weights: {', '.join(sorted(found))}; choose one with --weights")
    return swin_weights.extract_network(next(iter(sets.values())))


def has_swin(names: Mapping[str, Any]) -> bool:
    """Return whether these are names of a Swin, from any source library."""
    return bool(swin_weights.find_prefixes(names))


def _sets(content: Mapping[Any, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the outermost state dicts at any level by their paths."""
    level: dict[str, Mapping[Any, Any]] = {"": content}
    found: dict[str, Mapping[str, Any]] = {}
    for _ in range(MAX_DEPTH):
        found |= {path: names for path, names in level.items() if has_swin(names)}
        level = {
            f"{path}.{name}".removeprefix("."): value
            for path, names in level.items()
            if path not in found
            for name, value in names.items()
            if isinstance(name, str) and isinstance(value, Mapping)
        }
    return found


def _option_value(path: str, prefix: str, sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the value of --weights for a network: the path of its set, its prefix, or both."""
    if len(swin_weights.find_prefixes(sets[path])) == 1:
        return path
    return ".".join(filter(None, [path if len(sets) > 1 else "", prefix.removesuffix(".")]))


def _select(content: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]], key: str) -> StateDict:
    deeper = _sets(found) if isinstance(found := content.get(key), Mapping) else {}
    offers = {
        _option_value(path, prefix, sets)
        for path, names in sets.items()
        for prefix in swin_weights.find_prefixes(names)
    }
    for path, names in {**sets, **({key: next(iter(deeper.values()))} if len(deeper) == 1 else {})}.items():
        if path == key and len(swin_weights.find_prefixes(names)) == 1:
            return swin_weights.extract_network(names)
        outer = f"{key.removeprefix(f'{path}.') if path else key}."
        inside = {name.removeprefix(outer): value for name, value in names.items() if name.startswith(outer)}
        if len(swin_weights.find_prefixes(inside)) == 1:
            return swin_weights.extract_network(inside, outer)
    raise CheckpointError(f"there are no weights under '{key}', but under {', '.join(sorted(offers)) or 'nothing'}")


def _raise_no_swin(content: Mapping[str, Any]) -> NoReturn:
    """Raise an error that names the content, which has no Swin."""
    for name, value in content.items():
        if isinstance(value, RecordedObject) and value.is_network:
            raise CheckpointError(
                f"{name} is a whole network, a pickled {value.class_name}, which only its own code can read; "
                f"{SAVE_STATE_DICT}"
            )
    names = dict(content)
    for value in content.values():
        if isinstance(value, Mapping) and any(isinstance(inside, Tensor) for inside in value.values()):
            names = dict(value)
            break
    refuse(names)


def _is_safetensors(file: Path) -> bool:
    # The format begins with eight bytes for the length of a JSON header. The ninth byte of files
    # of torch.save is never "{".
    with file.open("rb") as opened:
        head = opened.read(9)
    return head[8:9] == b"{" or file.suffix == ".safetensors"


def _safetensors(file: Path) -> Weights:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} is damaged: {FETCH_AGAIN}") from error


def metadata_of(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; an empty dictionary for other files."""
    if not _is_safetensors(file):
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def _pickled(file: Path) -> dict[str, Any]:
    content = pickles.read(file)
    if isinstance(content, RecordedObject) and content.is_network:
        raise CheckpointError(
            f"{file.name} holds a whole network, a pickled {content.class_name}, which only its own code can read; "
            f"{SAVE_STATE_DICT}"
        )
    if not isinstance(content, dict):
        kind = content.class_name if isinstance(content, RecordedObject) else type(content).__name__
        raise CheckpointError(f"{file.name} holds a {kind}, not weights by name; {SAVE_STATE_DICT}")
    return content
