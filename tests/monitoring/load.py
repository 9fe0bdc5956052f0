"""Requests to one service: classified, refused, canceled and failed ones. Knows nothing about Prometheus."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx

from app.grpc.proto.inference_pb2 import ModelInferResponse
from app.settings import DEMO_BUNDLE
from tests.chaos.broken_engine import inject
from tests.support.rpc import image_request, route
from tests.support.served import Served

DIGIT = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
# Time between two requests of a kind, in seconds, so that the load leaves time for Prometheus.
PAUSE = 0.05


class Load:
    """Threads that send requests of one kind each, until `stop`. `failures` are their exceptions."""

    def __init__(self, served: Served, fault_file: Path) -> None:
        self.url, self._fault_file = served.url, fault_file
        self.failures: list[BaseException] = []
        self._served, self._stopped = served, threading.Event()
        self._client = httpx.Client(base_url=served.url, trust_env=False)
        self._channel = grpc.insecure_channel(served.grpc_address)
        kinds = (self._classify, self._miss_deadline, self._send_text, self._infer, self._call, self._leave)
        self._threads = [threading.Thread(target=self._repeat, args=[kind]) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def fail_a_batch(self) -> None:
        """Let the engine fail once: the service answers 500 and replaces the engine."""
        restarts = self._engine_restarts()
        inject("raise", self._fault_file)
        while self._engine_restarts() == restarts:
            assert not self.failures, self.failures
            time.sleep(PAUSE)

    def stop(self) -> None:
        """Send no more requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._channel.close()

    def _engine_restarts(self) -> str:
        lines = self._client.get("/metrics").text.splitlines()
        return next(line for line in lines if line.startswith("swin_engine_restarts_total"))

    def _repeat(self, send: Callable[[], object]) -> None:
        try:
            while not self._stopped.wait(PAUSE):
                send()
        except BaseException as error:  # noqa: BLE001 (the test reports it)
            self.failures.append(error)

    def _classify(self) -> None:
        self._client.post("/classify", content=DIGIT)

    def _miss_deadline(self) -> None:
        self._client.post("/classify", content=DIGIT, headers={"X-Request-Timeout": "0.001"})

    def _send_text(self) -> None:
        self._client.post("/classify", content=b"not an image")

    def _infer(self) -> None:
        """Send pixels of four images, which become a batch: only batches of two or more fail."""
        shape = (4, 32, 32, 3)
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": [0] * math.prod(shape)}
        self._client.post("/v2/models/digits/infer", json={"inputs": [tensor]})

    def _call(self) -> None:
        infer = self._channel.unary_unary(route("ModelInfer"), None, ModelInferResponse.FromString)
        with contextlib.suppress(grpc.RpcError):  # the batch that fails
            infer(image_request(DIGIT).SerializeToString())

    def _leave(self) -> None:
        """Disconnect before the content is complete."""
        head = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        with self._served.connect() as connection:
            connection.sendall(head + DIGIT[:10])


@contextlib.contextmanager
def service_under_load(folder: Path) -> Iterator[Load]:
    """Start a service with HTTP and gRPC, and yield its load."""
    fault_file = folder / "fault"
    served = Served("--grpc-port", "0", module="tests.chaos.broken_engine", BROKEN_ENGINE=str(fault_file))
    try:
        load = Load(served, fault_file)
        try:
            yield load
        finally:
            load.stop()
        assert not load.failures, load.failures
    finally:
        served.stop()
