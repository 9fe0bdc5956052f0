"""What a request may ask for beside its image: read from query and header, and declared in OpenAPI, without FastAPI.

FastAPI would do both from the endpoint's signature, and take a fifth of a small image's time for it at every request.
Queries are few and come again and again, so each is read once, unless it is so long that somebody must have made it up.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from app.errors import InvalidParameter
from app.validation_messages import REASONS

MAX_MAPS = 100
"""Evidence maps in an answer, of one image: a network can have tens of thousands of classes, and each map is a page."""

MAX_KEPT_BYTES = 200
"""Of a query that is read once: longer ones are read each time, so that callers do not choose what the memory holds."""

MAX_SHOWN = 100  # characters of a value that is repeated in a sentence

Absent = SkipJsonSchema[None]
"""Not given. OpenAPI would call it `null`, which nobody can say in a query."""


class Options(BaseModel, extra="forbid", frozen=True):
    """What a request may ask for. An option that does not exist is refused: its caller would get another answer."""

    top_k: Annotated[int, Field(ge=1)] | Absent = Field(
        None, description="Classes in the answer; the service's setting if absent."
    )
    evidence: bool = Field(
        default=False, description=f"Add what each place of the image contributes; for at most {MAX_MAPS} classes."
    )


class OptionsOfOne(Options):
    """What a request with one image may ask for."""

    format: Literal["json", "png"] = Field(
        "json", description="`png`, with evidence: a picture of it, for the best class or the one named."
    )
    index: Annotated[int, Field(ge=0)] | Absent = Field(
        None, alias="class", description="Number of the class to draw the evidence for."
    )


Kind = TypeVar("Kind", bound=Options)

TIMEOUT = "X-Request-Timeout"
TIMEOUT_HEADER = TIMEOUT.lower().encode()
Timeout = TypeAdapter[float](
    Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Seconds from the request's head in which an answer is of use; at most the service's setting.",
        ),
    ]
)


def options_of(request: Request, kind: type[Kind]) -> Kind:
    """The options in the query.

    Raises:
        InvalidParameter: one of them is unknown, given twice, or has a value it cannot have.
    """
    query: bytes = request.scope["query_string"]
    read = _read_once if len(query) <= MAX_KEPT_BYTES else _read
    options: Kind = read(kind, query)
    return options


def timeout_of(request: Request) -> float | None:
    """The seconds that the caller will wait for the answer, if it says so.

    Raises:
        InvalidParameter: they are no number, or not above zero.
    """
    given = [value for name, value in request.scope["headers"] if name == TIMEOUT_HEADER]
    try:
        return Timeout.validate_strings(given[0].decode("latin-1")) if given else None
    except ValidationError as error:
        raise _bad_option(error, TIMEOUT, "a number of seconds above zero") from error


def declared(kind: type[Options]) -> list[dict[str, Any]]:
    """The parameters of a route, for OpenAPI."""
    query = kind.model_json_schema()["properties"]
    return [
        *(_parameter("query", name, schema) for name, schema in query.items()),
        _parameter("header", TIMEOUT, Timeout.json_schema()),
    ]


def _read(kind: type[Kind], query: bytes) -> Kind:
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = dict(given)
    if len(values) < len(given):  # either could be meant
        raise InvalidParameter("An option is given more than once.")
    try:
        return kind.model_validate_strings(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise _bad_option(error, name, _advice(kind, name)) from error


_read_once = lru_cache(_read)


def _bad_option(error: ValidationError, name: str, advice: str) -> InvalidParameter:
    first = error.errors(include_url=False)[0]
    if first["type"] == "extra_forbidden":
        return InvalidParameter(f"There is no option {_shown(name)}; {advice}.")
    reason = REASONS.get(first["type"], "not valid")
    return InvalidParameter(f"{name} {_shown(str(first['input']))} is {reason}; give {advice}.")


def _advice(kind: type[Options], name: str) -> str:
    schemas = kind.model_json_schema()["properties"]
    if name not in schemas:
        return f"the options are {', '.join(schemas)}"
    schema = schemas[name]
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    return f"a whole number from {schema['minimum']}"


def _shown(value: str) -> str:
    return ascii(value[:MAX_SHOWN])


def _parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": False,
        "description": schema["description"],
        "schema": {key: value for key, value in schema.items() if value is not None and key != "description"},
    }
