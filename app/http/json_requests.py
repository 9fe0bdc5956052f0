"""JSON requests with images, for the routes of several protocols. Knows no protocol."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import Request

from app.classification.classifier import Inference
from app.classification.decoding import SMALL_BYTES
from app.errors import UnreadableImage, UnsupportedImage
from app.http.request_head import header_of
from app.http.uploads import hint_for, service_of
from app.models.registry import Model
from app.protocols.inference import run_all

T = TypeVar("T")


def is_json(request: Request) -> bool:
    """Return whether the Content-Type of the body is JSON."""
    kind = header_of(request.scope, b"content-type").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def decoded(
    model: Model, body: bytes, decode: Callable[[bytes], T], deadline: float, json_bytes: int | None = None
) -> T:
    """Return what `decode` makes of a body, of which `json_bytes` are JSON; by default all.

    A large JSON document is not parsed on the event loop.

    Raises:
        ServiceError: any error of `decode`, and those of `Decoder.document`.
    """
    if (len(body) if json_bytes is None else json_bytes) <= SMALL_BYTES:
        return decode(body)
    return await model.classifier.decoder.document(decode, body, deadline)


async def infer_images(
    request: Request, model: Model, images: Sequence[bytes], read: float, deadline: float, *, embedding: bool = False
) -> Sequence[Inference]:
    """Return the outputs of the model for encoded images, and count their stages. `read` is in seconds.

    Raises:
        ServiceError: the error of the first image that failed.
    """
    service = service_of(request)
    try:
        results = await run_all(model, images, embedding=embedding, deadline=deadline)
    except (UnsupportedImage, UnreadableImage) as error:
        if not is_json(request):
            error.detail += hint_for(request)
        raise
    for result in results:
        service.observe_stages({**result.seconds, "read": read / len(images)})
    return results
