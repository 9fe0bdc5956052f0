"""A server of grpc.aio that accepts calls without decoding the names of RPCs that it does not have. Knows no RPC.

grpc.aio decodes the name of a call in the loop that accepts calls, unless the RPC is registered by its name. A name
that is not UTF-8 ends this loop. So all RPCs are registered, and all other calls count as those of one name.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc

log = logging.getLogger("swin.grpc")

# The name for calls of all other RPCs. A client must not know it: grpc would hold a call of this name until its end.
OTHERS = f"/{secrets.token_hex(16)}"

# True if grpc.aio can register RPCs by their names. grpcio 1.80 cannot, and decodes each name in the task of its call.
HAS_NAMES = hasattr(cygrpc.AioServer, "_make_request_call_future")


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # (grpc has no types)
    """The handlers by the full names of their RPCs, and the handler of `others`."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler], others: grpc.RpcMethodHandler) -> None:
        self.by_name, self.others = handlers, others

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of an RPC, or the one of others."""
        return self.by_name.get(handler_call_details.method, self.others)


class _Server(cygrpc.AioServer):  # type: ignore[misc]  # (grpc has no types)
    def _make_request_call_future(self, name: bytes | None) -> Any:
        if name is None:  # grpc would decode the names of these calls. It cancels the future when it stops.
            return asyncio.get_running_loop().create_future()
        return super()._make_request_call_future(None if name == OTHERS.encode() else name)


def new_server(handlers: Handlers, options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """Return a server without an address."""
    server = grpc.aio.server(options=options)
    if HAS_NAMES:
        try:
            own = _Server(asyncio.get_running_loop(), None, (), None, tuple(options), None)
            own.add_registered_method_handlers({**handlers.by_name, OTHERS: handlers.others})
        except TypeError:  # this version of grpc has other arguments
            log.warning("names of RPCs are decoded", extra={"grpcio": grpc.__version__})
        else:
            server._server = own  # noqa: SLF001 (grpc has no other way to replace it)
            return server
    server.add_generic_rpc_handlers((handlers,))
    return server
