"""A session of ONNX Runtime: opened on one device, proved to run there, and to have the inputs and outputs agreed on.

ONNX Runtime's Python session falls back to the CPU in silence: when a provider's library does not load, when the
constructor fails, and during `run`. So a device is believed only after the session says it runs there, every node of
the network says so too, and the fallback is switched off. What a build *lists* as available proves nothing.
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

from app.errors import BundleError, DeviceError, sentence
from app.inference import cuda, tensorrt
from app.inference.cuda import Gpu
from app.inference.onnx_runtime import onnxruntime
from app.system.device import CPU, Device

log = logging.getLogger("swin.start")

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
CAPI = Path(onnxruntime.__file__).parent / "capi"  # where its provider libraries lie
INPUT, OUTPUT, TOKENS = "pixels", "logits", "tokens"
# How ONNX Runtime's complaint begins where a model's weights lie in another file that cannot be read.
EXTERNAL = "External data path validation failed"


@dataclass(frozen=True)
class Network:
    """An ONNX file, and what it has to be.

    `others` are files that the model may keep weights in (ONNX's external data), by the names the model has for them.
    """

    model: Path
    input_size: tuple[int, int]  # height, width
    classes: int
    tokens: tuple[int, int]  # positions, channels
    half: bool = False  # whether it computes in float16
    others: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceReport:
    """Where the network runs, as the session itself reports it."""

    device: Device
    provider: str
    nodes: Mapping[str, int]  # per provider
    threads: int  # for one batch on the CPU
    runtime: str
    gpu: Gpu | None = None
    graphs: bool = False  # whether the kernels of a batch are launched as one


def open_session(
    network: Network, device: Device, *, threads: int, buckets: Sequence[int], graphs: bool
) -> tuple[onnxruntime.InferenceSession, DeviceReport]:
    """See `app.inference.engine.open_engine`.

    Raises:
        DeviceError: the device is not there, or the network would not run on it.
        BundleError: the model's input and outputs are not those of the contract.
    """
    options = _options(network, device, buckets, graphs=graphs)
    started = time.monotonic()
    try:
        session = _opened(network, device, options, threads)
        device_report = _truth(session, device, threads)
    except DeviceError:
        if device != CPU:  # which library is missing, ONNX Runtime tells nobody but stderr
            cuda.check_libraries(CAPI, device.kind)
        raise
    level = logging.DEBUG if device == CPU else logging.INFO  # elsewhere it takes seconds, and minutes to compile
    log.log(level, "session is open", extra={"device": device, "seconds": round(time.monotonic() - started, 1)})
    _check_signature(session, network)
    if device != CPU:
        device_report = replace(device_report, gpu=cuda.about(device.index), graphs=graphs)
    return session, device_report


def require_gpu_build(kind: str = "cuda") -> None:
    """What has to be so before anything else about CUDA, or TensorRT, matters.

    Raises:
        DeviceError: this ONNX Runtime cannot know it.
    """
    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise DeviceError(f"this ONNX Runtime is built without {PROVIDERS[kind]}; install swin-serve[gpu] for CUDA")


def is_out_of_memory(said: str) -> bool:
    """Whether it is that what ONNX Runtime, or CUDA, complains about."""
    return any(words in said for words in ("Failed to allocate memory", "out of memory"))


def _options(network: Network, device: Device, buckets: Sequence[int], *, graphs: bool) -> dict[str, str]:
    """For the device's provider; what it needs is there when this returns."""
    match device.kind:
        case "cpu":
            return {}
        case "cuda":
            _prepare_gpu(device)
            return _for_cuda(device, graphs=graphs)
        case "tensorrt":
            _prepare_gpu(device)
            return _for_tensorrt(network, device, buckets)


def _prepare_gpu(device: Device) -> None:
    require_gpu_build(device.kind)
    cuda.check_gpu(device.index, onnxruntime.cuda_version)
    with redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels, where the loader would not look for them


def _for_cuda(device: Device, *, graphs: bool) -> dict[str, str]:
    return {
        "device_id": str(device.index),
        "use_tf32": "0",  # it keeps 10 bits of every product: float32 would no longer be what was proved
        "enable_cuda_graph": str(int(graphs)),
    }


def _for_tensorrt(network: Network, device: Device, buckets: Sequence[int]) -> dict[str, str]:
    """Its own graphs stay off: it is not documented that there can be one for each size of batch."""
    tensorrt.load()
    cache = tensorrt.cache_folder(network.model, cuda.about(device.index).name, onnxruntime.__version__, buckets)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"TensorRT cannot keep what it compiles: {error}; set XDG_CACHE_HOME") from error
    if not any(cache.iterdir()):
        log.info("TensorRT compiles the network, for minutes", extra={"device": device, "folder": str(cache)})
    options = tensorrt.options(pixels=INPUT, size=network.input_size, buckets=buckets, half=network.half, cache=cache)
    return options | {"device_id": str(device.index)}


def _opened(network: Network, device: Device, options: Mapping[str, str], threads: int) -> onnxruntime.InferenceSession:
    provider, settings = PROVIDERS[device.kind], onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # what goes wrong is raised, and told then; what warnings warn of is checked below
    settings.enable_mem_pattern = False  # a second set of activations for each bucket, and no faster
    # Idle threads that spin steal the cores the decoders need.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider != PROVIDERS["cpu"]:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TensorRT's provider names what it compiles after the model's file, which a private copy does not keep.
    model = network.model.read_bytes() if device.kind == "tensorrt" else network.model
    try:
        with _mapped(network.others) as others:
            settings.add_external_initializers_from_files_in_memory(*others)
            session = onnxruntime.InferenceSession(
                model, settings, providers=[(provider, dict(options))], enable_fallback=0
            )
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
    """Names, content and lengths, for as long as ONNX Runtime reads them."""
    with contextlib.ExitStack() as stack:
        contents = list[mmap.mmap]()
        for path in files.values():
            file = stack.enter_context(path.open("rb"))
            contents.append(stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        yield [*files], contents, [*map(len, contents)]


def _truth(session: onnxruntime.InferenceSession, device: Device, threads: int) -> DeviceReport:
    """Read off the session where it runs.

    Raises:
        DeviceError: not, or not only, on the provider it was opened for.
    """
    wanted, actual = PROVIDERS[device.kind], session.get_providers()[0]
    if actual != wanted:
        raise DeviceError(f"the session was opened for {wanted} but runs on {actual}")
    nodes = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    if nodes.keys() != {wanted}:
        raise DeviceError(f"the network would not run on {wanted} alone, but on {dict(nodes)}")
    return DeviceReport(device, actual, dict(nodes), threads, onnxruntime.__version__)


def _check_signature(session: onnxruntime.InferenceSession, network: Network) -> None:
    """Compare names, types and shapes of pixels, logits and tokens, all without the batch axis."""
    outputs = [(OUTPUT, "tensor(float)", [network.classes]), (TOKENS, "tensor(float)", [*network.tokens])]
    wanted = ([(INPUT, "tensor(uint8)", [*network.input_size, 3])], outputs)
    sides = (session.get_inputs(), session.get_outputs())
    actual = tuple([(value.name, value.type, value.shape[1:]) for value in values] for values in sides)
    if actual != wanted:
        raise BundleError(f"the model's input and outputs are {actual}, the manifest asks for {wanted}")
