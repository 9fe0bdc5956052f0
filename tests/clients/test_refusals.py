"""Refusals that clients of other projects show, compared with the sentences of the service."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from app.errors import DeadlineExceeded, Overloaded, Unauthorized, UnknownModel
from tests.clients.clients import CLIENTS, MODEL, Files, Outcome, Services, call_to
from tests.clients.scripts.calls import Call

# The action with which each client sends the content of a file as an image.
ACTIONS: Mapping[str, str] = {
    "tritonclient": "logits",
    "tritonclient.aio": "logits",
    "tritonclient.grpc": "logits",
    "tritonclient.grpc.aio": "logits",
    "kserve": "v2 binary",
    "kserve V1": "v1 predict",
    "kserve gRPC": "raw",
    "mlserver": "image",
    "huggingface_hub": "model",
    "curl of TorchServe": "",
    "curl of TorchServe with a form": "",
}


# The clients of gRPC.
RPC = {"tritonclient.grpc", "tritonclient.grpc.aio", "kserve gRPC"}


class Refusal(NamedTuple):
    """A request that the service refuses, and a part of its sentence.

    Clients of gRPC get `rpc_sentence` if that is set, and use `rpc_action`.
    """

    sentence: str
    service: str = "alone"
    file: str = "text"
    model: str = MODEL
    headers: Mapping[str, str] = {}
    rpc_sentence: str | None = None
    rpc_action: str | None = None


# A time limit, in seconds, that has passed when the service looks at it.
LATE = {"X-Request-Timeout": "0.000001"}

REFUSALS: Mapping[str, Refusal] = {
    # grpc itself refuses a message that is too long.
    "too large": Refusal(
        "The body is longer than 1 MiB.", file="large", rpc_sentence="Received message larger than max"
    ),
    "too many pixels": Refusal(" pixels; 64000000 are allowed.", file="wide"),
    "no image": Refusal("The content is text, not an image"),
    "damaged image": Refusal("The header of the GIF is damaged.", file="damaged"),
    "overloaded": Refusal(Overloaded(1).detail, service="busy"),
    "late": Refusal(DeadlineExceeded().detail, headers=LATE, rpc_action="timeout"),
    "no key": Refusal(Unauthorized().detail, service="locked"),
    "wrong key": Refusal(Unauthorized().detail, service="locked", headers={"Authorization": "Bearer no"}),
    "unknown model": Refusal(UnknownModel("cats").detail, model="cats"),
}

Ask = Callable[[str], Mapping[str, Outcome]]


@pytest.fixture(scope="session")
def ask(services: Services, files: Files, home: Path) -> Ask:
    """Return a function from a client to the outcomes of all refusals, which run in one process."""
    found: dict[str, Mapping[str, Outcome]] = {}

    def outcomes(client: str) -> Mapping[str, Outcome]:
        if client not in found:
            calls = [call_of(services, files, client, refusal) for refusal in REFUSALS.values()]
            run = CLIENTS[client.removesuffix(" V1")]
            found[client] = dict(zip(REFUSALS, run(calls, home), strict=True))
        return found[client]

    return outcomes


def call_of(services: Services, files: Files, client: str, refusal: Refusal) -> Call:
    """Return a call that the service refuses."""
    action = (refusal.rpc_action if client in RPC else None) or ACTIONS[client]
    service, image = getattr(services, refusal.service), getattr(files, refusal.file)
    return call_to(service, image, action, refusal.headers, refusal.model)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("client", ACTIONS)
def test_a_client_shows_the_sentence_of_a_refusal(ask: Ask, client: str, refusal: str) -> None:
    """The exception of the client, or the output of the command, has the sentence of the service."""
    outcome, expected = ask(client)[refusal], REFUSALS[refusal]

    assert "raised" in outcome, outcome["value"]
    assert ((expected.rpc_sentence if client in RPC else None) or expected.sentence) in outcome["raised"]
