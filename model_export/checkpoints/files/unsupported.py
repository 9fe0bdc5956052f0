"""Descriptions of files and folders that are not PyTorch weights, with hints.

Reads only the first bytes of files, the members of archives and the names in folders.
"""

import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from model_export.checkpoints.files.pickles import SAVE_STATE_DICT

# Number of bytes that are compared with known formats.
HEAD_BYTES = 4096
ONLY_PYTORCH = "only PyTorch weights are read"
UNPACK_HINT = "unpack it, and give the folder or the file of weights in it"
ONNX = "is an ONNX graph; give the checkpoint that it was made of"

STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a git LFS pointer, not the weights; fetch them where it is: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", f"is an HDF5 file, as Keras and TensorFlow write it; {ONLY_PYTORCH}"),
    (b"GGUF", f"is a GGUF file; {ONLY_PYTORCH}"),
    (b"\x93NUMPY", f"is a numpy array; {ONLY_PYTORCH}"),
    (b"\x1f\x8b", f"is compressed with gzip; {UNPACK_HINT}"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive; {UNPACK_HINT}"),
    (b"Rar!", f"is a RAR archive; {UNPACK_HINT}"),
    (b"\xfd7zXZ\x00", f"is compressed with xz; {UNPACK_HINT}"),
    (b"BZh", f"is compressed with bzip2; {UNPACK_HINT}"),
)
SUFFIXES = {
    ".onnx": ONNX,
    ".h5": f"is a file of Keras or TensorFlow; {ONLY_PYTORCH}",
    ".keras": f"is a Keras model; {ONLY_PYTORCH}",
    ".tflite": f"is a TensorFlow Lite model; {ONLY_PYTORCH}",
    ".pb": f"is a TensorFlow graph; {ONLY_PYTORCH}",
    ".msgpack": f"is a file of Flax; {ONLY_PYTORCH}",
    ".npz": f"is an archive of numpy arrays; {ONLY_PYTORCH}",
    ".engine": "is a TensorRT engine; give the checkpoint that it was made of",
    ".mlmodel": "is a Core ML model; give the checkpoint that it was made of",
    ".pdparams": f"is a file of PaddlePaddle; {ONLY_PYTORCH}",
}
MEMBERS: tuple[tuple[str, str], ...] = (  # of zip files
    (r"(^|/)constants\.pkl$", f"is a TorchScript program (torch.jit.save), not weights by name; {SAVE_STATE_DICT}"),
    (
        r"(^|/)(archive_format|serialized_exported_program\.json|models/[^/]+\.json)$",
        f"is an exported program (torch.export.save), not weights by name; {SAVE_STATE_DICT}",
    ),
    (r"(^|/)data\.pkl$", ""),  # a file of torch.save
    (r"^MAR-INF/", f"is a TorchServe archive; {UNPACK_HINT}"),
    (r"(^|/)model\.weights\.h5$", f"is a Keras model; {ONLY_PYTORCH}"),
    (r"\.npy$", f"is an archive of numpy arrays; {ONLY_PYTORCH}"),
)


def describe_file(file: Path) -> str | None:
    """Return the format of a file as the rest of a sentence; None if it may be PyTorch weights.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if not head:
        return "is empty; fetch or save it again"
    return _start(head) or _archive(file) or SUFFIXES.get(file.suffix.lower()) or _text(head)


def _start(head: bytes) -> str | None:
    if head[4:8] == b"TFL3":
        return SUFFIXES[".tflite"]
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "is a web page, not weights; the download went wrong"
    if re.match(rb"\x08[\x03-\x14]\x12[\x01-\x40][\x20-\x7e]", head):  # IR version, then the producer's name
        return ONNX
    return next((what for start, what in STARTS if head.startswith(start)), None)


def _archive(file: Path) -> str | None:
    if zipfile.is_zipfile(file):
        return _zip(file)
    return f"is a tar archive; {UNPACK_HINT}" if tarfile.is_tarfile(file) else None


def _zip(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # torch's own reader reports the damage
    for pattern, what in MEMBERS:
        if any(re.search(pattern, name) for name in names):
            return what or None
    return f"is a zip archive that torch.save did not write; {UNPACK_HINT}"


def _text(head: bytes) -> str | None:
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    words = "".join(filter(str.isprintable, text[:40])).strip()
    # Pickles of protocol 0 are text, too. They end with a "." at the beginning of a line.
    return None if text.isascii() and "\n." in text else f"is text, not weights; it begins with: {words}"


def describe_folder(folder: Path) -> str | None:
    """Return the kind of a folder as the rest of a sentence; None if it is unknown."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "is empty"
    for describe in FOLDERS:
        if description := describe(folder, names):
            return description
    return None


