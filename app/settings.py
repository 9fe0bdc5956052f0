"""Settings of the service, declared once: type, default, bounds and trade-off. Knows nothing about the command line.

Each setting is an environment variable `SWIN_<NAME>` and an option of `swin-serve run`. The option wins.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.system.device import devices

PREFIX = "SWIN_"
# Values of these settings appear in no log and no error message.
SECRETS = frozenset({"api_keys"})
DEMO_BUNDLE = Path(__file__).parent / "demo_bundle"

T = TypeVar("T")


def _split(value: object) -> object:
    """Split `a, b` into a and b. An empty item stays, so that its type refuses it."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _check_key(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{16,}", key.get_secret_value()):
        raise ValueError("a key has at least 16 characters, all of them printable ASCII and none a space or a comma")
    return key


def _check_origin(origin: str) -> str:
    # Browsers send origins in this form. Any other form would match no request.
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+", origin):
        raise ValueError("an origin is scheme://host or scheme://host:port in lower case, without a path; or *")
    return origin


def _check_prefix(prefix: str) -> str:
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[\w.~@:+-]+)*", prefix, re.ASCII):
        raise ValueError("a path begins with / and does not end with it, as /digits; letters, digits and ._~@:+- only")
    return prefix


def _check_devices(names: str) -> str:
    if names != "auto":
        devices(names)
    return names


def _check_model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in {"stats", ".", ".."}:
        raise ValueError("a name has 1 to 64 letters, digits and ._- only, and is not stats, which is a path of v2")
    return name


