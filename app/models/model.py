"""What one running service consists of, as the routes see it."""

from dataclasses import dataclass
from typing import Any, Protocol

from app.batching.types import Queue
from app.bundle.load import Contents
from app.classification.classifier import Classifier
from app.observability.metrics import Metrics
from app.settings import Settings


class Backend(Protocol):
    """Everything behind HTTP and images, in this process or in another."""

    @property
    def bundle(self) -> Contents:
        """The network's, with its preprocessing and its labels."""

    @property
    def batcher(self) -> Queue:
        """Where rows wait for an engine."""

    async def exposition(self) -> bytes:
        """The metrics of the whole service, as Prometheus reads them."""

    async def report(self) -> dict[str, Any]:
        """Of each engine what its session reports and the time of each batch size; how busy everything is."""


@dataclass
class Service:
    """Hung on the application for the routes; opened by `main.open_service`, or by an HTTP worker for itself."""

    settings: Settings
    backend: Backend
    classifier: Classifier
    metrics: Metrics
    is_draining: bool = False
    uploaded: int = 0  # bytes of request bodies held at the moment

    @property
    def bundle(self) -> Contents:
        """What is served."""
        return self.backend.bundle

    @property
    def batcher(self) -> Queue:
        """Where rows wait for an engine."""
        return self.backend.batcher

    @property
    def is_broken(self) -> bool:
        """Whether nothing but another process can classify: no engine is left, or the batcher has died."""
        return not self.batcher.alive and not self.is_draining

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return self.batcher.works and not self.is_draining
