"""The configurations of `deploy/ray`, and the options that follow from settings."""

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from app.settings import Settings
from tests.ray.cluster import FOLDER, configuration

pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` runs these tests")

CONFIGURATIONS = ("serve.yaml", "serve-gpu.yaml")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the deployment."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("swin_serve_ray")


def deployment_of(name: str) -> dict[str, Any]:
    """Return the only deployment of a configuration."""
    ((deployment,),) = [each["deployments"] for each in configuration(name)["applications"]]
    found: dict[str, Any] = deployment
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_has_the_form_of_ray(name: str) -> None:
    """Ray's own schema accepts the configuration, and drops no key of it, as it does with unknown ones."""
    schema = import_module("ray.serve.schema").ServeDeploySchema
    read = schema.model_validate(configuration(name))

    assert read.model_dump(mode="json", exclude_unset=True) == configuration(name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_names_what_exists(name: str, module: ModuleType) -> None:
    """The import path names the builder, the arguments are settings, and the deployment is the one of the module."""
    (application,) = configuration(name)["applications"]
    imported, _, builder = application["import_path"].partition(":")

    assert getattr(import_module(imported), builder) is module.app
    assert module.app(Settings(**application["args"])) is not None
    assert deployment_of(name)["name"] == module.SwinClassifier.name


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_target_keeps_a_replica_below_its_limit(name: str, module: ModuleType) -> None:
    """Autoscaling aims at fewer requests in a replica than Ray sends to it, so that a burst finds a place."""
    target = deployment_of(name)["autoscaling_config"]["target_ongoing_requests"]

    assert target < module.options(Settings())["max_ongoing_requests"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_only_a_replica_that_reserves_a_gpu_uses_one(name: str) -> None:
    """Without a reserved GPU, the device is `cpu`: `auto` would take GPUs that Ray has given to other programs."""
    (application,) = configuration(name)["applications"]
    reserved = deployment_of(name)["ray_actor_options"].get("num_gpus", 0)

    assert Settings(**application["args"]).device == ("cuda" if reserved else "cpu")


def test_a_replica_gets_no_more_requests_than_its_queue_holds(module: ModuleType) -> None:
    """Requests that find no place wait in the proxy, and are not refused by a replica."""
    small = Settings(max_queue_size=10, max_client_batch_size=10)

    assert module.options(small)["max_ongoing_requests"] == 10
    assert module.options(Settings())["max_ongoing_requests"] <= Settings().max_queue_size


def test_a_replica_ends_after_its_last_request(module: ModuleType) -> None:
    """Ray waits longer for a replica than a request can last, before it kills the replica."""
    assert module.options(Settings(request_timeout=120))["graceful_shutdown_timeout_s"] > 120


def test_a_request_may_last_as_long_under_ray() -> None:
    """The timeout of the proxy is above the setting `request_timeout`, so that clients get the service's answer."""
    for name in CONFIGURATIONS:
        assert configuration(name)["http_options"]["request_timeout_s"] > Settings().request_timeout


@pytest.mark.parametrize(
    ("resources", "engine", "decode"),
    [({"CPU": 2.0}, 2, 4), ({"CPU": 0.5, "GPU": 0.5}, 1, 3), ({}, 1, 3)],
)
def test_threads_follow_from_the_resources(
    module: ModuleType, resources: dict[str, float], engine: int, decode: int
) -> None:
    """A replica has a thread for each CPU that Ray reserved, and two more that decode."""
    assert module.threads(Settings(), resources) == {"threads": engine, "decode_threads": decode}


def test_threads_can_be_set(module: ModuleType) -> None:
    """Settings of threads win over the resources."""
    settings = Settings(threads=3, decode_threads=5)

    assert module.threads(settings, {"CPU": 1.0}) == {"threads": 3, "decode_threads": 5}


def test_a_setting_without_effect_is_refused(module: ModuleType) -> None:
    """A setting of the server, which Ray's proxies replace, is an error and not ignored."""
    with pytest.raises(ValueError, match="remove http_workers, port"):
        module.app(Settings(port=9000, http_workers=2))
