"""A fuzzer of image decoding: damages images and checks the results.

For any bytes, `decode_image` and `preprocess` must give pixels or a `ServiceError`, in bounded time
and memory. `python -m tests.fuzz 200000` takes a few minutes on two cores. Each input depends only
on the seed and its number, so a finding can be reproduced: `python -m tests.fuzz --only NUMBER`.
"""

import argparse
import io
import multiprocessing
import os
import struct
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from app.bundle.load import load_bundle
from app.bundle.manifest import Preprocessing
from app.errors import ServiceError
from app.images.decode import FORMATS, Limits, configure_pillow, decode_image
from app.images.preprocess import preprocess
from app.settings import DEMO_BUNDLE
from app.system.cpus import available_cpus
from app.system.processes import peak_rss
from tests.references.draw import draw_picture
from tests.support.images import png_chunk

LIMITS = Limits(pixels=2_000_000)

# CPU seconds that one input may take. The slowest input so far took a tenth.
MAX_SECONDS = 5.0

# Peak resident bytes of a process. Python, Pillow and NumPy take 90 MB of them.
MAX_MEMORY = 500 * 2**20

SPAWN = multiprocessing.get_context("spawn")

BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
LENGTHS = (0, 1, 7, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Outcome(NamedTuple):
    """The outcome of one input."""

    number: int
    kind: str  # the format of the original
    result: str  # `pixels`, the code of a `ServiceError`, or a finding in words
    is_finding: bool = False


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image as a file."""
    file = io.BytesIO()
    image.copy().save(file, kind, **options)  # a copy, because Pillow keeps the options in the image
    return file.getvalue()


def originals() -> dict[str, list[bytes]]:
    """Return intact images of every kind that Pillow can write, by format."""
    picture, tiny = draw_picture(60, 44), draw_picture(7, 5)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = picture.convert("RGBA")
    clear.putalpha(picture.convert("L"))
    gray16 = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)

    def animation() -> dict[str, Any]:
        return {"save_all": True, "append_images": [picture.rotate(turn) for turn in (90, 180)]}

    extras = {"exif": exif, "icc_profile": profile}
    made = {
        "jpeg": [
            *(encode(image, "JPEG", **options) for image in (picture, tiny) for options in ({}, extras)),
            *(encode(picture, "JPEG", **{option: True}) for option in ("progressive", "optimize")),
            *(encode(picture, "JPEG", subsampling=sampling) for sampling in (0, 1, 2)),
            *(encode(picture.convert(mode), "JPEG") for mode in ("L", "CMYK", "YCbCr")),
            encode(picture, "JPEG", restart_marker_rows=1),
            encode(picture, "MPO", **animation()),
        ],
        "png": [
            *(encode(image, "PNG", **options) for image in (picture, tiny) for options in ({}, extras)),
            *(encode(picture.convert(mode), "PNG") for mode in ("1", "L", "LA", "P")),
            *(encode(image, "PNG") for image in (clear, gray16)),
            encode(picture.convert("P"), "PNG", transparency=3, bits=4),
            encode(picture, "PNG", transparency=(0, 0, 0)),
            encode(gray16, "PNG", transparency=257),
            encode(clear, "PNG", **animation()),
        ],
        "webp": [
            *(encode(image, "WEBP", lossless=lossless) for image in (picture, clear) for lossless in (True, False)),
            encode(picture, "WEBP", **extras),
            encode(clear, "WEBP", **animation()),
        ],
        "gif": [
            *(encode(image, "GIF") for image in (picture, tiny, clear, picture.convert("L"))),
            encode(picture, "GIF", interlace=1, comment=b"a comment"),
            encode(clear, "GIF", disposal=2, **animation()),
        ],
        "bmp": [encode(picture.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")],
        "tiff": [
            *(
                encode(picture.convert(mode), "TIFF")
                for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")
            ),
            *(
                encode(picture, "TIFF", compression=kind)
                for kind in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
            ),
            encode(picture.convert("1"), "TIFF", compression="group4"),
            *(encode(image, "TIFF") for image in (gray16, picture.convert("F"), picture.convert("I"))),
            encode(picture, "TIFF", **extras),
            encode(picture, "TIFF", big_tiff=True),
            encode(picture, "TIFF", tiffinfo={322: 16, 323: 16}),
            encode(picture, "TIFF", **animation()),
        ],
        "avif": [
            encode(picture, "AVIF"),
            encode(clear, "AVIF", quality=30),
            encode(picture, "AVIF", **extras),
            encode(picture, "AVIF", **animation()),
        ],
    }
    return {kind: images for kind, images in made.items() if kind in FORMATS}


class Damage:
    """Random damage to images."""

    def __init__(self, random: Random, others: Sequence[bytes]) -> None:
        self._random, self._others = random, others

    def __call__(self, data: bytes) -> bytes:
        """Return the image after one to four kinds of damage."""
        general = [
            self._bits,
            self._values,
            self._length,
            self._cut,
            self._repeat,
            self._insert,
            self._truncate,
            self._splice,
        ]
        special = {b"\x89P": self._chunk, b"\xff\xd8": self._segment, b"II": self._tag, b"MM": self._tag}.get(data[:2])
        for _ in range(self._random.randint(1, 4)):
            if not data:
                break
            mutations = [*general, *([special] * len(general) if special else [])]
            data = self._random.choice(mutations)(data)
        return data

    def _place(self, data: bytes) -> int:
        """Return a random offset, more often in the header, where damage has more effects."""
        return self._random.randrange(min(len(data), 600) if self._random.random() < 0.6 else len(data))

    def _bits(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.choice((1, 1, 2, 8, 64))):
            changed[self._place(data)] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _values(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.choice((1, 2, 4))):
            changed[self._place(data)] = self._random.choice(BOUNDARIES)
        return bytes(changed)

    def _length(self, data: bytes) -> bytes:
        place, kind = self._place(data), self._random.choice((">H", "<H", ">L", "<L"))
        length = self._random.choice(LENGTHS) & (0xFFFF if kind.endswith("H") else 0xFFFFFFFF)
        return data[:place] + struct.pack(kind, length) + data[place + struct.calcsize(kind) :]

    def _cut(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + data[place + self._random.choice((1, 2, 4, 16, 300)) :]

    def _repeat(self, data: bytes) -> bytes:
        place, size = self._place(data), self._random.choice((1, 4, 16, 300))
        return data[:place] + data[place : place + size] * self._random.choice((2, 3, 50)) + data[place + size :]

    def _insert(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self._random.randbytes(self._random.choice((1, 4, 64))) + data[place:]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._random.randrange(len(data))]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._others)
        return data[: self._place(data)] + other[self._place(other) :]

    def _chunk(self, data: bytes) -> bytes:
        """Damage a chunk of a PNG and correct its checksum, so that decoders read on."""
        chunks = list(_png_chunks(data))
        if not chunks:
            return data
        index = self._random.randrange(len(chunks))
        kind, content = chunks[index]
        match self._random.randrange(5):
            case 0:
                chunks[index] = kind, self._bits(content) if content else b"\0"
            case 1:
                chunks[index] = kind, self._values(content) if content else b"\xff"
            case 2:
                chunks.insert(self._random.randrange(len(chunks) + 1), chunks[index])
            case 3:
                del chunks[index]
            case _:
                chunks[index] = self._random.choice(chunks)[0], content
        return data[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)

    def _segment(self, data: bytes) -> bytes:
        """Damage a marker of a JPEG, or a byte of its content."""
        markers = [place for place in range(len(data) - 4) if data[place] == 0xFF and 0xC0 <= data[place + 1] <= 0xFE]
        if not markers:
            return data
        place = self._random.choice(markers) + self._random.choice((1, 2, 3, 4, 5, 6, 7, 8, 9))
        if place >= len(data):
            return data
        return (
            data[:place] + bytes([self._random.choice((*BOUNDARIES, self._random.randrange(256)))]) + data[place + 1 :]
        )

    def _tag(self, data: bytes) -> bytes:
        """Damage a field of an entry in the first directory of a TIFF."""
        order = "<" if data[:2] == b"II" else ">"
        if len(data) < 8:
            return data
        (start,) = struct.unpack_from(order + "L", data, 4)
        if start + 14 > len(data):
            return data
        (entries,) = struct.unpack_from(order + "H", data, start)
        place = start + 2 + 12 * self._random.randrange(max(entries, 1))
        field, kind = self._random.choice(((0, "H"), (2, "H"), (4, "L"), (8, "L"), (8, "H")))
        value = self._random.choice((*LENGTHS, self._random.randrange(2**16), self._random.randrange(len(data))))
        packed = struct.pack(order + kind, value & (0xFFFF if kind == "H" else 0xFFFFFFFF))
        return data[: place + field] + packed + data[place + field + len(packed) :]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


@cache
def _originals() -> list[tuple[str, bytes]]:
    return [(kind, data) for kind, images in originals().items() for data in images]


def make(seed: int, number: int) -> tuple[str, bytes]:
    """Return the format and the bytes of an input. The formats take turns."""
    random = Random(f"{seed} {number}")
    kind = FORMATS[number % len(FORMATS)]
    data = random.choice([data for of, data in _originals() if of == kind])
    return kind, Damage(random, [data for _, data in _originals()])(data)


def attempt(seed: int, number: int) -> Outcome:
    """Decode one input and check the result."""
    kind, data = make(seed, number)
    started = time.process_time()
    try:
        image = decode_image(data, LIMITS)
        pixels = preprocess(image, _recipe())
    except ServiceError as error:
        result = error.code
    except BaseException as error:  # noqa: BLE001 (any other error is a finding)
        return Outcome(number, kind, f"{type(error).__name__}: {error}", is_finding=True)
    else:
        result = "pixels"
        if image.mode != "RGB" or image.width * image.height > LIMITS.pixels or pixels.shape != (32, 32, 3):
            return Outcome(number, kind, f"{image.mode} {image.size} → {pixels.shape}", is_finding=True)
    seconds = time.process_time() - started
    return Outcome(
        number, kind, f"{seconds:.1f} s" if seconds > MAX_SECONDS else result, is_finding=seconds > MAX_SECONDS
    )


@cache
def _recipe() -> Preprocessing:
    return load_bundle(DEMO_BUNDLE).manifest.preprocessing


class Worker:
    """A process that decodes a range of inputs. A decoder that crashes it is a finding."""

    def __init__(self, seed: int, numbers: range) -> None:
        self._numbers = numbers
        self._current = SPAWN.Value("q", numbers.start)
        self.results, sender = SPAWN.Pipe(duplex=False)
        self._process = SPAWN.Process(target=_work, args=(seed, numbers, self._current, sender), daemon=True)
        self._process.start()
        sender.close()

    def join(self) -> None:
        """Wait until the process, which has sent its last result, has ended."""
        self._process.join()

    def crash(self) -> tuple[Outcome, range]:
        """Return the finding for the current input, and the remaining inputs.

        Call this when `results` has ended too early.
        """
        self._process.join()
        number = self._current.value
        result = f"the process ended with {self._process.exitcode}"
        return Outcome(number, FORMATS[number % len(FORMATS)], result, is_finding=True), range(
            number + self._numbers.step, self._numbers.stop, self._numbers.step
        )


def _work(seed: int, numbers: range, current: Any, results: Connection) -> None:
    configure_pillow()
    warnings.simplefilter("error", append=True)  # the service would log a warning that it does not ignore
    for number in numbers:
        current.value = number
        results.send(attempt(seed, number))
    results.send(peak_rss(os.getpid()))


def run(seed: int, count: int, processes: int) -> tuple[list[Outcome], int]:
    """Decode `count` inputs, show the progress, and return the outcomes and the peak memory."""
    _originals()  # fails here, not in the workers
    outcomes, memory = list[Outcome](), 0
    workers = [Worker(seed, range(first, count, processes)) for first in range(processes)]
    by_results = {worker.results: worker for worker in workers}
    while by_results:
        for results in wait(list(by_results)):
            assert isinstance(results, Connection)
            try:
                received = results.recv()
            except EOFError:
                outcome, left = by_results.pop(results).crash()
                outcomes.append(outcome)
                if left:
                    worker = Worker(seed, left)
                    by_results[worker.results] = worker
                continue
            if isinstance(received, Outcome):
                outcomes.append(received)
            else:
                memory = max(memory, received)
                by_results.pop(results).join()
        if sys.stderr.isatty() and len(outcomes) % 100 == 0:
            print(f"\r{len(outcomes)} of {count}", end="", file=sys.stderr, flush=True)
    return outcomes, memory


def main() -> int:
    """Write the input of each finding to a file. Return 1 if there is a finding, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=available_cpus())
    parser.add_argument("--only", type=int, metavar="NUMBER", help="decode only this input, in this process")
    options = parser.parse_args()
    if options.only is not None:
        print(attempt(options.seed, options.only))
        return 0
    outcomes, memory = run(options.seed, options.count, options.processes)
    counts = Counter((outcome.kind, "findings" if outcome.is_finding else outcome.result) for outcome in outcomes)
    columns = sorted({result for _, result in counts})
    print(" ".join(["format".ljust(8), *(column.rjust(17) for column in columns)]))
    for kind in FORMATS:
        print(" ".join([kind.ljust(8), *(str(counts[kind, column]).rjust(17) for column in columns)]))
    findings = [outcome for outcome in outcomes if outcome.is_finding]
    for finding in findings:
        file = Path(f"fuzz-{options.seed}-{finding.number}.{finding.kind}")
        file.write_bytes(make(options.seed, finding.number)[1])
        print(f"{file}: {finding.result}")
    print(f"{len(outcomes)} inputs, {len(findings)} findings, {memory / 2**20:.0f} MiB at most in a process")
    return 1 if findings or memory > MAX_MEMORY else 0
