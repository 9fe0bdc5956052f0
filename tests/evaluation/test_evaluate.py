"""Tests of `swin-export evaluate`, with the demo bundle and its held-out digits."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from app.bundle.load import Bundle
from app.bundle.manifest import MANIFEST
from app.settings import DEMO_BUNDLE
from model_export import demo as recipe
from model_export.cli.main import main
from model_export.evaluation.evaluate import evaluate, show
from model_export.evaluation.published import Published
from tests.support.images import encode


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one folder per digit, named by its label."""
    root = tmp_path_factory.mktemp("digits")
    _, digits = recipe.digits()
    for number, (image, index) in enumerate(zip(digits.images, digits.classes, strict=True)):
        folder = root / recipe.NAMES[index]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode(image))
    return root


def as_table(data: Path, file: Path) -> Path:
    rows = [f"{path},{recipe.NAMES.index(path.parent.name)}" for path in sorted(data.rglob("*.png"))]
    file.write_text("\n".join(["path,index", *rows]))
    return file


def test_the_accuracy_equals_the_manifest(held_out: Path, demo: Bundle) -> None:
    """The demo bundle classifies 359 of 360 digits correctly, and the report names the one confusion."""
    report = evaluate(DEMO_BUNDLE, held_out, quiet=True)

    assert demo.manifest.evaluation is not None
    assert (report.top1.count, report.top1.of) == (359, 360)
    assert report.top1.value == demo.manifest.evaluation.top1
    assert [(report.label(one.index), report.label(one.taken_for)) for one in report.confusions] == [("five", "six")]
    assert [one.top1 == 1 for one in report.classes] == [False, *[True] * 9]


@pytest.mark.parametrize("batch", [1, 7, 360])
def test_the_batch_size_changes_nothing(batch: int, held_out: Path) -> None:
    """The accuracy is the same for a batch size that does not divide the images and for a single batch."""
    report = evaluate(DEMO_BUNDLE, held_out, batch=batch, quiet=True)

    assert (report.top1.count, report.top1.of) == (359, 360)
    assert report.top5 is not None
    assert report.top5.count == 360


def test_a_table_gives_the_same(held_out: Path, tmp_path: Path) -> None:
    """A CSV file with indices gives the same report as the folder."""
    sources = (held_out, as_table(held_out, tmp_path / "digits.csv"))
    folder, table = (evaluate(DEMO_BUNDLE, source, quiet=True).document() for source in sources)

    assert folder | {"images_per_second": table["images_per_second"]} == table


def test_the_report_is_written(held_out: Path, tmp_path: Path) -> None:
    """`--output` writes accuracy, all classes and all confusions as JSON."""
    output = tmp_path / "report.json"

    assert main(["evaluate", str(DEMO_BUNDLE), str(held_out), "--output", str(output)]) == 0

    report = json.loads(output.read_text())
    assert report["top1"]["value"] == 359 / 360
    assert report["top1"]["low"] < 359 / 360 < report["top1"]["high"]
    assert report["published"] is None
    assert report["classes"][0]["label"] == "five"
    assert len(report["classes"]) == 10
    assert report["confusions"] == [
        {"index": 5, "taken_for": 6, "images": 1, "label": "five", "taken_for_label": "six"}
    ]


def test_the_terminal_shows_the_scores(held_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal shows accuracy with its interval, calibration, worst classes and confusions."""
    show(evaluate(DEMO_BUNDLE, held_out, quiet=True), Console(width=100))

    shown = capsys.readouterr().out
    assert "99.72 % (98.44 % to 99.95 %)" in shown
    for part in ("top-5", "calibration error", "worst classes", "predicted as", "images"):
        assert part in shown


def test_unreadable_files_are_counted_not_fatal(held_out: Path, tmp_path: Path) -> None:
    """Text, a truncated image and a missing file are listed with a reason, and the other images are evaluated."""
    data = shutil.copytree(held_out / "three", tmp_path / "data" / "three").parent
    image = next((data / "three").glob("*.png"))
    (data / "three" / "notes.txt").write_text("not an image")
    (data / "three" / "half.png").write_bytes(image.read_bytes()[:-40])
    table = as_table(data, tmp_path / "digits.csv")
    table.write_text(f"{table.read_text()}\nmissing.png,3\n{data / 'three' / 'notes.txt'},3")

    report = evaluate(DEMO_BUNDLE, table, quiet=True)

    assert {Path(path).name: reason for path, reason in report.unreadable} == {
        "half.png": "The PNG data is truncated or corrupt.",
        "missing.png": "The file cannot be read: No such file or directory.",
        "notes.txt": "The content is text, not an image; send the bytes of the image itself.",
    }
    assert report.top1.of == len(list((data / "three").glob("*.png"))) - 1


def test_no_readable_image_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If no image can be read, the exit code is 1 and the error contains the first reason."""
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "1.jpg").write_text("not an image")

    assert main(["evaluate", str(DEMO_BUNDLE), str(tmp_path)]) == 1
    assert "none of the 1 images can be read" in capsys.readouterr().err


def test_unknown_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that names no class gives one line and exit code 2."""
    (tmp_path / "eleven").mkdir()

    assert main(["evaluate", str(DEMO_BUNDLE), str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "swin-export: no class of the bundle has the name eleven; names are in labels.json\n"
    )


def test_limit_and_classes_select_images(held_out: Path) -> None:
    """--limit selects images of all classes, and --classes selects the given classes only."""
    spread = evaluate(DEMO_BUNDLE, held_out, limit=20, quiet=True)
    chosen = evaluate(DEMO_BUNDLE, held_out, classes=["three", "7"], quiet=True)

    assert (spread.top1.of, len(spread.classes)) == (20, 10)
    assert {one.index for one in chosen.classes} == {3, 7}


def test_a_multi_label_bundle_has_no_calibration_error(
    held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a bundle with sigmoid scores, the calibration error does not apply."""
    bundle = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    manifest = json.loads((bundle / MANIFEST).read_text()) | {"activation": "sigmoid"}
    (bundle / MANIFEST).write_text(json.dumps(manifest))

    report = evaluate(bundle, held_out, limit=10, quiet=True)
    show(report, Console(width=100))

    assert report.calibration_error is None
    assert "does not apply" in capsys.readouterr().out


def test_a_published_accuracy_is_shown(
    held_out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published accuracy is shown beside the measured accuracy."""
    monkeypatch.setattr("model_export.evaluation.evaluate.published", lambda _: Published(0.812, 0.955, "the authors"))

    show(evaluate(DEMO_BUNDLE, held_out, limit=10, quiet=True), Console(width=100))

    assert "published: 81.20 %" in capsys.readouterr().out
