"""The provenance of rows: bundle, settings and libraries, which determine them with the images. Knows no engine."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from app.bundle.digests import file_digest
from app.bundle.manifest import MANIFEST
from app.errors import BundleError
from app.settings import Settings

# Settings that determine the rows, beside those of the engine.
SETTINGS_OF_ROWS = ("formats", "max_megapixels", "max_body_mib", "color_profiles", "decode")

# Libraries that determine the rows: another version can decode or compute another last digit.
LIBRARIES = ("swin-serve", "onnxruntime", "onnxruntime-gpu", "pillow")


def bundle_digest(settings: Settings) -> str:
    """Return the beginning of the digest of the manifest, which has the digests of all other files.

    Raises:
        BundleError: there is no manifest.
    """
    manifest = settings.bundle / MANIFEST
    if not manifest.is_file():
        raise BundleError(f"no bundle at {settings.bundle}: there is no {MANIFEST}")
    return file_digest(manifest)[:16]


def settings_of_rows(settings: Settings) -> Mapping[str, Any]:
    """Return the settings that determine the rows, as JSON has them."""
    values = settings.model_dump(mode="json")
    return {name: values[name] for name in SETTINGS_OF_ROWS}


def library_versions() -> Mapping[str, str]:
    """Return the versions of the libraries that determine the rows."""
    return {name: version for name in LIBRARIES if (version := _version(name))}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
