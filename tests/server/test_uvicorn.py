"""The names of uvicorn that `app/server` uses inside it, so that an upgrade fails by name."""

import ast
import importlib
import importlib.metadata
import tomllib
from pathlib import Path

import httptools
import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

APP = Path(__file__).parents[2] / "app"

CONNECTION = {  # methods that are overridden or called, and attributes that are read or set
    *("connection_made", "connection_lost", "data_received", "on_message_begin", "on_headers_complete"),
    *("on_message_complete", "on_response_complete", "on_url", "on_header", "on_body", "_start_asgi_task"),
    *("_unset_keepalive_if_required", "shutdown", "transport", "flow", "parser", "client", "connections", "cycle"),
    *("expect_100_continue", "headers", "pipeline", "scope", "server_state", "url"),
}
CYCLE = {"disconnected", "keep_alive", "message_event", "response_complete", "scope", "transport"}
STATE = {"connections", "default_headers", "tasks"}
SERVER = {
    *("startup", "shutdown", "on_tick", "handle_exit", "capture_signals", "serve"),
    *("config", "force_exit", "lifespan", "server_state", "servers", "should_exit", "started"),
}
FLOW = {"resume_reading"}
PARSER = {"feed_data", "should_keep_alive"}
MODULES = {
    "uvicorn._types": {"ASGI3Application"},
    "uvicorn.protocols.http.httptools_impl": {"HttpToolsProtocol", "RequestResponseCycle"},
    "uvicorn.server": {"ServerState"},
}


async def nothing(*_: object) -> None:
    """An application that is not asked."""


def of_objects() -> dict[str, tuple[object, set[str]]]:
    """What is used of which object, as uvicorn makes it."""
    server = uvicorn.Server(uvicorn.Config(nothing, log_config=None))
    connection = object.__new__(HttpToolsProtocol)
    return {
        "HttpToolsProtocol": (connection, CONNECTION),
        "RequestResponseCycle": (object.__new__(RequestResponseCycle), CYCLE),
        "ServerState": (ServerState(), STATE),
        "Server": (server, SERVER),
        "FlowControl": (object.__new__(flow_control.FlowControl), FLOW),
        "HttpRequestParser": (httptools.HttpRequestParser(connection), PARSER),
    }


def missing(thing: object, names: set[str]) -> list[str]:
    """The names that are neither attributes nor set by a method of its class."""
    source = Path(httptools_impl.__file__ if "httptools" in type(thing).__module__ else uvicorn.server.__file__)
    set_there = {
        node.attr
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return sorted(name for name in names if not hasattr(thing, name) and name not in set_there)


@pytest.mark.parametrize("kind", of_objects())
def test_what_is_used_of_the_inside_is_there(kind: str) -> None:
    """The message names what an upgrade took away."""
    thing, names = of_objects()[kind]

    assert missing(thing, names) == []


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_have_what_is_imported(module: str) -> None:
    """Names and places."""
    assert missing(importlib.import_module(module), MODULES[module]) == []


@pytest.mark.parametrize(
    ("file", "known"), [("connection.py", CONNECTION | CYCLE | STATE), ("server.py", SERVER | STATE)]
)
def test_the_list_is_complete(file: str, known: set[str]) -> None:
    """Each name of uvicorn's objects that the file uses is in the list above."""
    inside = {name for thing, _ in of_objects().values() for name in dir(thing)} | CONNECTION | CYCLE | STATE | SERVER
    inside -= set(dir(object))
    used = {
        node.attr
        for node in ast.walk(ast.parse((APP / file).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Call | ast.Attribute)
        if ast.unparse(node.value) in {"self", "super()", "self.cycle", "self._running", "self.server_state", "cycle"}
    }

    assert used & inside <= known


def test_the_version_is_bound_to_the_one_that_is_tested() -> None:
    """What the file of the project asks for is what is installed here, and no later minor version."""
    (bound,) = [
        requirement.specifier for requirement in map(Requirement, _dependencies()) if requirement.name == "uvicorn"
    ]
    major, minor, _ = importlib.metadata.version("uvicorn").split(".")

    assert bound.contains(f"{major}.{minor}.0")
    assert not bound.contains(f"{major}.{int(minor) + 1}.0")


def _dependencies() -> list[str]:
    document = tomllib.loads((APP.parent / "pyproject.toml").read_text())
    dependencies: list[str] = document["project"]["dependencies"]
    return dependencies
