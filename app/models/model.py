"""The state of a running service, for the routes. Knows no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.batching.types import Queue
from app.bundle.load import Contents
from app.classification.classifier import Classifier
from app.models.registry import ModelRegistry
from app.observability.metrics import Metrics
from app.observability.statistics import Statistics
from app.observability.tracing import add_stages
from app.settings import Settings


class Backend(Protocol):
    """The engines and their batcher, in this process or in the engine process."""

    @property
    def bundle(self) -> Contents:
        """The manifest, the labels and the last layer of the network."""

    @property
    def batcher(self) -> Queue:
        """The queue of images in front of the engines."""

    async def exposition(self) -> bytes:
        """Return the metrics of the whole service in the text format of Prometheus."""

    async def statistics(self) -> Statistics:
        """Return the counts and times of inference of the whole service since its start."""

    async def report(self) -> dict[str, Any]:
        """Return each engine's session and seconds of each batch size, and the utilization."""


@dataclass
class Service:
    """The objects that the routes need, in `app.state.service` of each process that serves HTTP."""

    settings: Settings
    backend: Backend
    models: ModelRegistry
    metrics: Metrics
    is_draining: bool = False
    uploaded: int = 0  # bytes of request bodies in memory
    has_lost_port: bool = False  # gRPC cannot listen on its port any more

    @property
    def bundle(self) -> Contents:
        """The bundle that is served."""
        return self.backend.bundle

    @property
    def classifier(self) -> Classifier:
        """The classifier of the default model."""
        return self.models.default.classifier

    @property
    def batcher(self) -> Queue:
        """The queue of images in front of the engines."""
        return self.backend.batcher

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Count the seconds of an image that is done now, and add them to the trace of the current request."""
        self.metrics.count_stages(seconds)
        add_stages(seconds)

    @property
    def is_broken(self) -> bool:
        """True if a restart is needed: no engine is left, the batcher has failed, or the gRPC port is lost."""
        return (self.has_lost_port or not self.batcher.alive) and not self.is_draining

    @property
    def is_ready(self) -> bool:
        """True if a load balancer should send requests here."""
        return self.batcher.works and not self.has_lost_port and not self.is_draining
