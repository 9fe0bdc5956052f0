"""Every knob, once: its type, default and bounds, and a sentence on what it trades for what.

Each is an option of `swin-serve run` and an environment variable `SWIN_<NAME>`; the option wins.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.system.device import devices

PREFIX = "SWIN_"
# Settings whose values are never shown.
SECRETS = frozenset({"api_keys"})
DEMO_BUNDLE = Path(__file__).parent / "demo_bundle"

T = TypeVar("T")


def _split(value: object) -> object:
    """`a, b` → a and b; nothing → none. An empty place between commas stays one, for its type to refuse."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _sendable(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{16,}", key.get_secret_value()):
        raise ValueError("a key has at least 16 characters, all of them printable ASCII and none a space or a comma")
    return key


def _as_browsers_say_it(origin: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", origin):  # any other would be equal to none
        raise ValueError("an origin is scheme://host or scheme://host:port in lower case, without a path; or *")
    return origin


def _joinable(prefix: str) -> str:
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[\w.~@:+-]+)*", prefix, re.ASCII):
        raise ValueError("a path begins with / and does not end with it, as /digits; letters, digits and ._~@:+- only")
    return prefix


def _nameable(names: str) -> str:
    if names != "auto":
        devices(names)
    return names


Listed = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
"""Comma separated, in the environment as on the command line."""

