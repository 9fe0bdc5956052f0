"""A Ray cluster of one node, with the deployment of `deploy/ray/serve.yaml` in two replicas."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bundle.load import Bundle
from app.local_model import open_model
from benchmarks.load.images import Known
from benchmarks.load.ray_cluster import running_cluster
from tests.ray.cluster import CPUS, Deployed, deploy
from tests.support.served import Served


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster that ends with the tests."""
    with running_cluster(CPUS) as address:
        yield address


@pytest.fixture(scope="session")
def deployed(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The deployment in two replicas."""
    return deploy(cluster, tmp_path_factory.mktemp("configuration"), replicas=2)


@pytest.fixture(scope="session")
def digits(demo: Bundle) -> list[Known]:
    """The golden samples of the demonstration bundle, with their classes outside of Ray."""
    images = [path.read_bytes() for path in sorted(Path(demo.folder, "golden").glob("*.png"))]
    with open_model(demo.folder, device="cpu") as model:
        found = [model.classify(image).predictions for image in images]
    return [
        Known(image, [(each.index, each.score) for each in predictions])
        for image, predictions in zip(images, found, strict=True)
    ]


@pytest.fixture(scope="session")
def alone() -> Iterator[Served]:
    """A service without Ray."""
    served = Served()
    yield served
    served.stop()
