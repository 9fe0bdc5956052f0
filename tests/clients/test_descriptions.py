"""Health, metadata and unsupported calls, as clients of other projects see them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import DeadlineExceeded
from tests.clients.clients import CLIENTS, MODEL, Files, Script, Services, call_to
from tests.support.served import Served

# Calls of tritonclient, and the paths whose JSON they return.
DOCUMENTS: Mapping[str, str] = {
    "get_server_metadata": "/v2",
    "get_model_metadata": f"/v2/models/{MODEL}",
    "get_model_config": f"/v2/models/{MODEL}/config",
    "get_inference_statistics": f"/v2/models/{MODEL}/stats",
}
# Calls that return whether the service or the model is ready.
STATES: Mapping[str, tuple[str, ...]] = {
    "tritonclient": ("is_server_live", "is_server_ready", "is_model_ready"),
    "tritonclient.grpc": ("is_server_live", "is_server_ready", "is_model_ready"),
    "kserve": ("v2 is_server_live", "v2 is_server_ready", "v2 is_model_ready", "v1 is_model_ready"),
    "kserve gRPC": ("is_server_live", "is_server_ready", "is_model_ready"),
}
# Calls of tritonclient for what the service does not have, and the beginnings of its sentences over HTTP.
NOT_SUPPORTED: Mapping[str, str] = {
    "get_trace_settings": "The trace extension",
    "get_log_settings": "The logging extension",
    "get_system_shared_memory_status": "Shared memory",
    "load_model": "Loading a model while the service runs",
}
# The status in the exceptions of each client: of a call that is not supported, and of a late one.
STATUSES: Mapping[str, tuple[str, str]] = {
    "tritonclient": ("501", "504"),
    "tritonclient.grpc": ("StatusCode.UNIMPLEMENTED", "StatusCode.DEADLINE_EXCEEDED"),
}


class Ask:
    """Outcomes of calls to one service. All calls of a client run in one process, when its first is asked for."""

    def __init__(self, service: Served, files: Files, home: Path) -> None:
        self._service, self._files, self._home = service, files, home
        self._outcomes = dict[str, Mapping[str, Any]]()

    def __call__(self, client: str, action: str) -> Any:
        """Return the value of a call, or the text of its exception."""
        if client not in self._outcomes:
            others = [*DOCUMENTS, *NOT_SUPPORTED, "index", "timeout"] if client in STATUSES else []
            actions = [*STATES[client], *others]
            calls = [call_to(self._service, self._files.image, action, {}) for action in actions]
            outcomes = CLIENTS[client](calls, self._home)
            self._outcomes[client] = {a: next(iter(each.values())) for a, each in zip(actions, outcomes, strict=True)}
        return self._outcomes[client][action]


@pytest.fixture(scope="session")
def ask(services: Services, files: Files, home: Path) -> Ask:
    """Calls to a service of one process."""
    return Ask(services.alone, files, home)


@pytest.mark.parametrize(("client", "call"), [(client, call) for client, calls in STATES.items() for call in calls])
def test_a_client_sees_that_the_service_is_ready(ask: Ask, client: str, call: str) -> None:
    """Each call that asks for liveness or readiness returns True."""
    assert ask(client, call) is True


@pytest.mark.parametrize("call", DOCUMENTS)
def test_tritonclient_returns_the_documents(services: Services, ask: Ask, call: str) -> None:
    """Metadata, configuration and statistics arrive unchanged."""
    returned, document = ask("tritonclient", call), httpx.get(services.alone.url + DOCUMENTS[call]).json()

    if call == "get_inference_statistics":  # the numbers change with each request
        (returned,), (document,) = returned["model_stats"], document["model_stats"]
        assert (returned["name"], returned.keys()) == (MODEL, document.keys())
    else:
        assert returned == document


@pytest.mark.parametrize("call", DOCUMENTS)
def test_tritonclient_returns_the_documents_by_grpc(services: Services, ask: Ask, call: str) -> None:
    """The messages have the contents of the documents over HTTP."""
    returned, document = ask("tritonclient.grpc", call), httpx.get(services.alone.url + DOCUMENTS[call]).json()

    if call == "get_inference_statistics":  # the numbers change with each request
        (returned,), (document,) = returned["model_stats"], document["model_stats"]
        assert (returned["name"], returned["inference_stats"].keys()) == (MODEL, document["inference_stats"].keys())
    else:
        assert with_texts(returned.get("config", returned)) == with_texts(document)


def with_texts(value: Any) -> Any:
    """Return a document with its numbers as texts: protobuf writes integers of 64 bits so."""
    if isinstance(value, Mapping):
        return {key: with_texts(item) for key, item in value.items()}
    return [with_texts(item) for item in value] if isinstance(value, list) else str(value)


@pytest.mark.parametrize("client", STATUSES)
def test_tritonclient_lists_both_names(ask: Ask, client: str) -> None:
    """The index of the repository has the model under both of its names."""
    assert [entry["name"] for entry in ask(client, "index")] == [MODEL, f"{MODEL}.encoded"]


@pytest.mark.parametrize("call", NOT_SUPPORTED)
@pytest.mark.parametrize("client", STATUSES)
def test_tritonclient_shows_what_is_not_supported(ask: Ask, client: str, call: str) -> None:
    """The exception has the sentence of the service, with its status. gRPC has one sentence for all such calls."""
    status, _ = STATUSES[client]
    subject, rest = NOT_SUPPORTED[call], ""
    if client == "tritonclient.grpc":
        subject, rest = "The RPC", " Server reflection lists the RPCs of the service."

    assert ask(client, call) == f"InferenceServerException: [{status}] {subject} is not supported.{rest}"


@pytest.mark.parametrize("client", STATUSES)
def test_the_timeout_of_tritonclient_is_a_deadline(ask: Ask, client: str) -> None:
    """`timeout`, in microseconds, ends the request with the sentence of the service."""
    _, status = STATUSES[client]

    assert ask(client, "timeout") == f"InferenceServerException: [{status}] {DeadlineExceeded().detail}"


def test_a_missing_environment_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    """A test without its environment fails, and says which target installs it."""
    with pytest.raises(AssertionError, match=r"^\.venv/missing/bin/python is missing; run `make clients`"):
        Script("tritonclient_http", "missing")([], tmp_path)
