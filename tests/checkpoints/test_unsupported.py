"""`model_export/checkpoints/files/unsupported.py`: other formats are named with a hint."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.cli.main import main
from model_export.errors import RequestError
from tests.references.stored import stored
from tests.support.networks import save_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 113000000\n"


def zipped(*names: str) -> bytes:
    """Return a zip archive with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, b"{}")
    return file.getvalue()


def tarred() -> bytes:
    """Return a tar archive with a file of weights."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as opened:
        member = tarfile.TarInfo("weights.pth")
        member.size = 3
        opened.addfile(member, io.BytesIO(b"abc"))
    return file.getvalue()


def saved(array: bool) -> bytes:  # noqa: FBT001 (used in a table)
    """Return a file of `numpy.save`, or of `numpy.savez`."""
    file = io.BytesIO()
    (np.save if array else np.savez)(file, np.zeros(3))
    return file.getvalue()


FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("weights.pth", lambda: b"", "is empty; fetch"),
    "a pointer": ("weights.pth", lambda: POINTER, "is a git LFS pointer, .*: git lfs pull"),
    "a pointer in place of safetensors": ("model.safetensors", lambda: POINTER, "is a git LFS pointer"),
    "a web page": ("weights.pth", lambda: b"\n<!DOCTYPE html><html>", "is a web page, not weights; the download"),
    "XML": ("weights.pth", lambda: b"<?xml version='1.0'?><Error/>", "is a web page"),
    "text": ("weights.pth", lambda: b"Access denied", "is text, not weights; it begins with: Access denied"),
    "JSON": ("weights.pth", lambda: b'{"error": "gone"}', 'is text, not weights; it begins with: {"error"'),
    "Keras": ("weights.h5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, as Keras"),
    "Keras 3": ("swin.keras", lambda: zipped("config.json", "model.weights.h5"), "is a Keras model"),
    "Flax": ("flax_model.msgpack", lambda: b"\x81\xa6params", "is a file of Flax"),
    "TensorFlow Lite": ("swin.tflite", lambda: b"\x1c\x00\x00\x00TFL3", "is a TensorFlow Lite model"),
    "GGUF": ("swin.bin", lambda: b"GGUF\x03\x00", "is a GGUF file"),
    "ONNX": ("swin.pth", lambda: b"\x08\x08\x12\x07pytorch\x1a\x05", "is an ONNX graph; give the checkpoint"),
    "ONNX by name": ("swin.onnx", lambda: b"\x0a\x00\x08\x08", "is an ONNX graph"),
    "numpy": ("weights.npy", lambda: saved(array=True), "is a numpy array"),
    "numpy archive": ("weights.pth", lambda: saved(array=False), "is an archive of numpy arrays"),
    "TorchScript": (
        "swin.pt",
        lambda: zipped("swin/constants.pkl", "swin/data.pkl"),
        r"is a TorchScript program .*torch\.save\(model\.state_dict\(\)",
    ),
    "torch.export": ("swin.pt2", lambda: zipped("swin/archive_format", "swin/data.pkl"), "is an exported program"),
    "torch.export of old": ("swin.pt2", lambda: zipped("serialized_exported_program.json"), "is an exported program"),
    "a zip of a folder": (
        "swin.zip",
        lambda: zipped("a/config.json", "a/model.safetensors"),
        "is a zip arch.*unpack",
    ),
    "TorchServe": ("swin.mar", lambda: zipped("MAR-INF/MANIFEST.json", "swin.pth"), "is a TorchServe archive"),
    "tar": ("weights.pth.tar", tarred, "is a tar archive; unpack it"),
    "gzip": ("weights.tar.gz", lambda: b"\x1f\x8b\x08" + bytes(10), "is compressed with gzip; unpack it"),
    "noise": ("weights.pth", lambda: bytes(range(128, 256)) * 9, "is damaged: compare its size"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_another_format_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of another format gives one line with its format and a hint, and exit code 2."""
    name, make, sentence = FILES[case]
    (tmp_path / name).write_bytes(make())

    assert main(["build", str(tmp_path / name), str(tmp_path / "out"), "--quiet"]) == 2

    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert name in output
    with pytest.raises(RequestError, match=sentence):
        read_checkpoint(str(tmp_path / name))


