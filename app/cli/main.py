"""`swin-serve`: read the settings, open the service, run uvicorn until a signal ends it."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import logging
import platform
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NoReturn

from pydantic import ValidationError

from app.cli.arguments import Parser, Source, add_settings, refused
from app.errors import StartError
from app.observability import logging as logs
from app.processes import shared_memory
from app.settings import Settings, unknown_variables
from app.system import memory
from app.system.cpus import available_cpus
from app.system.process_exit import end

NEEDED = {
    "onnxruntime": "ONNX Runtime is not installed: pip install 'swin-serve[cpu]', or [gpu]",
    "uvloop": "uvloop is not installed: swin-serve runs on Linux and macOS; on Windows, use its container",
}

try:
    import uvloop

    from app.cli.check import facts
    from app.main import create_app, open_supervisor
    from app.processes.supervisor import WorkerLost
    from app.server.server import Server, configured, url_of
except ModuleNotFoundError as error:
    if error.name not in NEEDED:
        raise
    print(f"swin-serve: {NEEDED[error.name]}", file=sys.stderr)
    raise SystemExit(2) from None

log = logging.getLogger("swin.start")

DONE, INTERRUPTED, FAILED, REFUSED = 0, 1, 1, 2

FEW_CPUS, MAX_HTTP_WORKERS = 4, 32
"""Up to so many CPUs, one process does it all; of more HTTP workers, nobody has seen the use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; without one, `run`.

    Returns the exit code: 0 done, 1 interrupted, or what it needs was lost, 2 the request was wrong.
    """
    signal.signal(signal.SIGTERM, _stop)  # the first process of a container has no other way to be stopped so early
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "run")
    parser, options = _parser()
    parsed = parser.parse_args(arguments)
    try:
        work = _check if arguments[0] == "check" else _run
        return work(Settings(_cli_settings_source=options[arguments[0]](parsed_args=parsed)))
    except Stopped:
        return end(DONE)
    except KeyboardInterrupt:  # before the server took over the signals
        return end(INTERRUPTED)
    except ValidationError as error:
        return _refuse(refused(error, parsed))
    except StartError as error:
        return _refuse(str(error))
    except WorkerLost as error:
        log.critical("%s", error)
        return end(FAILED)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Source]]:
    """Of the command line; and what reads the settings of each command from it."""
    parser = Parser(
        prog="swin-serve",
        description="Serve a Swin Transformer image classifier over HTTP.",
        epilog="exit codes: 0 done, 1 the work failed, 2 the request was wrong (option, bundle or device)",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("swin-serve"))
    commands = parser.add_subparsers(title="commands", required=True)
    run = commands.add_parser(
        "run",
        help="serve a bundle (the default command)",
        description="Serve a bundle over HTTP. Every option can also be set as the environment variable SWIN_<NAME>.",
    )
    check = commands.add_parser(
        "check",
        help="prove bundle and devices as a start does, and say what was found",
        description="Open the bundle and every engine as `run` does, with the same options, and serve nobody.",
    )
    return parser, {"run": add_settings(run), "check": add_settings(check)}


def _refuse(reason: str) -> int:
    print(f"swin-serve: {reason}", file=sys.stderr)
    return REFUSED


def _check(settings: Settings) -> int:
    logs.configure(settings.log_format, settings.log_level)
    for fact in facts(settings):
        print(fact)
    return DONE


def _run(settings: Settings) -> int:
    logs.configure(settings.log_format, settings.log_level)
    log.debug("starting", extra={"version": importlib.metadata.version("swin-serve")})
    for variable in sorted(unknown_variables()):
        log.warning("no such setting", extra={"variable": variable})
    memory.give_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))
    return end(DONE)


class Stopped(SystemExit):
    """SIGTERM came before the server took over the signals: there is nothing to finish."""


def _stop(*_: object) -> NoReturn:
    raise Stopped(DONE)


async def _serve(settings: Settings) -> None:
    http_workers = _http_workers(settings.http_workers)
    with _bound(settings, http_workers) as listeners:
        if http_workers:
            await _serve_behind_http_workers(settings, listeners)
        else:
            await _serve_alone(settings, listeners[0])


def _http_workers(wanted: int | None) -> int:
    """Return how many processes speak HTTP before this one.

    Raises:
        StartError: more are wanted than this system can have.
    """
    if shared_memory.are_available():
        return _suggested_http_workers(available_cpus()) if wanted is None else wanted
    if wanted:
        raise StartError(
            f"http_workers={wanted} needs Linux with memfd_create and SO_REUSEPORT; this is {platform.system()} "
            "without them; set HTTP workers to 0"
        )
    return 0


def _suggested_http_workers(cpus: int) -> int:
    """One process decodes and parses with up to two CPUs: its threads share the interpreter."""
    return 0 if cpus <= FEW_CPUS else min(cpus // 2, MAX_HTTP_WORKERS)


async def _serve_behind_http_workers(settings: Settings, listeners: Sequence[socket.socket]) -> None:
    url, told = url_of(listeners[0]), asyncio.Event()
    async with open_supervisor(settings, listeners) as http_workers:
        memory.settle()

        def stop() -> None:
            if told.is_set():
                http_workers.tell_to_stop()
                return
            log.info("draining")
            told.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        log.info("listening", extra={"url": url})
        await _first_of(told.wait(), http_workers.watch())


async def _first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Wait for one of them; raises what it raised."""
    tasks = [asyncio.create_task(work) for work in works]
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in ended:
        task.result()


async def _serve_alone(settings: Settings, listener: socket.socket) -> None:
    app = create_app(settings)
    # The lifespan is entered here and not by uvicorn, so that a StartError leaves as it is and ends the process.
    async with app.router.lifespan_context(app):
        config = configured(app, settings)
        memory.settle()
        with _port_refused(listener, settings):  # two may bind one port as long as neither listens
            listener.listen(config.backlog)
        await Server(config, settings, app.state.service).serve(sockets=[listener])


@contextlib.contextmanager
def _bound(settings: Settings, http_workers: int) -> Iterator[list[socket.socket]]:
    """A listener for each HTTP worker, or for this process, bound to one port and not yet listening.

    A port in use is told at once, and nobody is let in before the service is ready.
    """
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_bind(settings, settings.port))
        if not http_workers:
            yield [first]
            return
        port = first.getsockname()[1]
        with _port_refused(first, settings):
            first.listen()  # that several may share a port is asked of all of them: of another service, too
        claim = stack.enter_context(socket.socket(socket.AF_UNIX))
        with _port_refused(claim, settings):  # nor is there one of ours that has bound it, and not yet listens
            claim.bind(f"\0swin-serve {settings.host} {port}")
        first.close()
        yield [stack.enter_context(_bind(settings, port, shared=True)) for _ in range(http_workers)]


def _bind(settings: Settings, port: int, *, shared: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last service may still end
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setblocking(False)
    with _port_refused(listener, settings):
        listener.bind((settings.host, port))
    return listener


@contextlib.contextmanager
def _port_refused(listener: socket.socket, settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from error
