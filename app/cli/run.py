"""`swin-serve run`: one process, or HTTP workers in front of an engine process, until a signal ends it."""

import asyncio
import contextlib
import importlib.metadata
import logging
import platform
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import uvloop

from app.errors import StartError
from app.grpc import extra
from app.main import create_app, open_supervisor
from app.observability import logging as logs
from app.observability.tracing import open_tracer
from app.processes import shared_memory
from app.server.server import Server, url_of, uvicorn_config
from app.server.sockets import bound_socket, listen, reserved_address, shared_sockets
from app.settings import Settings, unknown_variables
from app.system import memory
from app.system.cpus import available_cpus
from app.system.open_files import connections_within_limit

log = logging.getLogger("swin.start")

# Up to this number of CPUs one process is faster than an engine process with HTTP workers.
MAX_CPUS_OF_ONE_PROCESS = 4
# No measurement shows a gain from more HTTP workers.
MAX_HTTP_WORKERS = 32


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and return when the service has drained.

    Raises:
        StartError: the service cannot start as configured.
        WorkerLost: an HTTP worker cannot be restarted.
    """
    logs.configure(settings.log_format, settings.log_level)
    log.debug("starting", extra={"version": importlib.metadata.version("swin-serve")})
    for variable in sorted(unknown_variables()):
        log.warning("no such setting", extra={"variable": variable})
    memory.configure_malloc()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


def http_worker_count(wanted: int | None) -> int:
    """Return the number of HTTP workers: as configured, or by the number of CPUs. 0: this process serves HTTP itself.

    Raises:
        StartError: the setting asks for workers and this system cannot share memory and ports between processes.
    """
    if shared_memory.are_available():
        return default_http_workers(available_cpus()) if wanted is None else wanted
    if wanted:
        raise StartError(
            f"http_workers={wanted} needs Linux with memfd_create and SO_REUSEPORT; this is {platform.system()} "
            "without them; set http_workers to 0"
        )
    return 0


def default_http_workers(cpus: int) -> int:
    """Return the number of HTTP workers for so many CPUs. The threads of one process share the interpreter lock."""
    return 0 if cpus <= MAX_CPUS_OF_ONE_PROCESS else min(cpus // 2, MAX_HTTP_WORKERS)


async def _serve(settings: Settings) -> None:
    count = http_worker_count(settings.http_workers)
    with _grpc_address(settings) as grpc_address:
        if count:
            with shared_sockets(settings.host, settings.port, count) as listeners:
                await _supervise(settings, listeners, grpc_address)
        else:
            with bound_socket(settings.host, settings.port) as listener:
                await _serve_alone(settings, listener, grpc_address)


@contextlib.contextmanager
def _grpc_address(settings: Settings) -> Iterator[str | None]:
    """Reserve the port for gRPC and yield its address, or None if the setting is unset."""
    if settings.grpc_port is None:
        yield None
        return
    extra.check()
    with reserved_address(settings.host, settings.grpc_port, "--grpc-port") as address:
        yield address


async def _serve_alone(settings: Settings, listener: socket.socket, grpc_address: str | None) -> None:
    limit = connections_within_limit(settings.max_connections, servers=1 if grpc_address is None else 2)
    settings = settings.model_copy(update={"max_connections": limit})
    tracer = open_tracer()
    app = create_app(settings, tracer)
    # uvicorn would log a StartError of the lifespan and exit with its own code, so the lifespan is entered here.
    async with app.router.lifespan_context(app), extra.serving(app.state.service, grpc_address, tracer) as rpc_server:
        config = uvicorn_config(app, settings)
        memory.freeze_gc()
        listen(listener, settings.host, settings.port, config.backlog)
        _log_grpc(grpc_address)
        await Server(config, settings, app.state.service, rpc_server).serve(sockets=[listener])


async def _supervise(settings: Settings, listeners: Sequence[socket.socket], grpc_address: str | None) -> None:
    url, is_draining = url_of(listeners[0]), asyncio.Event()
    async with open_supervisor(settings, listeners, grpc_address) as supervisor:
        memory.freeze_gc()

        def stop() -> None:
            if is_draining.is_set():
                supervisor.request_shutdown()
                return
            log.info("draining")
            is_draining.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        _log_grpc(grpc_address)
        log.info("listening", extra={"url": url})
        await _wait_for_first(is_draining.wait(), supervisor.watch())


def _log_grpc(address: str | None) -> None:
    if address is not None:
        log.info("listening for gRPC", extra={"address": address})


async def _wait_for_first(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines until one of them ends, then cancel the others. Raises what the first one raised."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in ended:
        task.result()