def adapter(folder: Path) -> None:
    """Write the files of PEFT's `save_pretrained`."""
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def run(best: str | None, *steps: int) -> Callable[[Path], None]:
    """Return a function that writes a Trainer's folder with these checkpoints."""

    def make(folder: Path) -> None:
        for step in steps:
            (folder / f"checkpoint-{step}").mkdir()
            state = {"best_model_checkpoint": best and f"/elsewhere/run/{best}"}
            (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))

    return make


def files(*names: str) -> Callable[[Path], None]:
    """Return a function that writes a folder with these files."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(b"{}")

    return make


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda _: None, "folder is empty$"),
    "an adapter": (adapter, r"holds a PEFT adapter, .*merge_and_unload\(\)\.save_pretrained"),
    "a run": (run(None, 500, 1500, 1000), r"is a training run; .* the latest is \S+checkpoint-1500$"),
    "a run with its best": (
        run("checkpoint-500", 500, 1000),
        r"best checkpoint, \S+-500, or its latest, \S+-1000$",
    ),
    "a run that ended with its best": (
        run("checkpoint-1000", 500, 1000),
        r"latest and best is \S+-1000$",
    ),
    "a distributed checkpoint": (files(".metadata", "__0_0.distcp"), "is a distributed checkpoint; .*dcp_to_torch"),
    "a state of accelerate": (
        files("model.safetensors", "optimizer.bin", "random_states_0.pkl"),
        "state of accelerate",
    ),
    "TensorFlow": (files("saved_model.pb", "variables/variables.index"), "is a SavedModel of TensorFlow"),
    "a Keras file beside config.json": (files("config.json", "tf_model.h5"), "has tf_model.h5 only"),
    "a cache": (files("snapshots/abc/config.json"), r"give the folder inside it: \S+snapshots/abc$"),
    "a file": (files("best.pth"), r"give the file itself: \S+best\.pth$"),
    "several files": (files("best.pth", "last.ckpt"), r"2 files of weights; give one of them: best\.pth, last\.ckpt$"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_not_a_checkpoint_is_named(case: str, tmp_path: Path) -> None:
    """A folder that is not a checkpoint gives an error with its kind and a hint."""
    make, sentence = FOLDERS[case]
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder")
    if (tmp_path / "folder" / "config.json").exists():
        (tmp_path / "folder" / "config.json").write_text(json.dumps({"model_type": "swin"}))

    with pytest.raises(RequestError, match=sentence) as refused:
        read_checkpoint(str(tmp_path / "folder"))

    assert "\n" not in str(refused.value)


def test_weights_by_an_unusual_name_are_named(tmp_path: Path) -> None:
    """A weight file with an unusual name beside `config.json` is named in the error."""
    folder = save_checkpoint(tmp_path / "folder")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")

    with pytest.raises(RequestError, match=r"the weights are in model\.fp16\.safetensors, rename it"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (POINTER, r"config\.json is a git LFS pointer"),
        (b"<html>", r"config\.json is a web page"),
        (b"{,}", r"config\.json is not JSON, from line 1, column 2 on"),
    ],
)
def test_a_configuration_of_another_format_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    """A `config.json` that is a pointer, a web page or damaged gives an error with its format."""
    folder = save_checkpoint(tmp_path / "folder")
    (folder / "config.json").write_bytes(content)

    with pytest.raises(RequestError, match=sentence):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        (
            "swin_base_patch4_window7_224",
            "--architecture swin_base_patch4_window7_224 asks for embed_dim 128, .* have 96; they fit",
        ),
        ("swin_s3_tiny_224", "--architecture swin_s3_tiny_224 has windows of 7, 7, 14, 7, the weights of 7, 7, 7, 7"),
        ("swinv2_tiny_window8_256", "--architecture swinv2_tiny_window8_256 asks for version 2, the weights have 1"),
    ],
)
def test_a_wrong_architecture_is_named(architecture: str, sentence: str, tmp_path: Path) -> None:
    """The error on an `--architecture` that does not fit has the values of option and weights."""
    torch.save(stored("timm").state_dict("swin_tiny_patch4_window7_224"), tmp_path / "weights.pth")

    with pytest.raises(RequestError, match=sentence):
        read_checkpoint(str(tmp_path / "weights.pth"), Options(architecture=architecture))
