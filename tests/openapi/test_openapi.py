"""Tests of the OpenAPI document: valid requests succeed, invalid ones are refused, responses fit their schemas."""

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
# The model in paths, and a golden sample.
NAMES = {"name": "digits", "version": "1", "file": "seven.png"}
# A timeout in seconds that a request can exceed on a busy machine. Shorter ones are raised to it.
SHORT = 10

# Binary data for the schemas of the OpenAPI document.
IMAGES = st.sampled_from(
    [
        encode(draw_picture(side, side), kind)
        for side, kind in itertools.product((1, 32, 300), ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"))
    ]
)

schemathesis.openapi.format("binary", IMAGES)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGES)


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    """A service with the demo bundle that asks for an API key."""
    served = Served(SWIN_API_KEYS=KEY)
    try:
        yield served
    finally:
        served.stop()


def described(examples: int) -> BaseSchema:
    """Return the OpenAPI document, for `examples` requests of each kind, which are the same in each run.

    All checks of schemathesis are on. Those for sequences of requests have no effect, because no
    operation creates, deletes or links a resource.
    """
    schema = schemathesis.openapi.from_dict(create_app(Settings.model_validate({"api_keys": KEY})).openapi())
    schema.config.request_timeout = START_SECONDS
    schema.config.generation.update(deterministic=True, database="none", max_examples=examples)
    schema.config.phases.coverage.generate_duplicate_query_parameters = True
    schema.config.checks.positive_data_acceptance.expected_statuses = ["200"]
    schema.config.checks.negative_data_rejection.expected_statuses = ["400", "401", "404", "405", "415", "422"]
    return schema


def check(case: schemathesis.Case[Any], served: Served) -> None:
    """Send one request and check its response."""
    assert case.meta is not None
    if case.meta.generation.mode.is_positive:
        make_consistent(case)
    with contextlib.suppress(KeyError, ValueError):  # the header is absent, or is the tested fault
        if 0 < float(case.headers["X-Request-Timeout"]) < SHORT:
            case.headers["X-Request-Timeout"] = str(SHORT)
    key = case.headers.get(KEY_HEADER, "Bearer")
    is_key_broken = not isinstance(key, str) or not key.startswith("Bearer")  # this can be the tested fault
    # schemathesis judges the request with its own key. With the key of the tests, the request can be valid.
    is_valid = is_key_the_only_fault(case) or is_wrong_by_type_only(case) or is_valid_as_text(case)
    is_undecided = is_key_broken or has_rules_beyond_its_schema(case)
    excluded: list[Any] = [positive_data_acceptance] if is_undecided else [negative_data_rejection] if is_valid else []
    case.call_and_validate(base_url=served.url, headers={} if is_key_broken else CREDENTIALS, excluded_checks=excluded)


def has_rules_beyond_its_schema(case: schemathesis.Case[Any]) -> bool:
    """Return whether a request has rules that OpenAPI cannot express.

    A text is the base64 of an image, the data of a tensor has its shape. tests/fuzz/infer_bodies.py and
    the tests of each protocol check them.
    """
    return case.media_type == "application/json" or case.path.endswith(("/infer", ":predict"))


def is_key_the_only_fault(case: schemathesis.Case[Any]) -> bool:
    """Return whether the request is valid with the key of the tests.

    Unknown fields of headers and forms can be added beside the key: the service ignores them.
    """
    assert case.meta is not None
    wrong = {each.keywords if each.parameter != KEY_HEADER else KEY_HEADER for each in case.meta.phase.data.mutations}
    return KEY_HEADER in wrong and wrong <= {KEY_HEADER, ("additionalProperties",)}


def is_wrong_by_type_only(case: schemathesis.Case[Any]) -> bool:
    """Return whether only types in a form are wrong.

    A form has no types. A number in the image field arrives as a part with text, which is an image
    with an error of its own in the results of a batch. tests/http/test_forms.py tests which forms
    are refused.
    """
    assert case.meta is not None
    keywords = {each.keywords for each in case.meta.phase.data.mutations}
    return case.meta.is_negative_at(ParameterLocation.BODY) and keywords <= {("type",)}


def is_valid_as_text(case: schemathesis.Case[Any]) -> bool:
    """Return whether a form is valid with its other fields as text, such as `null`."""
    assert case.meta is not None
    if not case.meta.is_negative_at(ParameterLocation.BODY) or not isinstance(case.body, dict):
        return False
    others = [value for name, value in case.body.items() if name not in {"file", "files"}]
    texts = [each for value in others for each in (value if isinstance(value, list) else [value])]
    has_zero = any(isinstance(each, str) and "\0" in each for each in texts)
    return len(others) < len(case.body) and len(texts) <= MAX_TEXT_FIELDS and not has_zero


def make_consistent(case: schemathesis.Case[Any]) -> None:
    """Follow the rules that OpenAPI cannot express: dependent parameters and the number of classes."""
    case.path_parameters |= {name: NAMES[name] for name in case.path_parameters.keys() & NAMES.keys()}
    if "class" in case.query:
        case.query |= {"class": int(case.query["class"]) % CLASSES, "format": "png"}
    if case.query.get("format") == "png":
        case.query |= {"evidence": "true", "embedding": "false"}
    if "top_k" in case.query:
        case.query["top_k"] = min(int(case.query["top_k"]), MAX_MAPS)


@described(50).parametrize()
def test_the_service_fits_its_openapi_document(case: schemathesis.Case[Any], locked: Served) -> None:
    """Random values, values at their limits, and missing or unknown methods, headers and keys get valid responses."""
    check(case, locked)


@pytest.mark.slow
@described(2000).parametrize()
def test_the_service_fits_its_openapi_document_in_many_cases(case: schemathesis.Case[Any], locked: Served) -> None:
    """2,000 requests of each kind get valid responses."""
    check(case, locked)
