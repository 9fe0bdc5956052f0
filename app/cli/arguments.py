"""Settings as options of a command line: grouped help, and one sentence for a wrong value. Knows no command."""

import argparse
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, get_args

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from app.settings import PREFIX, SECRETS, ImageFormat, Settings
from app.validation_messages import REASONS

# The options of the help by group. A test holds that each setting is in one group.
GROUPS = {
    "bundle and device": ("bundle", "model_name", "device", "instances_per_device", "threads", "cuda_graphs"),
    "HTTP": (
        *("host", "port", "grpc_port", "root_path", "http_workers", "api_keys", "health_open"),
        *("metrics_open", "page", "cors_origins", "trusted_proxies"),
    ),
    "batching": ("max_batch", "max_queue_delay_ms", "max_queue_size", "batch_timeout"),
    "images": (
        *("formats", "max_megapixels", "color_profiles", "decode", "decode_threads", "max_decode_queue_size"),
        *("max_client_batch_size", "top_k"),
    ),
    "limits": (
        *("max_body_mib", "max_uploads_mib", "max_connections", "request_timeout", "header_timeout"),
        *("body_timeout", "drain_delay", "drain_timeout"),
    ),
    "logs": ("log_format", "log_level"),
}

# The word for the value of an option. A setting that is missing here is a count or a switch.
METAVARS = {
    "bundle": "DIR",
    "model_name": "NAME",
    "host": "HOST",
    "port": "PORT",
    "grpc_port": "PORT",
    "root_path": "PATH",
    "api_keys": "KEY,…",
    "cors_origins": "ORIGIN,…",
    "trusted_proxies": "NETWORK,…",
    "device": "DEVICE",
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
COUNT = "N"
# The beginning of argparse's message.
UNKNOWN = "unrecognized arguments: "

ADVICE = {
    "host": "an address of this machine, as 127.0.0.1 or 0.0.0.0",
    "trusted_proxies": "addresses or networks, as 10.0.0.0/8,192.0.2.7",
    "formats": f"one or more of {', '.join(get_args(ImageFormat))}",
}

Source = CliSettingsSource[argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """An argument parser that prints an error as one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2. The message names unknown options without their values: a value can be a secret."""
        if message.startswith(UNKNOWN):
            words = message.removeprefix(UNKNOWN).split()
            options = [word.partition("=")[0] for word in words if word.startswith("-")]
            message = f"{UNKNOWN}{' '.join(options) or f'{len(words)} without an option (a switch takes no value)'}"
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_settings(parser: argparse.ArgumentParser, texts: Mapping[str, str | None] | None = None) -> Source:
    """Add options for settings, in groups, and return the source that reads settings from parsed arguments.

    `texts` names the settings that apply, each with its help text, or None for the text of the
    setting. By default, all settings apply.
    """
    texts = dict.fromkeys(Settings.model_fields) if texts is None else texts
    groups = dict[str, Any]()  # by setting
    for title, names in GROUPS.items():
        if applied := [name for name in names if name in texts]:
            groups |= dict.fromkeys(applied, parser.add_argument_group(title))

    def add(group: Any, *flags: str, **options: Any) -> None:
        name = str(options["dest"])
        if name not in Settings.model_fields:
            group.add_argument(*flags, **options)
            return
        if name not in groups:
            return
        default = default_text(name)
        text = f"{texts[name] or Settings.model_fields[name].description}{f' (default: {default})' if default else ''}"
        options |= {"help": text.replace("%", "%%")}
        if is_switch(name):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = metavar(name)
        groups[name].add_argument(*flags, **options)

    return CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        add_argument_method=add,
    )


def metavar(name: str) -> str:
    """Return the word for the value of a setting that is no switch."""
    choices = _schema(name).get("enum")
    if choices:
        return "|".join(choices)
    return METAVARS.get(name) or {"integer": COUNT}[_schema(name)["type"]]


def is_switch(name: str) -> bool:
    """Return whether a setting is on or off."""
    return _schema(name).get("type") == "boolean"


def refused(error: ValidationError, given: argparse.Namespace) -> str:
    """Return one sentence: option or variable, value unless it is secret, what is wrong with it, and what to do."""
    first = error.errors(include_url=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    is_option = getattr(given, name, None) is not None
    where = f"--{name.replace('_', '-')}" if is_option else f"{PREFIX}{name.upper()}"
    value = str(first["input"] or "") if first["type"] in {"too_short", "string_too_short"} else str(first["input"])
    names_value = first["type"] == "value_error" and value in message
    if name not in SECRETS and not names_value:
        where = f"{where} {value!r}"
    if first["type"] == "value_error":
        return f"{where}: {message}"
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


def default_text(name: str) -> str:
    """Return the default of a setting in words, the same on all machines, or nothing if it has none."""
    default = Settings.model_fields[name].default
    if default in (None, (), ""):
        return ""
    if name == "bundle":
        return "the demonstration bundle"
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _schema(name: str) -> Mapping[str, Any]:
    """Return the JSON schema of a setting. For a setting that can be unset, return that of its values."""
    schema: Mapping[str, Any] = _schemas()[name]
    return next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)


@cache
def _schemas() -> Mapping[str, Any]:
    properties: Mapping[str, Any] = Settings.model_json_schema()["properties"]
    return properties
