"""`swin-serve`: parse the command line, read the settings, run a command. Returns its exit code."""

import argparse
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pydantic import ValidationError

from app import shell_completion
from app.cli.arguments import Parser, Source, add_settings, refused
from app.errors import StartError
from app.inference import onnx_runtime
from app.observability import logging as logs
from app.settings import Settings
from app.system.process_exit import end

try:
    from app.cli import bench, classify, score, tune
    from app.cli.check import facts
    from app.cli.run import run
    from app.cli.terminal import OutputLost, fail, open_closed_streams, show
    from app.processes.supervisor import WorkerLost
except ModuleNotFoundError as error:
    if error.name != "uvloop":
        raise
    message = "uvloop is not installed: swin-serve runs on Linux and macOS; on Windows, use its container"
    print(f"swin-serve: {message}", file=sys.stderr)
    raise SystemExit(2) from None

log = logging.getLogger("swin.start")

DONE, INTERRUPTED, FAILED, REFUSED = 0, 1, 1, 2

# The commands, with their arguments and a summary for the help. `completion` has its own module.
COMMANDS = {
    "run": ("[options]", "serve a bundle (the default command)"),
    "check": ("[options]", "verify the bundle and the devices, and print what was found"),
    "classify": (
        "IMAGE [IMAGE ...] [--bundle DIR | --url URL] [options]",
        "classify a few images, here or by a running service, and print their best classes",
    ),
    "score": (
        "SOURCE [SOURCE ...] --output FILE [options]",
        "classify many images without a service, and write a table",
    ),
    "tune": (
        "--images SOURCE [SOURCE ...] --slo PERCENTILE=LATENCY [--bundle DIR] [options]",
        "find the settings for the highest rate within a latency, by measurements on this machine",
    ),
    "bench": (
        "URL IMAGE [IMAGE ...] [options]",
        "measure a running service under load: requests per second and latencies",
    ),
}
RUN_DESCRIPTION = "Serve a bundle over HTTP. Each option is also an environment variable, SWIN_<NAME>. The option wins."
CHECK_DESCRIPTION = "Open the bundle and all engines as `run` does, with the same options, without serving."

# Commands that end by themselves. After SIGTERM, their results are incomplete.
FINITE = frozenset({"bench", "classify", "score", "tune"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, `run`.

    Returns the exit code: 0 done, 1 interrupted, or the work failed, 2 the request was wrong.
    """
    open_closed_streams()
    signal.signal(signal.SIGTERM, _stop)  # PID 1 of a container ignores signals that it does not handle
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "run")
    parser, sources = _parser()
    parsed = parser.parse_args(arguments)
    try:
        if arguments[0] == "completion":
            code = _print(shell_completion.script(parser, parsed.shell))
        elif arguments[0] == "bench":
            code = bench.bench(parsed)
        else:
            code = _run_command(arguments[0], sources[arguments[0]], parsed)
        return end(code)  # inside: a second signal can arrive while threads end
    except Stopped:
        return end(INTERRUPTED if arguments[0] in FINITE else DONE)
    except KeyboardInterrupt:  # the server has not taken over the signals yet
        return end(INTERRUPTED)
    except ValidationError as error:
        return _refuse(refused(error, parsed))
    except StartError as error:
        return _refuse(str(error))
    except OutputLost as error:
        fail(*error.args)
    except WorkerLost as error:
        log.critical("%s", error)
    return end(FAILED)


def _settings(source: Source, parsed: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(parsed).items() if name in Settings.model_fields}
    return Settings(_cli_settings_source=source(parsed_args=given))


def _run_command(name: str, source: Source, parsed: argparse.Namespace) -> int:
    if vars(parsed).get("url") is None:  # `classify` by a service runs no network
        onnx_runtime.load()
    settings = _settings(source, parsed)
    if name == "classify":
        return classify.classify(settings, parsed)
    if name == "score":
        return score.score(settings, parsed)
    if name == "tune":
        return tune.run_tuner(settings, parsed)
    command = _check if name == "check" else run
    command(settings)
    return DONE


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Source]]:
    """Return the parser, and for each command with settings the source that reads them from parsed arguments."""
    parser = Parser(
        prog="swin-serve",
        description="Serve a Swin Transformer image classifier over HTTP.",
        epilog="exit codes: 0 done, 1 the work failed, 2 the request was wrong (option, bundle or device)",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("swin-serve"))
    commands = parser.add_subparsers(title="commands", required=True)
    added = {
        name: commands.add_parser(name, usage=f"swin-serve {name} {arguments}", help=summary)
        for name, (arguments, summary) in COMMANDS.items()
    }
    added["run"].description = RUN_DESCRIPTION
    added["check"].description = CHECK_DESCRIPTION
    bench.add_arguments(added["bench"])
    completion = commands.add_parser(
        "completion",
        help=shell_completion.SUMMARY,
        description=shell_completion.DESCRIPTION.format(program=parser.prog),
        epilog=shell_completion.END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shell_completion.add_argument(completion)
    return parser, {
        "run": add_settings(added["run"]),
        "check": add_settings(added["check"]),
        "classify": classify.add_arguments(added["classify"]),
        "score": score.add_arguments(added["score"]),
        "tune": tune.add_arguments(added["tune"]),
    }


def _print(text: str) -> int:
    show(text, end="")
    return DONE


def _refuse(reason: str) -> int:
    print(f"swin-serve: {reason}", file=sys.stderr)
    return REFUSED


def _check(settings: Settings) -> None:
    logs.configure(settings.log_format, settings.log_level)
    for fact in facts(settings):
        show(fact)


class Stopped(SystemExit):
    """SIGTERM arrived before the server took over the signals. Nothing needs to finish."""


def _stop(*_: object) -> NoReturn:
    raise Stopped(DONE)
