"""Stand-ins: engines that can be held, images that are made, networks with every weight random."""

import asyncio
import io
import shutil
import threading
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, Swinv2Config, Swinv2ForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from app.bundle import MODEL, Bundle
from app.caller import Caller
from app.device import CPU, Device
from app.engine import Engine
from app.golden import open_unproved
from app.nvidia import Gpu
from tests.references.draw import draw

HANG_SECONDS = 120
"""The longest wait for what has to come: it finds a hang. A busy machine needs seconds."""


class Gate:
    """An engine that runs a batch only when let through, and adds one to every row."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.detailed: list[list[bool]] = []  # by batch, which rows asked for the detailed answer
        self._entered, self._opened = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows: Sequence[NDArray[Any]], detailed: Sequence[bool] = ()) -> NDArray[Any]:
        """Run a batch."""
        self.batches.append(len(rows))
        self.detailed.append(list(detailed))
        self._entered.release()
        assert self._opened.acquire(timeout=HANG_SECONDS), "nobody opened the gate"
        return np.stack(rows) + 1

    def wait_until_entered(self) -> None:
        """Until a batch stands before the gate."""
        assert self._entered.acquire(timeout=HANG_SECONDS), "no batch came"

    def open(self, times: int = 1) -> None:
        """Let so many batches through."""
        self._opened.release(times)


ALLOCATION = "FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3687936"
"""What ONNX Runtime says when a GPU's memory is full."""

GPU = Gpu("NVIDIA H200", None, "13.1", "13.0", "9.10.2")
"""One that has all it needs, and a driver that does not tell its version."""


class FailingSession:
    """A session of ONNX Runtime that breaks in one of the ways in which they do."""

    def __init__(self, session: Any, failure: str) -> None:
        self._session, self._failure = session, failure

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """Fail."""
        if self._failure == "exception":
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        values = self._session.run(outputs, inputs)
        if self._failure == "shape":
            return [value[:, :-1] for value in values]
        return [np.full_like(value, np.nan) for value in values]


class HeldSession:
    """A session of ONNX Runtime whose every run has to pass a gate first."""

    def __init__(self, session: Any, gate: Gate) -> None:
        self._session, self._gate = session, gate

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """Wait, then run."""
        self._gate([np.zeros(1)])
        return self._session.run(outputs, inputs)


def engine_of(bundle: Bundle, device: Device = CPU, buckets: Sequence[int] = (1,)) -> Engine:
    """The bundle's network on a device, not proved and not warm."""
    return open_unproved(bundle, device, 1, buckets)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every parameter, so that attention, masks and position biases all matter to the result."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape), seed)))


def transformers_swin(seed: int = 0, **config: Any) -> Any:
    """The transformers library's network, small unless told otherwise, with random weights."""
    small: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 24,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "num_labels": 10,
    }
    version = config.pop("version", 1)
    if version == 1:
        network: Any = SwinForImageClassification(SwinConfig(**(small | config)))
    else:
        network = Swinv2ForImageClassification(Swinv2Config(**(small | config)))
    randomise(network, seed)
    network.eval()
    return network


def save_checkpoint(folder: Path, *, size: dict[str, int] | None = None, processor: Any = None, **config: Any) -> Path:
    """What a user has after a fine-tune: network, configuration and preprocessor."""
    network = transformers_swin(**config)
    network.save_pretrained(folder)
    side = config.get("image_size", 32)
    options: dict[str, Any] = {"size": size or {"height": side, "width": side}, "resample": 3, **(processor or {})}
    ViTImageProcessorPil(**options).save_pretrained(folder)
    return folder


def exported_before(bundle: Path) -> Callable[[nn.Module, tuple[int, int], Path], int]:
    """Return a stand-in for `to_onnx`, most of the time of a build, that takes the graph of a bundle of the network."""

    def take(_network: nn.Module, _input_size: tuple[int, int], path: Path) -> int:
        shutil.copy(bundle / MODEL, path)
        return len(onnx.load(path).graph.node)

    return take


def rows(values: Iterable[float]) -> list[NDArray[np.float32]]:
    """One row for each value."""
    return [np.array([value], np.float32) for value in values]


def caller_of(app: FastAPI) -> httpx.AsyncClient:
    """A client of the application, without sockets."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://swin")


class Visitor:
    """Sends an image to `POST /classify`, or its first pieces only, and hangs up when it is told to."""

    def __init__(self, app: FastAPI, *pieces: bytes, is_whole: bool = True) -> None:
        self.sent = list[MutableMapping[str, Any]]()  # to it
        self._app = app
        self._pieces, self._is_whole = list(pieces), is_whole
        self._leaves, self._caller = asyncio.Event(), Caller()
        self.waits = asyncio.Event()  # all it has to say has been said

    async def ask(self) -> None:
        """The request, until it is answered or given up."""
        scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": []}
        state = {"caller": self._caller}
        await self._app(scope | {"app": self._app, "state": state}, self._receive, self._send)

    def leave(self) -> None:
        """Hang up."""
        self._leaves.set()
        self._caller.leave()

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            has_more = bool(self._pieces) or not self._is_whole
            if not has_more:
                self.waits.set()
            return {"type": "http.request", "body": piece, "more_body": has_more}
        self.waits.set()
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)
