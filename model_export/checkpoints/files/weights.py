"""Files of weights → tensors by name. A file cannot run code: safetensors, or pickles of which only tensors are read.

What a training run wraps around the weights ({"model": …, "optimizer": …}) is taken off here, and so is a prefix that
all names share ("module.", "_orig_mod.").
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from app.bundle.digests import bytes_digest, file_digest
from model_export.checkpoints import parts
from model_export.checkpoints.files import foreign, pickles
from model_export.checkpoints.files.pickles import CUT_OFF, WAY_OUT, Recorded
from model_export.checkpoints.others import refuse_others
from model_export.checkpoints.parts import StateDict
from model_export.errors import CheckpointError

Weights = dict[str, Tensor]

DEEPEST = 4
"""How many dictionaries may be around a state dict."""


def read_files(files: Sequence[Path]) -> dict[str, Any]:
    """All that is in one file, or in the shards of one.

    Raises:
        CheckpointError: a file is missing, damaged, or would run code.
    """
    content: dict[str, Any] = {}
    for file in files:
        try:
            what = foreign.kind_of(file)
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
        if what is not None:
            raise CheckpointError(f"{file.name} {what}")
        content |= _safetensors(file) if _is_safetensors(file) else _pickled(file)
    return content


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of the weights: of the file, or of the shards' digests."""
    digests = [file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else bytes_digest("".join(digests).encode())


def unwrap(content: Mapping[str, Any], key: str | None = None) -> StateDict:
    """The weights in what a file held, without the prefix they share, by the usual names of their source.

    Args:
        content: of the file.
        key: of the set to take, where a training run saved several (`model_ema`), or the prefix of a network, where
            there are several in one set (`student`).

    Raises:
        CheckpointError: there is no Swin in it, or more than one and no `key`.
        UnsupportedModel: it is another network.
    """
    sets = _sets(content)
    if key is not None:
        return _chosen(content, sets, key)
    if not sets:
        _refuse(content)
    found = {_label(path, prefix, sets): path for path, names in sets.items() for prefix in parts.prefixes(names)}
    if len(found) > 1:
        raise CheckpointError(f"several sets of weights: {', '.join(sorted(found))}; say which with --weights")
    return parts.network_of(next(iter(sets.values())))


def anchor(names: Mapping[str, Any]) -> bool:
    """Whether a Swin, of whatever source, is among these names."""
    return bool(parts.prefixes(names))


def _sets(content: Mapping[Any, Any]) -> dict[str, Mapping[str, Any]]:
    """The state dicts by the path to them, at any level; what is inside one is no other."""
    level: dict[str, Mapping[Any, Any]] = {"": content}
    found: dict[str, Mapping[str, Any]] = {}
    for _ in range(DEEPEST):
        found |= {path: names for path, names in level.items() if anchor(names)}
        level = {
            f"{path}.{name}".removeprefix("."): value
            for path, names in level.items()
            if path not in found
            for name, value in names.items()
            if isinstance(name, str) and isinstance(value, Mapping)
        }
    return found


def _label(path: str, prefix: str, sets: Mapping[str, Mapping[str, Any]]) -> str:
    """What to say with --weights: the path to a set if that is enough, else the prefix in it, or both."""
    if len(parts.prefixes(sets[path])) == 1:
        return path
    return ".".join(filter(None, [path if len(sets) > 1 else "", prefix.removesuffix(".")]))


def _chosen(content: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]], key: str) -> StateDict:
    deeper = _sets(found) if isinstance(found := content.get(key), Mapping) else {}
    offers = {_label(path, prefix, sets) for path, names in sets.items() for prefix in parts.prefixes(names)}
    for path, names in {**sets, **({key: next(iter(deeper.values()))} if len(deeper) == 1 else {})}.items():
        if path == key and len(parts.prefixes(names)) == 1:
            return parts.network_of(names)
        outer = f"{key.removeprefix(f'{path}.') if path else key}."
        inside = {name.removeprefix(outer): value for name, value in names.items() if name.startswith(outer)}
        if len(parts.prefixes(inside)) == 1:
            return parts.network_of(inside, outer)
    raise CheckpointError(f"there are no weights under '{key}', but under {', '.join(sorted(offers)) or 'nothing'}")


def _refuse(content: Mapping[str, Any]) -> NoReturn:
    """Say what is there in place of a Swin's weights."""
    for name, value in content.items():
        if isinstance(value, Recorded) and value.is_network:
            raise CheckpointError(
                f"under {name} is a whole network, a pickled {value.class_name}, which only its own code can read; "
                f"{WAY_OUT}"
            )
    names = dict(content)
    for value in content.values():
        if isinstance(value, Mapping) and any(isinstance(inside, Tensor) for inside in value.values()):
            names = dict(value)
            break
    refuse_others(names)


def _is_safetensors(file: Path) -> bool:
    """By content: a header's length, then the header, which is JSON. A pickle's first bytes are none of it."""
    with file.open("rb") as opened:
        head = opened.read(9)
    return head[8:9] == b"{" or file.suffix == ".safetensors"


def _safetensors(file: Path) -> Weights:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.name} is damaged: {CUT_OFF}") from error


def metadata_of(file: Path) -> dict[str, str]:
    """Return what safetensors keep beside tensors; nothing for other files."""
    if not _is_safetensors(file):
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def _pickled(file: Path) -> dict[str, Any]:
    content = pickles.read(file)
    if isinstance(content, Recorded) and content.is_network:
        raise CheckpointError(
            f"{file.name} holds a whole network, a pickled {content.class_name}, which only its own code can read; "
            f"{WAY_OUT}"
        )
    if not isinstance(content, dict):
        kind = content.class_name if isinstance(content, Recorded) else type(content).__name__
        raise CheckpointError(f"{file.name} holds a {kind}, not weights by name; {WAY_OUT}")
    return content
