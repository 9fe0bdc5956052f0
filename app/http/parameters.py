"""The query parameters and the timeout of a request: read, validated and declared in OpenAPI.

Knows no image. FastAPI could do the same from the signature of an endpoint, but takes a fifth of
the time of a small image for it in every request. Few different queries are in use, so the
parameters of each short query are cached.
"""

from collections import Counter
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema

from app.errors import InvalidParameter
from app.validation_messages import REASONS, shorten

# Limit of evidence maps in the result of one image. A network can have tens of thousands of
# classes, and each map has a page of numbers.
MAX_MAPS = 100

# Limit in bytes of a query that is cached with its parameters. Longer ones would let clients fill
# the memory.
MAX_CACHED_BYTES = 200

# The type of a parameter that is not given. OpenAPI would call it `null`, which a query cannot say.
Absent = SkipJsonSchema[None]


class NoParameters(BaseModel, extra="forbid", frozen=True):
    """The query of a route without parameters.

    An unknown parameter is refused, because the result could differ from the one that the client
    wants.
    """


class QueryParameters(NoParameters):
    """The query parameters of `/classify/batch`, which are those of one image, too."""

    top_k: Annotated[int, Field(ge=1)] | Absent = Field(
        None, description="Number of classes in the result. Default: the setting `top_k`."
    )
    evidence: bool = Field(
        default=False,
        description=f"Add the contribution of each position of the image, for at most {MAX_MAPS} classes.",
    )
    embedding: bool = Field(
        default=False,
        description="Add the embedding of the image: the vector to which the last layer of the network is applied.",
    )


class SingleImageParameters(QueryParameters):
    """The query parameters of `/classify`."""

    format: Literal["json", "png"] = Field(
        "json",
        description="`png` returns a picture of the evidence, for the best class or for `class`. It needs "
        "`evidence=true`.",
    )
    index: Annotated[int, Field(ge=0)] | Absent = Field(
        None, alias="class", description="Index of the class that the picture of evidence shows."
    )


Kind = TypeVar("Kind", bound=NoParameters)

TIMEOUT = "X-Request-Timeout"
TIMEOUT_HEADER = TIMEOUT.lower().encode()
Timeout = TypeAdapter[float](
    Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Time limit in seconds for the response, counted from the header section of the request. The "
            "setting `request_timeout` is the maximum.",
        ),
    ]
)


def query_parameters_of(request: Request, kind: type[Kind]) -> Kind:
    """Return the parameters in the query.

    Raises:
        InvalidParameter: a parameter is unknown, given twice, or has a value that is not valid.
    """
    query: bytes = request.scope["query_string"]
    read = _read_cached if len(query) <= MAX_CACHED_BYTES else _read
    parameters: Kind = read(kind, query)
    return parameters


def timeout_of(request: Request) -> float | None:
    """Return the time limit in seconds that the client sets, or None.

    Raises:
        InvalidParameter: the value is not a number above zero.
    """
    given = [value for name, value in request.scope["headers"] if name == TIMEOUT_HEADER]
    try:
        return Timeout.validate_strings(given[0].decode("latin-1")) if given else None
    except ValidationError as error:
        raise _invalid(error, TIMEOUT, "a number of seconds above zero") from error


def openapi_parameters(kind: type[NoParameters]) -> list[dict[str, Any]]:
    """Return the parameters of a route as OpenAPI declares them."""
    query = kind.model_json_schema()["properties"]
    return [*(_parameter("query", name, schema) for name, schema in query.items()), timeout_parameter()]


def timeout_parameter() -> dict[str, Any]:
    """Return the header field for the time limit of a request as OpenAPI declares it."""
    return _parameter("header", TIMEOUT, Timeout.json_schema())


def _read(kind: type[Kind], query: bytes) -> Kind:
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = dict(given)
    if len(values) < len(given):
        (name, _), *_ = Counter(name for name, _ in given).most_common(1)
        raise InvalidParameter(f"The parameter '{shorten(name)}' is given more than once; give it once.")
    try:
        return kind.model_validate_strings(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise _invalid(error, name, _advice(kind, name)) from error


_read_cached = lru_cache(_read)


def _invalid(error: ValidationError, name: str, advice: str) -> InvalidParameter:
    first = error.errors(include_url=False)[0]
    if first["type"] == "extra_forbidden":
        return InvalidParameter(f"There is no parameter '{shorten(name)}'; {advice}.")
    reason = REASONS.get(first["type"], "not valid")
    return InvalidParameter(f"{name} '{shorten(str(first['input']))}' is {reason}; give {advice}.")


def _advice(kind: type[NoParameters], name: str) -> str:
    schemas = kind.model_json_schema()["properties"]
    if not schemas:
        return "leave it out, because the route has none"
    if name not in schemas:
        return f"the parameters are {', '.join(schemas)}"
    schema = schemas[name]
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    return f"a whole number from {schema['minimum']}"


def _parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": False,
        "description": schema["description"],
        "schema": {key: value for key, value in schema.items() if value is not None and key != "description"},
    }
