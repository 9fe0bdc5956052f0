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
from app.http.forms import MAX_TEXT_FIELDS

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

# The text of other fields in a form. A text with a zero byte counts as a file.
NO_ZERO = r"^[^\x00]*$"


def form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a form with a field that is required, and other fields of text, which the service ignores."""
    return {
        "schema": {
            "type": "object",
            "required": [field],
            "properties": {field: schema},
            "additionalProperties": {"type": "string", "pattern": NO_ZERO},
            "maxProperties": MAX_TEXT_FIELDS + 1,
        }
    }


def image_or_form(field: str) -> dict[str, Any]:
    """Return the body of a request with one image: the body itself, or a field of a form."""
    return {
        "required": True,
        "content": {
            "image/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": form(field, BINARY["schema"]),
        },
    }


def path_parameter(name: str, description: str) -> dict[str, Any]:
    """Return a parameter of a path as OpenAPI declares it."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": description}


NAME = path_parameter("name", "The name of the model.")
VERSION = path_parameter("version", "The version of the model.")