# A tuple that is written with commas, in the environment as on the command line.
CommaSeparated = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
Key = Annotated[SecretStr, AfterValidator(_check_key)]
Prefix = Annotated[str, AfterValidator(_check_prefix)]
ModelName = Annotated[str, AfterValidator(_check_model_name)]
Origin = Annotated[str, AfterValidator(_check_origin)]
ImageFormat = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"]
Devices = Annotated[str, AfterValidator(_check_devices)]
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Timeout = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The configuration of one service. Immutable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    bundle: Path = Field(
        DEMO_BUNDLE,
        description="Folder that `swin-export build` wrote. The demonstration bundle reads handwritten digits.",
    )
    model_name: ModelName | None = Field(
        None,
        description="Name of the model in the paths of protocols, as in `/v2/models/NAME`. Unset: the name in the "
        "bundle's manifest.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. 127.0.0.1 accepts connections from this machine only, 0.0.0.0 from all.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0 selects a free port and logs it.")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="Port for gRPC, which needs the extra `grpc`. 0 selects a free port and logs it. Unset: no gRPC.",
    )
    root_path: Prefix = Field(
        "",
        description="Prefix of paths under which a proxy serves swin-serve, as `/digits`, whether or not the proxy "
        "strips it. `/docs` and OpenAPI use it in links. X-Forwarded-Prefix is ignored.",
    )
    api_keys: CommaSeparated[Key] = Field(
        (),
        description="API keys, comma separated. Each request must carry one. If unset, any client that reaches the "
        "port can send requests. Prefer the variable: other users of the machine can read a command line.",
    )
    health_open: bool = Field(
        default=True,
        description="Serve `/health/*` without an API key. Turn it off only if your probes can send one.",
    )
    metrics_open: bool = Field(
        default=True, description="Serve `/metrics` without an API key. If it is off, Prometheus must send a key."
    )
    page: bool = Field(
        default=True,
        description="Serve a page for browsers at `/`. Its files need no API key, but what it shows does.",
    )
    cors_origins: CommaSeparated[Origin] = Field(
        (),
        description="Origins of pages that may send requests from a browser, as `https://example.org`, comma "
        "separated. `*` allows all.",
    )
    trusted_proxies: CommaSeparated[IPvAnyNetwork] = Field(
        (),
        description="Addresses or networks of proxies, comma separated. The log takes `client` from their "
        "X-Forwarded-For.",
    )
    device: Devices = Field(
        "auto",
        description="Device of the network: `cpu`, `cuda` (the first GPU), `cuda:1`, `cuda:0,1`, or `tensorrt` "
        "likewise; the start fails if it is not there. `auto` takes all visible GPUs that pass verification with "
        "CUDA, else the CPU.",
    )
    http_workers: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None,
        description="Processes that serve HTTP and decode images in front of the engine process. Each takes 70 MB. "
        "0: one process does everything. Unset: 0 with up to four CPUs, else half the number of CPUs. "
        "Needs Linux; other systems allow only 0. Other limits are divided among the workers.",
    )
    instances_per_device: Count | None = Field(
        None,
        le=64,
        description="Engines that run batches side by side on each device. Unset: 1 on the CPU, for the lowest "
        "latency; as many as CPUs give the highest throughput, on shared weights. Unset on a GPU: 2, so that the "
        "copy of one batch can overlap the computation of the other; the weights are held twice.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="With CUDA, record the kernels of a batch once and launch them together. Disabled automatically "
        "where recording fails.",
    )
    threads: Count | None = Field(
        None,
        description="CPU threads for one batch. Unset: the available CPUs divided among the engines, or 1 for a "
        "network too small to gain from more. Fewer threads leave more CPU time to decoding.",
    )
    max_batch: Count = Field(
        64,
        le=1024,
        description="Maximum number of images in one batch. Warm-up can lower it: batches grow only while a larger "
        "one makes an image cheaper.",
    )
    max_queue_delay_ms: Seconds = Field(
        0,
        description="Maximum time in milliseconds that a free engine waits for a fuller batch. Under load batches "
        "form without a delay.",
    )
    max_queue_size: Count = Field(
        256,
        description="Maximum number of images that wait for an engine. A low value refuses early (429), a high value "
        "lets clients wait.",
    )
    decode_threads: Count | None = Field(
        None, description="Threads that decode and resize images. Unset: two more than the available CPUs."
    )
    max_decode_queue_size: Count = Field(
        256, description="Maximum number of images that wait for decoding. Each holds its encoded body in memory."
    )
    max_body_mib: Count = Field(
        32,
        description="Maximum request body in MiB. Bounds the memory that one client takes before any check.",
    )
    max_megapixels: float = Field(
        64,
        gt=0,
        le=89,
        allow_inf_nan=False,
        description="Maximum image size in megapixels, read from the header. Decoding takes 3 to 6 bytes per pixel, "
        "with transparency up to 21.",
    )
    max_uploads_mib: Count = Field(
        1024,
        description="Maximum size in MiB of all request bodies in memory. Further requests are refused (429).",
    )
    max_connections: Count = Field(
        1024,
        description="Maximum number of open connections. Further connections are refused (503). Each takes a file "
        "descriptor and some memory.",
    )
    formats: CommaSeparated[ImageFormat] = Field(
        get_args(ImageFormat),
        min_length=1,
        description="Image formats to read, comma separated. Fewer are safer: `avif` can take 0.9 GB for any image.",
    )
    color_profiles: Literal["convert", "ignore"] = Field(
        "convert",
        description="ICC profiles: convert colors to sRGB, or ignore the profile as most training code does. Images "
        "in sRGB need no conversion.",
    )
    decode: Literal["exact", "fast"] = Field(
        "exact",
        description="`fast` decodes a JPEG at a half, quarter or eighth of its size if that is still as large as the "
        "network's input. Large photos take a third of the time; near ties can change their order.",
    )
    max_client_batch_size: Count = Field(
        64, description="Maximum number of images in one `POST /classify/batch`. Clients split larger batches."
    )
    top_k: Count = Field(5, description="Number of classes in an answer if the request does not set it.")
    request_timeout: Timeout = Field(
        30,
        description="Timeout in seconds from the header section of a request to its answer (504). A client can "
        "shorten it with X-Request-Timeout.",
    )
    header_timeout: Timeout = Field(
        10, description="Timeout in seconds for receiving a header section. After it, the connection is closed."
    )
    body_timeout: Timeout = Field(
        20,
        description="Timeout in seconds for receiving a body (408) or sending an answer. A high value serves slow "
        "connections.",
    )
    batch_timeout: Timeout = Field(
        60,
        description="Timeout in seconds for one batch, or ten times its usual time if that is more. After it, the "
        "engine is restarted.",
    )
    drain_delay: Seconds = Field(
        0,
        description="Time in seconds to keep serving after SIGTERM with readiness off, while load balancers remove "
        "the instance.",
    )
    drain_timeout: Seconds = Field(
        30,
        description="Time in seconds for requests in flight to finish after the delay. After it, the process exits.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="One line per event: `text` for people, `json` for log collectors."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level to log. `info` logs a line for each request."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.max_client_batch_size > self.max_queue_size:
            raise ValueError(
                f"max_client_batch_size is {self.max_client_batch_size}, more than max_queue_size, "
                f"{self.max_queue_size}; lower the one or raise the other"
            )
        if self.max_body_mib > self.max_uploads_mib:
            raise ValueError(
                f"max_body_mib is {self.max_body_mib}, more than max_uploads_mib, {self.max_uploads_mib}; lower the "
                "one or raise the other"
            )
        return self


def unknown_variables() -> set[str]:
    """Return environment variables with the prefix of settings that name no setting: probably typing errors."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name for name in os.environ if name.startswith(PREFIX)} - known
