"""The table that a build prints after reading the checkpoint: each value and its origin, and the assumptions."""

from pathlib import Path
from typing import Any

import pytest

from model_export.build import build
from model_export.checkpoints.checkpoint import Options, warnings
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.preprocessing import RecipeOptions
from model_export.checkpoints.variants import VARIANTS, describe_network
from model_export.console import Progress
from model_export.errors import ExportError
from model_export.network.swin import SwinConfig
from tests.support.networks import save_checkpoint

FILE = "preprocessor_config.json"


def origins(checkpoint: Path, **options: Any) -> dict[str, tuple[str, str]]:
    """Return value and origin of each row of the table."""
    decisions = read_checkpoint(str(checkpoint), Options(**options)).decisions
    return {subject: (value, origin) for subject, value, origin in (decision.row() for decision in decisions)}


def test_the_table_is_printed_before_the_long_steps(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Preprocessing and labels are on standard error when the first long step, the reference, begins."""

    def stop(*_: object) -> None:
        raise ExportError("stopped")

    monkeypatch.setattr("model_export.build.usable", stop)
    with pytest.raises(ExportError, match="stopped"):
        build(str(tiny_checkpoint), tmp_path / "out", progress=Progress())

    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["interpolation", "bicubic", FILE] in lines
    assert ["labels", "20", "classes:", "class", "0;", "class", "1;", "class", "2", "…", "config.json"] in lines


def test_the_origins_of_hugging_face(tmp_path: Path) -> None:
    """A value is from the file that has it; a key that the file lacks has the default of transformers."""
    folder = save_checkpoint(tmp_path / "mine", image_size=64)
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text.replace('"image_std"', '"other"'))

    assert origins(folder) == {
        "network": ("Swin, 24 channels, depths 2, 2", "config.json"),
        "input size": ("64×64", FILE),
        "windows": ("4", "config.json"),
        "resize": ("to 64×64, whatever the shape", FILE),
        "interpolation": ("bicubic", FILE),
        "crop": ("none", "default of transformers"),
        "rescale": ("bytes × 1/255", FILE),
        "mean": ("0.5, 0.5, 0.5", FILE),
        "std": ("0.5, 0.5, 0.5", "default of transformers"),
        "labels": (
            "10 classes: LABEL_0; LABEL_1; LABEL_2 …",
            "the checkpoint, where they are placeholders and no names",
        ),
    }


def test_the_origins_of_timm(timm_folder: Path) -> None:
    """A folder of timm has its preprocessing in `pretrained_cfg`; a key that it lacks has the default of timm."""
    rows = origins(timm_folder)

    assert {part: row[1] for part, row in rows.items()} == {
        **dict.fromkeys(("network", "input size", "windows", "resize", "interpolation", "crop"), "config.json"),
        **dict.fromkeys(("rescale", "mean", "std"), "default of timm"),
        "labels": "config.json",
    }
    assert rows["labels"] == ("37 classes: breed 0; breed 1; breed 2 …", "config.json")


def test_the_origins_of_torchvision(torchvision_file: Path) -> None:
    """A file of torchvision has neither preprocessing nor names: one warning has all parts of the recipe."""
    checkpoint = read_checkpoint(str(torchvision_file), Options(input_size=(64, 64)))
    rows = origins(torchvision_file, input_size=(64, 64))

    assert (rows["input size"], rows["windows"]) == (("64×64", "--input-size"), ("4", "the weights"))
    assert {rows[part][1] for part in ("resize", "interpolation", "crop", "rescale", "mean", "std")} == {"assumed"}
    assert rows["labels"] == ("102 classes: 0; 1; 2 …", "numbers, because the checkpoint names no classes")
    [recipe] = warnings(checkpoint.decisions)
    assert recipe.startswith("resize: the shorter side to 73; interpolation: bicubic; crop: the middle 64×64; ")
    assert recipe.endswith(
        "; assumed: torchvision's published recipe, because the checkpoint has none; "
        "change them with --fit, --resize, --interpolation, --crop, --mean, --std"
    )


def test_options_are_the_origins_of_what_they_change(tiny_checkpoint: Path) -> None:
    """Each option is the origin of its part, and the rest is still from the file."""
    changed = RecipeOptions(fit="pad", mean=(0.4, 0.4, 0.4))
    rows = origins(tiny_checkpoint, recipe=changed)

    assert [rows[part][1] for part in ("resize", "crop", "mean", "std")] == ["--fit", "--fit", "--mean", FILE]
    assert rows["resize"][0] == "to fit into 64×64, keeping the shape, and fill the rest"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_variant_has_its_name(name: str) -> None:
    """A network with shape, windows and input size of a published variant has its name, with any number of classes."""
    variant = VARIANTS[name]
    shape = {part: getattr(variant, part) for part in ("version", "embed_dim", "depths", "num_heads", "window_sizes")}
    pretrained = variant.pretrained_windows if variant.version != 1 else ()

    def described(side: int) -> str:
        size = (side, side)
        return describe_network(SwinConfig(input_size=size, num_classes=3, pretrained_window_sizes=pretrained, **shape))

    assert described(variant.side) == name
    assert described(variant.side * 2).startswith("Swin")
