"""Tests that list the private names of uvicorn that `app/server` uses, so that an upgrade fails with a name."""

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

# Methods that are overridden or called, and attributes that are read or set.
CONNECTION = {
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
    """Do nothing, as an application that gets no request."""


def names_by_object() -> dict[str, tuple[object, set[str]]]:
    """Return each object of uvicorn and the names of it that `app/server` uses."""
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
    """Return the names that the object does not have and that no method of its class sets."""
    source = Path(httptools_impl.__file__ if "httptools" in type(thing).__module__ else uvicorn.server.__file__)
    set_by_methods = {
        node.attr
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return sorted(name for name in names if not hasattr(thing, name) and name not in set_by_methods)


@pytest.mark.parametrize("kind", names_by_object())
def test_the_private_names_in_use_exist(kind: str) -> None:
    """If an upgrade of uvicorn removes a name, the failure shows that name."""
    thing, names = names_by_object()[kind]

    assert missing(thing, names) == []


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_have_what_is_imported(module: str) -> None:
    """The modules of uvicorn contain the names that `app/server` imports."""
    assert missing(importlib.import_module(module), MODULES[module]) == []


@pytest.mark.parametrize(
    ("file", "known"),
    [("protocol.py", CONNECTION | CYCLE | STATE | FLOW | PARSER), ("server.py", SERVER | STATE)],
)
def test_the_list_is_complete(file: str, known: set[str]) -> None:
    """Each name of uvicorn's objects that the file uses is in the lists above."""
    objects = {
        *("self", "super()", "self.cycle", "self._running", "cycle"),
        *("self.server_state", "self._state", "self.flow", "self.parser"),
    }
    names_of_uvicorn = {name for thing, _ in names_by_object().values() for name in dir(thing)}
    names_of_uvicorn |= CONNECTION | CYCLE | STATE | SERVER
    names_of_uvicorn -= set(dir(object))
    used = {
        node.attr
        for node in ast.walk(ast.parse((APP / "server" / file).read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in objects
    }

    assert used & names_of_uvicorn <= known


def test_the_version_is_bound_to_the_one_that_is_tested() -> None:
    """The project requires the installed minor version of uvicorn and excludes the next one."""
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
