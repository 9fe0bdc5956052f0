"""Calls and outcomes: what a test asks of a client, and what the client returned or raised. Knows no client."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict


class Call(TypedDict):
    """One call of a client."""

    url: str  # without a slash at the end
    rpc_address: str  # host and port of gRPC
    image: str  # path of the file to send
    model: str
    headers: dict[str, str]  # header fields to add
    action: str  # what to call, in the words of the script


def answer(run: Callable[[Call], Any]) -> None:
    """Read a list of calls from standard input, run one after another, and print a list of their outcomes.

    An outcome is `{"value": …}`, or `{"raised": …}` with the type and the text of the client's exception.
    """
    print(json.dumps([outcome(run, call) for call in json.load(sys.stdin)]))


def outcome(run: Callable[[Call], Any], call: Call) -> dict[str, Any]:
    """Run one call, and return its outcome."""
    try:
        return {"value": run(call)}
    except Exception as error:  # noqa: BLE001 (tests compare whatever the client raises)
        return {"raised": f"{type(error).__name__}: {error}"}


def image_of(call: Call) -> bytes:
    """Return the bytes to send."""
    return Path(call["image"]).read_bytes()
