"""Results that clients of other projects get, compared with those of `/classify`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from tests.clients.clients import CLIENTS, KEY, Files, Outcome, Services, call_to
from tests.clients.scripts.calls import Call

# The names of the services that all clients ask, and the header fields for them.
SERVICES: Mapping[str, dict[str, str]] = {
    "alone": {},
    "workers": {},
    "locked": {"Authorization": f"Bearer {KEY}"},
}

# What the actions of each client return: an entry of `Expected`.
ACTIONS: Mapping[str, Mapping[str, str]] = {
    "tritonclient": {
        **dict.fromkeys(["logits", "pixels", "json", "gzip", "deflate"], "logits"),
        "classes": "classes",
        "embedding": "embedding",
        "options": "logits_with_id",
    },
    "tritonclient.aio": dict.fromkeys(["logits", "pixels", "json", "gzip"], "logits"),
    "tritonclient.grpc": {
        **dict.fromkeys(["logits", "pixels", "gzip", "deflate"], "logits"),
        "classes": "classes",
        "embedding": "embedding",
        "options": "logits_with_id",
    },
    "tritonclient.grpc.aio": {**dict.fromkeys(["logits", "pixels", "gzip"], "logits"), "options": "logits_with_id"},
    "kserve": {"v2 binary": "logits", "v2 base64": "logits", "v1 predict": "label_scores_of_one"},
    "kserve gRPC": {"raw": "logits", "typed": "logits"},
    "mlserver": {"pixels": "logits"},
    "huggingface_hub": {
        **dict.fromkeys(["root", "model", "path"], "predictions"),
        "parameters": "best_logits",
        "features": "embedding",
    },
    "curl of TorchServe": {"": "label_scores"},
    "curl of TorchServe with a form": {"": "label_scores"},
}


class Expected(NamedTuple):
    """What `/classify` returns for the image, in the forms of the protocols."""

    logits: Any
    logits_with_id: Any
    classes: Any
    embedding: Any
    predictions: Any
    best_logits: Any
    label_scores: Any
    label_scores_of_one: Any


@pytest.fixture(scope="session")
def expected(services: Services, files: Files) -> Expected:
    """What `/classify` returns, asked once. `alone` answers it, and all services have the same bundle."""
    query = {"top_k": "10", "evidence": "true", "embedding": "true"}
    answer = httpx.post(f"{services.alone.url}/classify", params=query, content=files.image.read_bytes()).json()
    ranked = answer["predictions"]
    row = [each["logit"] for each in sorted(ranked, key=lambda each: each["index"])]
    scores = {each["label"]: each["score"] for each in ranked[:5]}
    return Expected(
        logits=[row],
        logits_with_id=["42", [row]],
        classes=[[f"{each['logit']:f}:{each['index']}:{each['label']}" for each in ranked[:3]]],
        embedding=[answer["embedding"]],
        predictions=[{key: each[key] for key in ("label", "score", "index")} for each in ranked[:5]],
        best_logits=[{"label": each["label"], "score": each["logit"], "index": each["index"]} for each in ranked[:3]],
        label_scores=scores,
        label_scores_of_one={"predictions": [scores]},
    )


Ask = Callable[[str], Mapping[tuple[str, str], Outcome]]


@pytest.fixture(scope="session")
def ask(services: Services, files: Files, home: Path) -> Ask:
    """Return a function from a client to the outcomes of its actions on each service, which run in one process."""
    found: dict[str, Mapping[tuple[str, str], Outcome]] = {}

    def outcomes(client: str) -> Mapping[tuple[str, str], Outcome]:
        if client not in found:
            keys = [(service, action) for service in SERVICES for action in ACTIONS[client]]
            calls = [call_of(services, files, *key) for key in keys]
            found[client] = dict(zip(keys, CLIENTS[client](calls, home), strict=True))
        return found[client]

    return outcomes


def call_of(services: Services, files: Files, service: str, action: str) -> Call:
    """Return a call that sends the image, or its pixels, to a service."""
    image = files.pixels if action == "pixels" else files.image
    return call_to(getattr(services, service), image, action, SERVICES[service])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("client", "action"), [(client, action) for client, actions in ACTIONS.items() for action in actions]
)
def test_a_client_gets_the_result_of_classify(
    ask: Ask, expected: Expected, client: str, action: str, service: str
) -> None:
    """Each number is that of `/classify` to the last digit that the format carries.

    With one process, with HTTP workers, and with an API key, which the client sends.
    """
    outcome = ask(client)[service, action]

    assert "value" in outcome, outcome["raised"]
    assert in_float32(outcome["value"]) == in_float32(getattr(expected, ACTIONS[client][action]))


def in_float32(value: Any) -> Any:
    """Return a value with its numbers as float32: some clients convert them."""
    if isinstance(value, Mapping):
        return {key: in_float32(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_float32(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) else value
