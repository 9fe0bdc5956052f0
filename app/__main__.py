"""`swin-serve`: read the settings, open the service, run uvicorn until a signal ends it."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from app import logs
from app.errors import StartError, sentence
from app.settings import Settings, unknown_variables

try:
    from app.main import create_app
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":
        raise
    print("swin-serve: ONNX Runtime is not installed: pip install 'swin-serve[cpu]', or [gpu]", file=sys.stderr)
    raise SystemExit(2) from None

log = logging.getLogger("swin.start")

DONE, INTERRUPTED, REFUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; without one, `run`. Returns the exit code: 0 done, 1 interrupted, 2 the request was wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "run")
    parser, options = _parser()
    try:
        return _run(Settings(_cli_settings_source=options(parsed_args=parser.parse_args(arguments))))
    except KeyboardInterrupt:  # before the server took over the signals
        return INTERRUPTED
    except ValidationError as error:
        return _refuse(sentence(error))
    except StartError as error:
        return _refuse(str(error))


def _parser() -> tuple[argparse.ArgumentParser, CliSettingsSource[argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="swin-serve",
        description="Serve a Swin Transformer image classifier over HTTP.",
        epilog="exit codes: 0 done, 1 the work failed, 2 the request was wrong (option, bundle or device)",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("swin-serve"))
    run = parser.add_subparsers(title="commands", required=True).add_parser(
        "run",
        help="serve a bundle (the default command)",
        description="Serve a bundle over HTTP. Every option can also be set as the environment variable SWIN_<NAME>.",
    )
    return parser, CliSettingsSource(Settings, root_parser=run, cli_kebab_case=True, cli_hide_none_type=True)


def _refuse(reason: str) -> int:
    print(f"swin-serve: {reason}", file=sys.stderr)
    return REFUSED


def _run(settings: Settings) -> int:
    logs.configure(settings.log_format, settings.log_level)
    for variable in sorted(unknown_variables()):
        log.warning("no such setting", extra={"variable": variable})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))
    return DONE


async def _serve(settings: Settings) -> None:
    app = create_app(settings)
    with _bind(settings) as listener:
        # The lifespan is entered here and not by uvicorn, so that a StartError leaves as it is and ends the process.
        async with app.router.lifespan_context(app):
            config = uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=round(settings.drain_timeout),
            )
            with _port_refused(listener, settings):  # two may bind one port as long as neither listens
                listener.listen(config.backlog)
            await Server(config, app, settings.drain_delay).serve(sockets=[listener])


def _bind(settings: Settings) -> socket.socket:
    """Bound, not yet listening: a port in use is told at once, and nobody is let in before the service is ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with _port_refused(listener, settings):
        listener.bind((settings.host, settings.port))
    return listener


@contextlib.contextmanager
def _port_refused(listener: socket.socket, settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from error


class Server(uvicorn.Server):
    """uvicorn with a drain: the first signal turns readiness off and waits, the second leaves now."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_delay: float) -> None:
        super().__init__(config)
        self._app, self._drain_delay = app, drain_delay
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, once callers are let in."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn calls it as signal handlers are called)
        """Not passed on to uvicorn, which would end the process by the signal: a drain that worked exits with 0."""
        service = self._app.state.service
        if service.is_draining:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(service.batcher.abort)
            return
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        service.is_draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
