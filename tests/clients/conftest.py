"""Services and files for the clients."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.bundle.load import Bundle
from app.images.preprocess import decode_pixels
from tests.clients.clients import Files, Services

# A GIF of 8×8 that ends after its header. All of its bytes are ASCII, so that each client can send it as a text.
DAMAGED = b"GIF89a\x08\x00\x08\x00\x00\x00\x00,"

# A GIF of 32639×32639, of which no more is needed. All of its bytes are ASCII, too.
WIDE = b"GIF89a\x7f\x7f\x7f\x7f\x00\x00\x00,\x00\x00\x00\x00\x7f\x7f\x7f\x7f\x00\x02\x00;"

# More than the limit of `Services.alone`.
LARGE = b"x" * (2**20 + 1)


@pytest.fixture(scope="session")
def files(demo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Files that the clients send."""
    folder = tmp_path_factory.mktemp("images")
    image = demo.folder / "golden" / "seven.png"
    (folder / "damaged.gif").write_bytes(DAMAGED)
    (folder / "text.jpg").write_bytes(b"text")
    (folder / "large.jpg").write_bytes(LARGE)
    (folder / "wide.gif").write_bytes(WIDE)
    np.save(folder / "pixels.npy", decode_pixels(image.read_bytes(), demo.manifest.preprocessing)[None])
    names = ("pixels.npy", "damaged.gif", "text.jpg", "large.jpg", "wide.gif")
    return Files(image, *(folder / name for name in names))


@pytest.fixture(scope="session")
def services(patient_clients: None) -> Iterator[Services]:  # noqa: ARG001 (for its effect)
    """Services that start when a test asks for them."""
    services = Services()
    yield services
    services.close()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home, so that no client reads keys or settings of the user."""
    return tmp_path_factory.mktemp("home")
