"""Variants of the deployment for tests. Workers of Ray import this module, too."""

from pathlib import Path

from ray import serve
from ray.serve import Application
from swin_serve_ray import Replica

from app.settings import Settings
from benchmarks.load.ray_cluster import ROOT
from tests.ray.cluster import FOLDER

# Workers import `swin_serve_ray` from here: these applications have no working directory.
ACTOR = {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": f"{ROOT}:{FOLDER}"}}}


class Fragile(Replica):
    """A replica that can lose its engines."""

    def lose_engines(self) -> None:
        """Do what the batcher does when its last engine is lost."""
        self._service.batcher.alive = False  # type: ignore[misc]  # (a Batcher)


def fragile() -> Application:
    """Return an application of one replica whose health is checked every 0.2 s."""
    deployment = serve.deployment(
        serve.ingress()(Fragile), name="Fragile", health_check_period_s=0.2, ray_actor_options=ACTOR
    )
    return deployment.bind(Settings(device="cpu"))


def growing() -> Application:
    """Return an application that grows from one replica to two within seconds of load."""
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="Growing",
        max_ongoing_requests=64,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 2,
            "target_ongoing_requests": 2,
            "upscale_delay_s": 0.2,
            "metrics_interval_s": 0.2,
            "look_back_period_s": 1,
        },
        ray_actor_options=ACTOR,
    )
    return deployment.bind(Settings(device="cpu"))


def without_bundle() -> Application:
    """Return an application whose replicas cannot start."""
    deployment = serve.deployment(serve.ingress()(Replica), name="WithoutBundle", ray_actor_options=ACTOR)
    return deployment.bind(Settings(bundle=Path("/nowhere")))


def resized(replicas: int) -> Application:
    """Return an application with so many replicas."""
    deployment = serve.deployment(
        serve.ingress()(Replica), name="Resized", num_replicas=replicas, ray_actor_options=ACTOR
    )
    return deployment.bind(Settings(device="cpu"))
