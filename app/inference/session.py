"""A session of ONNX Runtime, verified to run on its device and to have the contract's signature.

ONNX Runtime's Python session falls back to the CPU silently: when a provider's library does not
load, when the constructor fails, and during `run`. So a device counts as verified only if the
session reports its provider, the session assigns every node to this provider, and the fallback is
off. The providers that a build lists as available prove nothing.
"""

import contextlib
import io
import logging
import mmap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import BundleError, DeviceError, sentence
from app.inference import cuda, onnx_runtime, tensorrt
from app.inference.cuda import Gpu
from app.system.device import CPU, Device

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger("swin.start")

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
INPUT, OUTPUT, TOKENS = "pixels", "logits", "tokens"
# The beginning of ONNX Runtime's error for a model that keeps weights in another file, which cannot
# be read.
EXTERNAL = "External data path validation failed"


@dataclass(frozen=True)
class Network:
    """An ONNX file, and the properties it must have.

    `others` are files that hold weights of the model (ONNX's external data), by the names that the
    model gives them.
    """

    model: Path
    input_size: tuple[int, int]  # height, width
    classes: int
    tokens: tuple[int, int]  # positions, channels
    half: bool = False  # whether the network computes in float16
    others: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceReport:
    """The device on which the network runs, as reported by the session itself."""

    device: Device
    provider: str
    nodes: Mapping[str, int]  # per provider
    threads: int  # for one batch on the CPU
    runtime: str
    gpu: Gpu | None = None
    graphs: bool = False  # whether the kernels of a batch are launched as one


def open_session(
    network: Network, device: Device, *, threads: int, buckets: Sequence[int], graphs: bool
) -> "tuple[onnxruntime.InferenceSession, DeviceReport]":
    """Open the network on the device, and verify that it runs there.

    The arguments are those of `app.inference.engine.open_engine`.

    Raises:
        DeviceError: the device is not there, or the network would not run on it.
        BundleError: the model's input and outputs are not those of the contract.
    """
    options = _options(network, device, buckets, graphs=graphs)
    started = time.monotonic()
    try:
        session = _open(network, device, options, threads)
        device_report = _report(session, device, threads)
    except DeviceError:
        if device != CPU:  # ONNX Runtime names a missing library on stderr only
            cuda.check_libraries(_provider_folder(), device.kind)
        raise
    # Seconds on a GPU, and minutes where TensorRT compiles the network.
    level = logging.DEBUG if device == CPU else logging.INFO
    log.log(level, "session is open", extra={"device": device, "seconds": round(time.monotonic() - started, 1)})
    _check_signature(session, network)
    if device != CPU:
        device_report = replace(device_report, gpu=cuda.describe_gpu(device.index), graphs=graphs)
    return session, device_report


def require_gpu_build(kind: str = "cuda") -> None:
    """Check that ONNX Runtime is built with CUDA, or with TensorRT.

    Raises:
        DeviceError: this ONNX Runtime is built without it.
    """
    if PROVIDERS[kind] not in onnx_runtime.load().get_available_providers():
        raise DeviceError(f"this ONNX Runtime is built without {PROVIDERS[kind]}; install swin-serve[gpu] for CUDA")


def is_out_of_memory(message: str) -> bool:
    """Return whether a message of ONNX Runtime or CUDA reports a lack of memory."""
    return any(words in message for words in ("Failed to allocate memory", "out of memory"))


def _provider_folder() -> Path:
    module: str = onnx_runtime.load().__file__ or ""
    return Path(module).parent / "capi"


def _options(network: Network, device: Device, buckets: Sequence[int], *, graphs: bool) -> dict[str, str]:
    """Return the options of the device's provider, after its libraries are loaded."""
    match device.kind:
        case "cpu":
            return {}
        case "cuda":
            _prepare_gpu(device)
            return _cuda_options(device, graphs=graphs)
        case "tensorrt":
            _prepare_gpu(device)
            return _tensorrt_options(network, device, buckets)


def _prepare_gpu(device: Device) -> None:
    require_gpu_build(device.kind)
    ort = onnx_runtime.load()
    cuda.check_gpu(device.index, ort.cuda_version)
    with redirect_stdout(io.StringIO()):  # preload_dlls prints the names of missing libraries
        ort.preload_dlls()  # loads CUDA and cuDNN from their wheels, which the loader does not search


