"""`python -m tests.ray.dying score …`: scores with workers that end at their first block."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from app.cli.main import main
from app.scoring import cluster


class DyingWorker(cluster.Worker):
    """A worker that ends like one that the kernel kills."""

    def table(self, *_: Sequence[Any] | Any) -> Any:
        os._exit(1)


if __name__ == "__main__":
    # Ray sends a class of this program by its content, and one of a module by its name.
    vars(cluster).update(Worker=import_module("tests.ray.dying").DyingWorker)
    sys.exit(main(sys.argv[1:]))
