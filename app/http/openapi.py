"""Parts of the OpenAPI document that the routes of several protocols share. Knows no route."""

from typing import Any

from app.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    ImageTooLarge,
    InternalError,
    InvalidBody,
    InvalidParameter,
    NotReady,
    Overloaded,
    TooManyConnections,
    UnknownModel,
    UnreadableImage,
    UnsupportedEncoding,
    UnsupportedImage,
)

# Errors of requests that carry images.
IMAGE_ERRORS = (
    ImageTooLarge,
    UnsupportedImage,
    UnsupportedEncoding,
    UnreadableImage,
    InvalidParameter,
    Overloaded,
    NotReady,
    Draining,
    TooManyConnections,
    DeadlineExceeded,
    EngineFailed,
    InternalError,
)

# Errors of requests that carry images, or JSON with images, to a model in their path.
MODEL_ERRORS = (InvalidBody, UnknownModel, *IMAGE_ERRORS)

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def path_parameter(name: str, description: str) -> dict[str, Any]:
    """Return a parameter of a path as OpenAPI declares it."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": description}


NAME = path_parameter("name", "The name of the model.")
VERSION = path_parameter("version", "The version of the model.")
