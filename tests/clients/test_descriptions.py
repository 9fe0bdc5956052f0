"""Health, metadata and unsupported calls, as clients of other projects see them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import DeadlineExceeded
from tests.clients.clients import CLIENTS, MODEL, Files, Script, Services
from tests.clients.scripts.calls import Call

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
    "kserve": ("v2 is_server_live", "v2 is_server_ready", "v2 is_model_ready", "v1 is_model_ready"),
}
# Calls of tritonclient for what the service does not have, and the beginnings of its sentences.
NOT_SUPPORTED: Mapping[str, str] = {
    "get_trace_settings": "The trace extension",
    "get_log_settings": "The logging extension",
    "get_system_shared_memory_status": "Shared memory",
    "load_model": "Loading a model while the service runs",
}


class Ask:
    """Outcomes of calls to one service. All calls of a client run in one process, when its first is asked for."""

    def __init__(self, url: str, files: Files, home: Path) -> None:
        self._url, self._files, self._home = url, files, home
        self._outcomes = dict[str, Mapping[str, Any]]()

    def __call__(self, client: str, action: str) -> Any:
        """Return the value of a call, or the text of its exception."""
        if client not in self._outcomes:
            actions = [*STATES[client], *([*DOCUMENTS, *NOT_SUPPORTED, "index", "timeout"] if client[0] == "t" else [])]
            calls = [
                Call(url=self._url, image=str(self._files.image), model=MODEL, headers={}, action=a) for a in actions
            ]
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
    returned, document = ask("tritonclient", call), httpx.get(services.alone + DOCUMENTS[call]).json()

    if call == "get_inference_statistics":  # the numbers change with each request
        (returned,), (document,) = returned["model_stats"], document["model_stats"]
        assert (returned["name"], returned.keys()) == (MODEL, document.keys())
    else:
        assert returned == document


def test_tritonclient_lists_both_names(ask: Ask) -> None:
    """The index of the repository has the model under both of its names."""
    assert [entry["name"] for entry in ask("tritonclient", "index")] == [MODEL, f"{MODEL}.encoded"]


@pytest.mark.parametrize("call", NOT_SUPPORTED)
def test_tritonclient_shows_what_is_not_supported(ask: Ask, call: str) -> None:
    """The exception has the sentence of the service, with the status 501."""
    assert ask("tritonclient", call) == f"InferenceServerException: [501] {NOT_SUPPORTED[call]} is not supported."


def test_the_timeout_of_tritonclient_is_a_deadline(ask: Ask) -> None:
    """`timeout`, in microseconds, ends the request with the sentence of the service."""
    assert ask("tritonclient", "timeout") == f"InferenceServerException: [504] {DeadlineExceeded().detail}"


def test_a_missing_environment_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    """A test without its environment fails, and says which target installs it."""
    with pytest.raises(AssertionError, match=r"^\.venv/missing/bin/python is missing; run `make clients`"):
        Script("tritonclient_http", "missing")([], tmp_path)
