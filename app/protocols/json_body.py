"""JSON documents of clients: parsed within bounds of memory, with images in strict base64. Knows no protocol."""

import binascii
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import InvalidBody, sentence

Document = TypeVar("Document", bound=BaseModel)

# Limit of lists and objects in one document. An empty list takes 2 bytes of the document and 64 in memory.
MAX_CONTAINERS = 2**20

# Limit of members of all objects in one document, counted by their colons. An unknown one takes 1.2 KB in memory.
MAX_MEMBERS = 2**13


def parse(kind: type[Document], document: bytes | memoryview) -> Document:
    """Return a JSON document as its type.

    Raises:
        InvalidBody: it is not JSON, lacks a member, or has too many lists, objects and members.
    """
    data = bytes(document)
    containers = data.count(b"[") + data.count(b"{")
    if containers > MAX_CONTAINERS:
        raise InvalidBody(
            f"The JSON has {containers} lists and objects, {MAX_CONTAINERS} are allowed; send numbers as one flat list."
        )
    if (members := data.count(b":")) > MAX_MEMBERS:
        raise InvalidBody(f"The JSON has {members} colons, {MAX_MEMBERS} are allowed; send fewer members or images.")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise InvalidBody(f"The JSON of the request is not valid: {sentence(error)}.") from error


def decode_base64(text: str, place: str) -> bytes:
    """Return the bytes of a base64 text (RFC 4648, section 4), which is never read as a URL or a path.

    `place` names the text in the message of an error.

    Raises:
        InvalidBody: the text is not base64, has characters of another alphabet, or lacks its padding.
    """
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidBody(
            f"{place} is not base64; send the bytes of the image in base64 with padding, without a prefix such as "
            "data:image/png;base64, and never as a URL."
        ) from error
