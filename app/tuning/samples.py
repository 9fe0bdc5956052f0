"""The user's images: files are found, read and decoded once. An image that the service would refuse is left out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import ServiceError, StartError
from app.images.reading import ImageReader

# Maximum numbers of images and bytes that are held in memory. More images would not change the mean cost of one.
MAX_IMAGES, MAX_BYTES = 500, 256 * 2**20


@dataclass(frozen=True)
class Samples:
    """Encoded images that can be decoded, and a sentence for each file that cannot."""

    images: Sequence[bytes]
    left_out: Sequence[str]
    found: int  # files


def read_samples(paths: Sequence[Path], reader: ImageReader, max_bytes: int) -> Samples:
    """Read the images at these paths, files or folders: at most `MAX_IMAGES`, evenly spaced.

    `max_bytes` is the maximum size of an encoded image.

    Raises:
        StartError: a path does not exist, or no image can be used.
    """
    files = [file for path in paths for file in _files(path)]
    images, left_out, total = list[bytes](), list[str](), 0
    for file in _spread(files):
        try:
            content = _content(file, max_bytes)
            reader.pixels(content)
        except (OSError, ServiceError) as error:
            left_out.append(f"{file}: {_reason(error)}")
            continue
        if total + len(content) > MAX_BYTES:
            break
        images.append(content)
        total += len(content)
    if not images:
        why = f"; {left_out[0]}" if left_out else ""
        raise StartError(f"--images: none of the {len(files)} files is an image that the service reads{why}")
    return Samples(images, left_out, len(files))


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder and its folders by name, without hidden ones."""
    if path.is_dir():
        yield from (
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    elif path.exists():
        yield path
    else:
        raise StartError(f"--images: there is no file or folder {path}")


def _spread(files: Sequence[Path]) -> Iterable[Path]:
    step = max(len(files) / MAX_IMAGES, 1)
    return (files[int(place * step)] for place in range(min(len(files), MAX_IMAGES)))


def _content(file: Path, max_bytes: int) -> bytes:
    if not file.is_file():
        raise OSError("it is not a regular file")
    if file.stat().st_size > max_bytes:
        raise OSError(f"it is longer than {max_bytes / 2**20:g} MiB")
    return file.read_bytes()


def _reason(error: OSError | ServiceError) -> str:
    return error.detail if isinstance(error, ServiceError) else error.strerror or str(error)
