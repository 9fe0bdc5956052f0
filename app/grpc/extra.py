"""The extra `grpc`, without which the service starts as long as `grpc_port` is unset. Imports none of its packages."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from app.errors import StartError
from app.extras import is_installed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from app.grpc.server import RpcServer
    from app.models.model import Service
    from app.observability.tracing import Tracer

# The packages of the extra, as they are imported.
PACKAGES = ("grpc", "google.protobuf", "grpc_health", "grpc_reflection")


def check() -> None:
    """Return if the packages of the extra are installed.

    Raises:
        StartError: one of them is missing.
    """
    for package in PACKAGES:
        if not is_installed(package):
            raise StartError(
                f"grpc_port needs the extra grpc, of which {package} is missing: pip install 'swin-serve[grpc]'; or "
                "leave grpc_port unset"
            )


def serving(service: Service, address: str | None, tracer: Tracer) -> AbstractAsyncContextManager[RpcServer | None]:
    """Serve gRPC on an address inside the block. Without an address, yield None.

    Raises:
        StartError: the address cannot be bound.
    """
    if address is None:
        return nullcontext()
    # grpc's core would write lines to standard error that are no log lines. Its errors reach the caller, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from app.grpc.server import serving as serve  # noqa: PLC0415 (its packages are an extra)

    return serve(service, address, tracer)