def _adapter(_: Path, names: list[str]) -> str | None:
    if "adapter_config.json" not in names:
        return None
    return (
        "holds a PEFT adapter, not a network; merge it into its network and save that: "
        'model.merge_and_unload().save_pretrained("merged")'
    )


def _run(folder: Path, names: list[str]) -> str | None:
    # transformers' Trainer writes a folder for each saved step.
    steps = [name for name in names if re.fullmatch(r"checkpoint-\d+", name) and (folder / name).is_dir()]
    if not steps:
        return None
    latest = max(steps, key=lambda name: int(name.rpartition("-")[2]))
    best = _best(folder / latest)
    if best in steps and best != latest:
        return f"is a training run; give its best checkpoint, {folder / best}, or its latest, {folder / latest}"
    is_best = " and best" if best == latest else ""
    return f"is a training run; give one of its checkpoints: the latest{is_best} is {folder / latest}"


def _best(checkpoint: Path) -> str | None:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
        return re.split(r"[/\\]", state["best_model_checkpoint"])[-1]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _distributed(_: Path, names: list[str]) -> str | None:
    if not any(name.endswith(".distcp") for name in names):
        return None
    return (
        "is a distributed checkpoint; make one file of it: "
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth"
    )


def _accelerate_state(_: Path, names: list[str]) -> str | None:
    is_state = any(re.match(r"(random_states_\d+\.pkl|optimizer(_\d+)?\.bin|scheduler(_\d+)?\.bin)$", n) for n in names)
    if not is_state or "config.json" in names:
        return None
    return (
        "is a training state of accelerate without config.json; save the network: "
        'accelerator.unwrap_model(model).save_pretrained("checkpoint")'
    )


def _tensorflow(_: Path, names: list[str]) -> str | None:
    if "saved_model.pb" in names:
        return f"is a SavedModel of TensorFlow; {ONLY_PYTORCH}"
    others = [name for name in names if name in {"tf_model.h5", "flax_model.msgpack", "model.onnx"}]
    return f"has {' and '.join(others)} only; {ONLY_PYTORCH}" if others and not _weights(names) else None


def _inside(folder: Path, names: list[str]) -> str | None:
    # The hub's cache and unpacked archives have folders around the checkpoint.
    if "config.json" in names or _weights(names):
        return None
    found = sorted(folder.glob("*/config.json")) or sorted(folder.glob("*/*/config.json"))
    return f"has no config.json; give the folder inside it: {found[0].parent}" if found else None


def _bare(folder: Path, names: list[str]) -> str | None:
    files = _weights(names)
    if "config.json" in names or not files:
        return None
    if len(files) == 1:
        return f"has no config.json; for a bare state dict, give the file itself: {folder / files[0]}"
    return f"has no config.json, but {len(files)} files of weights; give one of them: {', '.join(files[:5])}"


def _weights(names: list[str]) -> list[str]:
    return [name for name in names if re.search(r"\.(safetensors|bin|pth|pt|ckpt|pth\.tar)$", name)]


FOLDERS: tuple[Callable[[Path, list[str]], str | None], ...] = (
    _adapter,
    _run,
    _distributed,
    _accelerate_state,
    _tensorflow,
    _inside,
    _bare,
)
