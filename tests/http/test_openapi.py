"""What OpenAPI says is true: what it allows is answered, what it does not is refused, answers are as it describes."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from app.http.forms import MAX_TEXT_FIELDS
from app.http.parameters import MAX_MAPS
from app.main import create_app
from app.settings import Settings
from benchmarks.load.served import START_SECONDS
from tests.references.draw import draw_picture
from tests.support.images import encode
from tests.support.served import Served

KEY = "a-key-of-the-tests-0123456789"
KEY_HEADER = "Authorization"
CREDENTIALS = {KEY_HEADER: f"Bearer {KEY}"}
CLASSES = 10
SHORT = 10
"""Seconds in which an image may not be classified, on a machine that does something else, too."""

IMAGES = st.sampled_from(
    [
        encode(draw_picture(side, side), kind)
        for side, kind in itertools.product((1, 32, 300), ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"))
    ]
)
"""What OpenAPI calls binary data."""

schemathesis.openapi.format("binary", IMAGES)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGES)


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    """The demonstration bundle, served to who has a key."""
    served = Served(SWIN_API_KEYS=KEY)
    try:
        yield served
    finally:
        served.stop()


def described(examples: int) -> BaseSchema:
    """What the service says of itself, to be held against so many requests of each kind; always the same ones.

    All of schemathesis' checks are on. No resource is made or deleted and no operation links to another, so those about
    sequences of requests find nothing to do.
    """
    schema = schemathesis.openapi.from_dict(create_app(Settings.model_validate({"api_keys": KEY})).openapi())
    schema.config.request_timeout = START_SECONDS
    schema.config.generation.update(deterministic=True, database="none", max_examples=examples)
    schema.config.phases.coverage.generate_duplicate_query_parameters = True
    schema.config.checks.positive_data_acceptance.expected_statuses = ["200"]
    schema.config.checks.negative_data_rejection.expected_statuses = ["401", "405", "422"]
    return schema


def hold(case: schemathesis.Case[Any], served: Served) -> None:
    """Send one request and look at its answer."""
    assert case.meta is not None
    if case.meta.generation.mode.is_positive:
        settle(case)
    with contextlib.suppress(KeyError, ValueError):  # there is no time, or it is the one thing that is wrong
        if 0 < float(case.headers["X-Request-Timeout"]) < SHORT:
            case.headers["X-Request-Timeout"] = str(SHORT)
    key = case.headers.get(KEY_HEADER, "Bearer")
    is_broken = not isinstance(key, str) or not key.startswith("Bearer")  # and may be the one thing that is wrong
    # schemathesis judges the request with its own key. With the key of the tests, nothing may be wrong with it.
    is_right = is_mended(case) or is_wrong_by_type_only(case) or is_right_as_text(case)
    left_out: list[Any] = [positive_data_acceptance] if is_broken else [negative_data_rejection] if is_right else []
    case.call_and_validate(base_url=served.url, headers={} if is_broken else CREDENTIALS, excluded_checks=left_out)


def is_mended(case: schemathesis.Case[Any]) -> bool:
    """Return whether the key of the tests leaves nothing to refuse.

    The key was all that was wrong, or beside it at most unknown options were added: those are ignored.
    """
    assert case.meta is not None
    wrong = {each.keywords if each.parameter != KEY_HEADER else KEY_HEADER for each in case.meta.phase.data.mutations}
    return KEY_HEADER in wrong and wrong <= {KEY_HEADER, ("additionalProperties",)}


def is_wrong_by_type_only(case: schemathesis.Case[Any]) -> bool:
    """Return whether only types in a form are wrong.

    A form has no types: a number in the image field arrives as a part with text, which is an image with an error of its
    own in the answer to a batch. tests/http/test_forms.py says which forms are refused.
    """
    assert case.meta is not None
    keywords = {each.keywords for each in case.meta.phase.data.mutations}
    return case.meta.is_negative_at(ParameterLocation.BODY) and keywords <= {("type",)}


def is_right_as_text(case: schemathesis.Case[Any]) -> bool:
    """Return whether a form is right once its other fields are text, as `null` is when it is sent."""
    assert case.meta is not None
    if not case.meta.is_negative_at(ParameterLocation.BODY) or not isinstance(case.body, dict):
        return False
    others = [value for name, value in case.body.items() if name not in {"file", "files"}]
    texts = [each for value in others for each in (value if isinstance(value, list) else [value])]
    has_zero = any(isinstance(each, str) and "\0" in each for each in texts)
    return len(others) < len(case.body) and len(texts) <= MAX_TEXT_FIELDS and not has_zero


def settle(case: schemathesis.Case[Any]) -> None:
    """What OpenAPI has no words for: options that need each other, and how many classes there are."""
    if "class" in case.query:
        case.query |= {"class": int(case.query["class"]) % CLASSES, "format": "png"}
    if case.query.get("format") == "png":
        case.query["evidence"] = "true"
    if "top_k" in case.query:
        case.query["top_k"] = min(int(case.query["top_k"]), MAX_MAPS)


@described(50).parametrize()
def test_the_service_is_as_it_says(case: schemathesis.Case[Any], locked: Served) -> None:
    """Values at their bounds, on both sides of them, and at random; methods, headers and keys that are not there."""
    hold(case, locked)


@pytest.mark.slow
@described(2000).parametrize()
def test_the_service_is_as_it_says_for_long(case: schemathesis.Case[Any], locked: Served) -> None:
    """The same, with many more of them."""
    hold(case, locked)
