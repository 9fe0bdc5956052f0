"""What one running service consists of, as the routes see it."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.batcher import Batcher
from app.bundle import Bundle
from app.classifier import Classifier
from app.engine import Engine
from app.metrics import Metrics
from app.settings import Settings


@dataclass
class Service:
    """Opened by `main.open_service`; hung on the application for the routes."""

    settings: Settings
    bundle: Bundle
    engines: Sequence[Engine]
    batcher: Batcher
    classifier: Classifier
    metrics: Metrics
    is_draining: bool = False
    uploaded: int = 0  # bytes of request bodies held at the moment

    @property
    def is_broken(self) -> bool:
        """Whether nothing but another process can classify: no engine is left, or the batcher has died."""
        return not self.batcher.alive and not self.is_draining

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return self.batcher.works and not self.is_draining
