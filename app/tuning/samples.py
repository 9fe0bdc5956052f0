"""The user's images: files are found, read and decoded once. An image that the service would refuse is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from app.errors import ServiceError, StartError
from app.images.files import files_of, is_folder, read_file
from app.images.reading import ImageReader

MEBIBYTE = 2**20

# Maximum numbers of images and bytes that are held in memory. More images would not change the mean cost of one.
MAX_IMAGES, MAX_BYTES = 500, 256 * MEBIBYTE

# Maximum size of one image: several images give a better mean.
MAX_IMAGE_BYTES = MAX_BYTES // 2

# Maximum numbers of files and bytes that are read in search of images. A folder can hold a million other files.
MAX_FILES, MAX_READ_BYTES = 10 * MAX_IMAGES, 8 * MAX_BYTES


@dataclass(frozen=True)
class Samples:
    """Encoded images that can be decoded, and a sentence for each file that cannot be used."""

    images: Sequence[bytes]  # in random order, the same in each run
    left_out: Sequence[str]
    found: int  # files
    remark: str | None = None  # a sentence if not all files were read


def read_samples(paths: Sequence[Path], reader: ImageReader, max_bytes: int) -> Samples:
    """Read the images at these paths, files or folders: all of them, or a random part up to the maximum numbers.

    The order is random, because files are sorted by name, and names often tell the size: the images of each window
    then resemble all images. `max_bytes` is the maximum size of an encoded image.

    Raises:
        StartError: a path cannot be read, or no image can be used.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise StartError(f"--images: there are no files in {', '.join(map(str, paths))}")
    Random(0).shuffle(files)  # noqa: S311 (a sample, not a secret)
    reading = _Reading(reader, min(max_bytes, MAX_IMAGE_BYTES))
    for file in files:
        reading.add(file)
        if reading.maximum:
            break
    remark = None
    if reading.files < len(files):
        remark = (
            f"{reading.files:,} of {len(files):,} files are read, chosen at random: the maximum is {reading.maximum}"
        )
    if not reading.images:
        raise StartError(f"--images: {_refusal(reading.left_out, len(files))}{f'; {remark}' if remark else ''}")
    return Samples(reading.images, reading.left_out, len(files), remark)


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder and its folders."""
    try:
        if is_folder(path):
            yield from files_of(path)
        else:
            path.stat()
            yield path
    except StartError as error:
        raise StartError(f"--images: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: the name contains NUL
        raise StartError(f"--images: cannot read {path}: {getattr(error, 'strerror', error)}") from error


def _refusal(left_out: Sequence[str], found: int) -> str:
    return left_out[0] if found == 1 else f"none of the {found:,} files can be used; {left_out[0]}"


@dataclass
class _Reading:
    """The images so far, and the files that are left out."""

    reader: ImageReader
    max_bytes: int  # of one image
    images: list[bytes] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: int = 0  # that were read
    maximum: str | None = None  # the one that is reached

    def __post_init__(self) -> None:
        self._room, self._read = MAX_BYTES, 0

    def add(self, file: Path) -> None:
        """Read a file, and keep its content if it is an image. If that does not fit, the maximum is reached."""
        try:
            content = read_file(file, self.max_bytes)
            # Only smaller images would still fit. They would be too many of the sample.
            if len(content) > self._room:
                self.maximum = f"{MAX_BYTES // MEBIBYTE} MiB of images"
                return
            self._read += len(content)
            self.reader.pixels(content)
        except ServiceError as error:
            self.left_out.append(f"{file}: {error.detail}")
        else:
            self.images.append(content)
            self._room -= len(content)
        self.files += 1
        self._check_numbers()

    def _check_numbers(self) -> None:
        if len(self.images) == MAX_IMAGES:
            self.maximum = f"{MAX_IMAGES} images"
        elif self.files == MAX_FILES:
            self.maximum = f"{MAX_FILES:,} files"
        elif self._read >= MAX_READ_BYTES:
            self.maximum = f"{MAX_READ_BYTES // MEBIBYTE:,} MiB of files"
