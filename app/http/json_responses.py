"""JSON responses of the routes."""

from typing import Any

from fastapi import Response
from pydantic_core import to_json


def json_response(document: Any) -> Response:
    """Return a response with the document as JSON and status 200."""
    return Response(to_json(document), media_type="application/json")