def _cuda_options(device: Device, *, graphs: bool) -> dict[str, str]:
    return {
        "device_id": str(device.index),
        "use_tf32": "0",  # TF32 keeps 10 bits of every product; the export verified float32
        "enable_cuda_graph": str(int(graphs)),
    }


def _tensorrt_options(network: Network, device: Device, buckets: Sequence[int]) -> dict[str, str]:
    """Return the options of the TensorRT provider.

    CUDA graphs stay off: the provider documents no graph for each batch size.
    """
    tensorrt.load()
    gpu, version = cuda.describe_gpu(device.index).name, onnx_runtime.load().__version__
    cache = tensorrt.cache_folder(network.model, gpu, version, buckets)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"TensorRT cannot keep what it compiles: {error}; set XDG_CACHE_HOME") from error
    if not any(cache.iterdir()):
        log.info("TensorRT compiles the network, for minutes", extra={"device": device, "folder": str(cache)})
    options = tensorrt.options(pixels=INPUT, size=network.input_size, buckets=buckets, half=network.half, cache=cache)
    return options | {"device_id": str(device.index)}


def _open(network: Network, device: Device, options: Mapping[str, str], threads: int) -> "onnxruntime.InferenceSession":
    ort = onnx_runtime.load()
    provider, settings = PROVIDERS[device.kind], ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # errors are raised, and _report checks what warnings would be about
    settings.enable_mem_pattern = False  # with it, each bucket has a second set of activations and is no faster
    # Idle threads that spin take CPU time from the decode threads.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider != PROVIDERS["cpu"]:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TensorRT's provider names its compiled files after the model's file, and a private copy has no
    # lasting name.
    model = network.model.read_bytes() if device.kind == "tensorrt" else network.model
    try:
        with _mapped(network.others) as others:
            settings.add_external_initializers_from_files_in_memory(*others)
            session = ort.InferenceSession(model, settings, providers=[(provider, dict(options))], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises bare Exception subclasses of its C++ layer
        if EXTERNAL in str(error):
            raise BundleError(
                "model.onnx refers to weights in a file that the manifest does not list; keep all weights in model.onnx"
            ) from error
        if is_out_of_memory(str(error)):
            raise DeviceError(f"{device} has too little memory left for the network: {sentence(error)}") from error
        raise DeviceError(f"ONNX Runtime cannot open the model with {provider}: {sentence(error)}") from error
    session.disable_fallback()
    return session


@contextlib.contextmanager
def _mapped(files: Mapping[str, Path]) -> Iterator[tuple[list[str], list[mmap.mmap], list[int]]]:
    """Map the files while ONNX Runtime reads them: names, contents and lengths."""
    with contextlib.ExitStack() as stack:
        contents = list[mmap.mmap]()
        for path in files.values():
            file = stack.enter_context(path.open("rb"))
            contents.append(stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        yield [*files], contents, [*map(len, contents)]


def _report(session: "onnxruntime.InferenceSession", device: Device, threads: int) -> DeviceReport:
    """Return where the session runs, as reported by the session.

    Raises:
        DeviceError: some node does not run on the provider that the session was opened for.
    """
    expected, actual = PROVIDERS[device.kind], session.get_providers()[0]
    if actual != expected:
        raise DeviceError(f"the session was opened for {expected} but runs on {actual}")
    nodes = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    if nodes.keys() != {expected}:
        raise DeviceError(f"the network would not run on {expected} alone, but on {dict(nodes)}")
    return DeviceReport(device, actual, dict(nodes), threads, onnx_runtime.load().__version__)


def _check_signature(session: "onnxruntime.InferenceSession", network: Network) -> None:
    """Compare names, types and shapes of input and outputs, without the batch axis."""
    outputs = [(OUTPUT, "tensor(float)", [network.classes]), (TOKENS, "tensor(float)", [*network.tokens])]
    expected = ([(INPUT, "tensor(uint8)", [*network.input_size, 3])], outputs)
    sides = (session.get_inputs(), session.get_outputs())
    actual = tuple([(value.name, value.type, value.shape[1:]) for value in values] for values in sides)
    if actual != expected:
        raise BundleError(f"the model's input and outputs are {actual}, the manifest asks for {expected}")
