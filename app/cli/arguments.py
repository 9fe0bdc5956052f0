"""The settings as options of a command line: words for values in the help, and a sentence for a value that is wrong."""

import argparse
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, get_args

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from app.settings import PREFIX, SECRETS, ImageFormat, Settings
from app.validation_messages import REASONS

# The word for the value of each option in the help. A setting that is not here is a count or a switch.
METAVARS = {
    "bundle": "DIR",
    "host": "HOST",
    "port": "PORT",
    "root_path": "PATH",
    "api_keys": "KEY,…",
    "cors_origins": "ORIGIN,…",
    "trusted_proxies": "NETWORK,…",
    "device": "auto|cpu|cuda[:N,…]|tensorrt[:N,…]",
    "max_queue_delay_ms": "MILLISECONDS",
    "max_body_mib": "MIB",
    "max_megapixels": "MEGAPIXELS",
    "max_uploads_mib": "MIB",
    "formats": "FORMAT,…",
    "request_timeout": "SECONDS",
    "header_timeout": "SECONDS",
    "body_timeout": "SECONDS",
    "batch_timeout": "SECONDS",
    "drain_delay": "SECONDS",
    "drain_timeout": "SECONDS",
}
UNKNOWN = "unrecognized arguments: "  # argparse's words
COUNT, SWITCH = "N", "true|false"

ADVICE = {
    "host": "an address of this machine, as 127.0.0.1 or 0.0.0.0",
    "trusted_proxies": "addresses or networks, as 10.0.0.0/8,192.0.2.7",
    "formats": f"one or more of {', '.join(get_args(ImageFormat))}",
}

Source = CliSettingsSource[argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """argparse's, which tells an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2. Of arguments that nothing knows, only the options are named: a value may be a secret."""
        if message.startswith(UNKNOWN):
            words = message.removeprefix(UNKNOWN).split()
            options = [word.partition("=")[0] for word in words if word.startswith("-")]
            message = f"{UNKNOWN}{' '.join(options) or f'{len(words)} without an option'}"
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_settings(parser: argparse.ArgumentParser) -> Source:
    """Add an option for each setting; returns what reads the settings from the parsed arguments."""

    def add(group: Any, *flags: str, **options: Any) -> None:
        name = str(options["dest"])
        if name not in Settings.model_fields:
            group.add_argument(*flags, **options)
            return
        text = f"{Settings.model_fields[name].description}{_default(name)}"
        group.add_argument(*flags, **options | {"metavar": metavar(name), "help": text.replace("%", "%%")})

    return CliSettingsSource(
        Settings, root_parser=parser, cli_kebab_case=True, cli_hide_none_type=True, add_argument_method=add
    )


def metavar(name: str) -> str:
    """Return the word that stands for the value of a setting."""
    choices = _schema(name).get("enum")
    if choices:
        return "|".join(choices)
    return METAVARS.get(name) or {"boolean": SWITCH, "integer": COUNT}[_schema(name)["type"]]


def refused(error: ValidationError, given: argparse.Namespace) -> str:
    """Return one sentence: the option or variable, its value unless it is secret, what is wrong, and what to do."""
    first = error.errors(include_url=False)[0]
    said = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return said
    name = str(first["loc"][0])
    is_option = getattr(given, name, None) is not None
    where = f"--{name.replace('_', '-')}" if is_option else f"{PREFIX}{name.upper()}"
    value = str(first["input"] or "") if first["type"] in {"too_short", "string_too_short"} else str(first["input"])
    is_told = first["type"] == "value_error" and value in said
    if name not in SECRETS and not is_told:
        where = f"{where} {value!r}"
    if first["type"] == "value_error":
        return f"{where}: {said}"
    return f"{where}: {REASONS.get(first['type'], 'not valid')}; give {_advice(name)}"


def _advice(name: str) -> str:
    schema = _schema(name)
    if name in ADVICE:
        return ADVICE[name]
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if schema.get("type") == "boolean":
        return "true or false"
    kind = "a whole number" if schema.get("type") == "integer" else "a number"
    return " ".join([kind, *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> Sequence[str]:
    bounds = list[str]()
    if "minimum" in schema:
        bounds.append(f"from {schema['minimum']:g}")
    elif "exclusiveMinimum" in schema:
        bounds.append(f"above {schema['exclusiveMinimum']:g}")
    if "maximum" in schema:
        bounds.append(f"{'to' if 'minimum' in schema else 'and up to'} {schema['maximum']:g}")
    return bounds


def _default(name: str) -> str:
    """The same on every machine."""
    default = Settings.model_fields[name].default
    if default in (None, (), ""):
        return ""
    if name == "bundle":
        return " (default: the demonstration bundle)"
    if isinstance(default, tuple):
        return f" (default: {','.join(default)})"
    return f" (default: {str(default).lower() if isinstance(default, bool) else default})"


def _schema(name: str) -> Mapping[str, Any]:
    """The JSON schema of a setting; of one that may be unset, that of its values."""
    schema: Mapping[str, Any] = _schemas()[name]
    return next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)


@cache
def _schemas() -> Mapping[str, Any]:
    properties: Mapping[str, Any] = Settings.model_json_schema()["properties"]
    return properties