Key = Annotated[SecretStr, AfterValidator(_sendable)]
Prefix = Annotated[str, AfterValidator(_joinable)]
Origin = Annotated[str, AfterValidator(_as_browsers_say_it)]
ImageFormat = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"]
Devices = Annotated[str, AfterValidator(_nameable)]
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Timeout = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What an operator decides."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    bundle: Path = Field(
        DEMO_BUNDLE,
        description="Folder that `swin-export build` wrote. The demonstration bundle reads handwritten digits.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. The default is reached from this machine only; 0.0.0.0 from everywhere.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    root_path: Prefix = Field(
        "",
        description="Prefix of the paths under which a proxy serves swin-serve, as `/digits`, whether or not the proxy "
        "strips it. `/docs` and OpenAPI name it in their links. X-Forwarded-Prefix is not believed.",
    )
    api_keys: Listed[Key] = Field(
        (),
        description="Keys, comma separated: each request must carry one. Unset, anyone who reaches the port can send "
        "requests. Prefer the variable: other users of the machine can read a command line.",
    )
    health_open: bool = Field(
        default=True,
        description="Serve `/health/*` without an API key. Set it to false only if your probes can send one.",
    )
    metrics_open: bool = Field(
        default=True, description="Serve `/metrics` without an API key. If it is false, Prometheus must send one, too."
    )
    cors_origins: Listed[Origin] = Field(
        (),
        description="Sites whose pages may send requests from a browser, as `https://example.org`, comma separated; "
        "`*`: all.",
    )
    trusted_proxies: Listed[IPvAnyNetwork] = Field(
        (),
        description="Addresses or networks of proxies, comma separated. Their X-Forwarded-For is logged as `client`.",
    )
    device: Devices = Field(
        "auto",
        description="Where the network runs: `cpu`, `cuda` (the first GPU), `cuda:1`, `cuda:0,1`, `tensorrt` likewise, "
        "there or no start; or `auto`: all GPUs this process sees that prove themselves with CUDA, else the CPU.",
    )
    http_workers: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Processes that speak HTTP and decode, before the one with the engines; each takes 70 MB. 0: one "
        "process does it all. Unset: 0 with up to four CPUs, else half as many as CPUs. Needs Linux: elsewhere only 0. "
        "Other limits are divided among them.",
    )
    instances_per_device: Count | None = Field(
        None,
        le=64,
        description="Batches that run side by side on each device. Unset: 1 on the CPU, which answers a lone image "
        "soonest; as many as CPUs answer most images a second, on the same weights. 2 on a GPU: the copy of one batch "
        "is meant to run under the computation of the other, and the weights are held twice.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="With CUDA, record the kernels of a batch once and launch them as one. Off where that fails.",
    )
    threads: Count | None = Field(
        None,
        description="CPU threads for one batch. Unset: the CPUs this process may use, divided among the engines; or 1 "
        "for a network so small that more gain nothing. Fewer leave more to decoding.",
    )
    max_batch: Count = Field(
        64,
        le=1024,
        description="Most images in one batch. What is measured at the start can make it fewer: only as many are run "
        "together as make an image cheaper.",
    )
    max_queue_delay_ms: Seconds = Field(
        0,
        description="Milliseconds a free engine waits for a fuller batch. Under load batches form anyway.",
    )
    max_queue_size: Count = Field(
        256,
        description="Images that may wait for the engine. Low refuses early (429), high lets callers wait.",
    )
    decode_threads: Count | None = Field(
        None, description="Threads that decode and resize. Unset: two more than the CPUs this process may use."
    )
    max_decode_queue_size: Count = Field(
        256, description="Images that may wait for decoding. Each holds its whole encoded body in memory."
    )
    max_body_mib: Count = Field(
        32,
        description="Largest request body, in MiB. Bounds the memory one caller takes before anything is checked.",
    )
    max_megapixels: float = Field(
        64,
        gt=0,
        le=89,
        allow_inf_nan=False,
        description="Largest image, in megapixels, told from its header. Decoding takes about 3 to 6 bytes per pixel.",
    )
    max_uploads_mib: Count = Field(
        1024,
        description="Bodies held at once, in MiB, over all requests; more are refused (429). Bounds the memory.",
    )
    max_connections: Count = Field(
        1024,
        description="Callers connected at once; more are refused (503). Each takes a file descriptor, and some memory.",
    )
    formats: Listed[ImageFormat] = Field(
        get_args(ImageFormat),
        min_length=1,
        description="Formats that are read, comma separated. Fewer are safer: `avif` can take 0.9 GB for any image.",
    )
    color_profiles: Literal["convert", "ignore"] = Field(
        "convert",
        description="ICC profiles: convert colors to sRGB, or ignore them, as most training code does. sRGB is free.",
    )
    decode: Literal["exact", "fast"] = Field(
        "exact",
        description="`fast` decodes JPEGs of twice the network's size or more at a half, quarter or eighth of their "
        "sides: large photos take a third of the time, and near ties can fall the other way.",
    )
    max_client_batch_size: Count = Field(
        64, description="Most images in one `POST /classify/batch`. Callers with more send several requests."
    )
    top_k: Count = Field(5, description="Classes in an answer when the request does not say.")
    request_timeout: Timeout = Field(
        30,
        description="Seconds from a request's head to its answer; then 504. Callers shorten theirs: X-Request-Timeout.",
    )
    header_timeout: Timeout = Field(
        10, description="Seconds that the head of a request may take to arrive; then the connection is closed."
    )
    body_timeout: Timeout = Field(
        20,
        description="Seconds that a body may take to arrive (then 408), or an answer to leave. High serves slow lines.",
    )
    batch_timeout: Timeout = Field(
        60,
        description="Seconds after which a batch is stuck and its engine renewed, or ten times its usual time if more.",
    )
    drain_delay: Seconds = Field(
        0,
        description="Seconds to keep serving after SIGTERM with readiness off, while load balancers look elsewhere.",
    )
    drain_timeout: Seconds = Field(
        30,
        description="Seconds that requests in flight get to finish after that; then the process leaves without them.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="One line per event: `text` for people, `json` for log collectors."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important event to log. `info` has a line for every request."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_client_batch_size > self.max_queue_size:
            raise ValueError(
                f"max_client_batch_size is {self.max_client_batch_size}, more than max_queue_size, {self.max_queue_size}; lower the one "
                "or raise the other"
            )
        if self.max_body_mib > self.max_uploads_mib:
            raise ValueError(
                f"max_body_mib is {self.max_body_mib}, more than max_uploads_mib, {self.max_uploads_mib}; lower the "
                "one or raise the other"
            )
        return self


def unknown_variables() -> set[str]:
    """Variables of the environment that look like settings and are none: most likely misspelt."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name for name in os.environ if name.startswith(PREFIX)} - known
