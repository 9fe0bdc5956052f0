"""A large source needs no more memory than a small one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.load.served import START_SECONDS
from tests.support.images import encode

# Runs the command, and prints the peak of its resident memory.
RUN = "import sys, app.cli.main as cli; cli.main(sys.argv[1:]); print(open('/proc/self/status').read())"
FEW, MANY, SIDE = 20, 160, 600


def write_table(path: Path, images: int) -> Path:
    """Write a table of images in one row group, in pages of a few images."""
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    table = pa.table({"image": [encode(Image.fromarray(pixels), "BMP")] * images})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=4)
    return path


def peak_bytes(table: Path) -> int:
    """Score the images of a table in a process of its own. Return the peak of its resident memory."""
    options = ["--output", str(table.with_suffix(".out.parquet")), "--device", "cpu", "--threads", "1", "--batch", "4"]
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", RUN, "score", str(table), *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=START_SECONDS,
    )
    return 1024 * int(done.stdout.partition("VmHWM:")[2].split()[0])


def test_a_table_of_images_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """A table that has 150 MB more than another one takes less than 60 MB more memory."""
    few, many = (write_table(tmp_path / f"{count}.parquet", count) for count in (FEW, MANY))
    assert many.stat().st_size - few.stat().st_size > 150e6

    assert peak_bytes(many) - peak_bytes(few) < 60e6
