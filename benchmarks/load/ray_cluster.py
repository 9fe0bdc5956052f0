"""A Ray cluster of one node, in processes below this one. Knows no deployment."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]

# No reports to the makers of Ray, and no token in the home of the user. Workers import the packages of this checkout.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}

# Bytes of the object store. By default, it takes a third of the memory.
OBJECT_STORE = 100 * 2**20


@contextlib.contextmanager
def running_cluster(cpus: int, *, log_to_driver: bool = True) -> Iterator[str]:
    """Start a cluster of one node with so many CPUs, and end it after the block. Yields its address.

    With `log_to_driver`, what the processes log appears in the output of this one.
    """
    import ray  # noqa: PLC0415 (not installed in all environments)
    from ray import serve  # noqa: PLC0415

    folder = tempfile.mkdtemp(prefix="ray-")  # the paths of sockets have 107 bytes at most
    with mock.patch.dict(os.environ, ENVIRONMENT):
        ray.init(
            include_dashboard=False,
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE,
            log_to_driver=log_to_driver,
            _temp_dir=folder,
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            serve.shutdown()  # before: a thread of a handle would start another cluster
            ray.shutdown()
            shutil.rmtree(folder)
