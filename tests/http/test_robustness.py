"""Tests of the service under full queues, passed deadlines, disconnects and failing engines, in one process."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from app.bundle.load import Bundle
from app.http.client_state import ClientState
from app.images.decode import to_rgb
from app.main import create_app
from app.server.protocol import Connection, State
from app.server.server import Server, _accept_all, uvicorn_config
from app.settings import Settings
from tests.references.draw import draw_picture
from tests.support.clients import Visitor, caller_of
from tests.support.engines import FailingSession, Gate, HeldSession
from tests.support.images import encode
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

SETTINGS = Settings(device="cpu", threads=1)
PHOTO = encode(draw_picture(300, 300))


def digit(demo: Bundle, name: str = "two") -> bytes:
    return (demo.folder / f"golden/{name}.png").read_bytes()


def hold_engine(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Put a gate before each run of the application's engine."""
    (engine,), gate = app.state.service.backend.engines, Gate()
    monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold each run)
    return gate


def hold_decoding(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Put a gate before each decoding."""
    gate = Gate()

    def held(image: Image.Image, **options: bool) -> Image.Image:
        gate([np.zeros(1)])
        return to_rgb(image, **options)

    monkeypatch.setattr("app.images.reading.to_rgb", held)
    return gate


def count(app: FastAPI, name: str, **labels: str) -> float:
    """Return one sample of the metrics, or 0."""
    return app.state.service.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    while not condition():  # noqa: ASYNC110 (the condition has no event)
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(app: FastAPI, state: State) -> AsyncIterator[socket.socket]:
    """Yield a client's socket that is connected to the application.

    The buffers are large, so that bytes which are sent at once can be read at once.
    """
    config = uvicorn.Config(app, log_config=None)
    with socket.socket() as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(config, state, {}), accepted)
        yield client


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.wait_until_entered)


async def test_a_full_queue_answers_429(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine is busy and the queue full, the next request gets 429 with Retry-After; the others succeed."""
    app = create_app(Settings(device="cpu", threads=1, max_batch=1, max_queue_size=2, max_client_batch_size=2))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch)
        running = asyncio.create_task(caller.post("/classify", content=digit(demo, "two")))
        await entered(gate)
        calls = [asyncio.create_task(caller.post("/classify", content=digit(demo, "two"))) for _ in range(3)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        gate.open(times=3)
        answers = await asyncio.gather(running, *calls)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429]
    (refusal,) = (call.result() for call in refused)
    assert (refusal.json()["code"], refusal.headers["retry-after"]) == ("overloaded", "1")


async def test_a_full_decode_queue_answers_429(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the decode queue is full, the next request gets 429; the others succeed."""
    gate = hold_decoding(monkeypatch)
    app = create_app(Settings(device="cpu", threads=1, decode_threads=1, max_decode_queue_size=2))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        photo = encode(draw_picture(300, 300))
        calls = [asyncio.create_task(caller.post("/classify", content=photo)) for _ in range(3)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        gate.open(times=2)
        answers = await asyncio.gather(*calls)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    assert [call.result().json()["code"] for call in refused] == ["overloaded"]


async def test_an_image_that_is_refused_before_its_body_counts_under_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """The admission refuses before the router chooses a route. The label is the route's path in spite of that."""
    gate = hold_decoding(monkeypatch)
    app = create_app(Settings(device="cpu", threads=1, decode_threads=1, max_decode_queue_size=1))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        first = asyncio.create_task(caller.post("/classify", content=PHOTO))
        await entered(gate)
        paths = ("/classify", "/v2/models/digits/infer", "/predictions/digits")
        refused = [(await caller.post(path, content=PHOTO)).status_code for path in paths]
        gate.open()
        await first

    assert refused == [429, 429, 429]
    routes = ("/classify", "/v2/models/{name}/infer", "/predictions/{name}")
    assert [count(app, "swin_requests_total", route=route, code="429") for route in routes] == [1, 1, 1]


async def test_the_decode_queue_sets_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is the recent time of decoding, multiplied by the images in the decode queue."""
    now = [0.0]

    def slow(image: Image.Image, **options: bool) -> Image.Image:
        now[0] += 80.0
        return to_rgb(image, **options)

    app = create_app(Settings(device="cpu", threads=1, decode_threads=1, max_decode_queue_size=2, request_timeout=3600))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        with monkeypatch.context() as patch:
            patch.setattr("app.classification.decoding.time.perf_counter", lambda: now[0])
            patch.setattr("app.images.reading.to_rgb", slow)
            await caller.post("/classify", content=PHOTO)
        gate = hold_decoding(monkeypatch)
        calls = [asyncio.create_task(caller.post("/classify", content=PHOTO)) for _ in range(3)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        gate.open(times=2)
        await asyncio.gather(*calls)

    assert [call.result().headers["retry-after"] for call in refused] == ["20"]  # an eighth of 80 s, for each of two


@pytest.mark.usefixtures("all_batches_pay")
async def test_a_request_with_many_images_is_split(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with five images runs in three batches if a batch has at most two images."""
    app = create_app(Settings(device="cpu", threads=1, max_batch=2))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch)
        gate.open(times=9)
        names = ["one", "two", "three", "four", "five"]
        answer = await caller.post("/classify/batch", files=[("files", digit(demo, name)) for name in names])

    assert names == [result["predictions"][0]["label"] for result in answer.json()["results"]]
    assert len(gate.batches) == 3


async def test_a_refusal_needs_no_body(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full queue, a request is refused before its body is read."""
    app = create_app(Settings(device="cpu", threads=1, max_batch=1, max_queue_size=1, max_client_batch_size=1))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch)
        running = asyncio.create_task(caller.post("/classify", content=digit(demo)))
        await entered(gate)
        waiting = asyncio.create_task(caller.post("/classify", content=digit(demo)))
        await until(lambda: app.state.service.batcher.waiting == 1)
        visitor = Visitor(app, b"x")
        await visitor.ask()
        gate.open(times=2)
        await asyncio.gather(running, waiting)

    assert visitor.sent[0]["status"] == 429
    assert b"retry-after" in dict(visitor.sent[0]["headers"])
    assert visitor._pieces == [b"x"]  # noqa: SLF001 (the unread body)


async def test_the_bodies_of_all_requests_are_limited_together(demo: Bundle) -> None:
    """A body above `max_uploads_mib` is refused, until another client disconnects and frees its share."""
    app = create_app(Settings(device="cpu", threads=1, max_body_mib=2, max_uploads_mib=3))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        visitor = Visitor(app, bytes(2 * 2**20), is_whole=False)
        request = asyncio.create_task(visitor.ask())
        await visitor.waits.wait()
        refused = await caller.post("/classify", content=bytes(2 * 2**20))
        held = app.state.service.uploaded
        visitor.leave()
        await request
        after = await caller.post("/classify", content=digit(demo))
        left = app.state.service.uploaded

    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert (held, left) == (2 * 2**20, 0)
    assert after.status_code == 200


@pytest.mark.parametrize("held", ["engine", "decoding"])
async def test_a_request_fails_at_its_deadline(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of X-Request-Timeout, the response is 504, whether the image is decoded or computed then."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch) if held == "engine" else hold_decoding(monkeypatch)
        answer = await caller.post("/classify", content=PHOTO, headers={"X-Request-Timeout": "0.2"})
        gate.open()
        cancelled = sum(count(app, "swin_cancelled_total", stage=stage) for stage in ("decode", "queue", "infer"))

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert cancelled == 0


async def test_an_upload_after_the_deadline_is_a_504() -> None:
    """The deadline counts from the header section, so an upload can exceed it."""
    app = create_app(Settings(device="cpu", threads=1, request_timeout=0.05))
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, b"half", is_whole=False)
        await visitor.ask()

    assert visitor.sent[0]["status"] == 504


async def test_in_a_batch_each_image_has_its_deadline(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch, images that are classified in time have results, the others the error."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_decoding(monkeypatch)
        gate.open(times=3)
        began = time.perf_counter()
        for _ in range(2):
            await caller.post("/classify", content=digit(demo))
        enough = max(0.8, 10 * (time.perf_counter() - began))  # enough for one digit on a machine as busy as now
        files = [("files", digit(demo)), ("files", PHOTO)]  # the digit is decoded in place
        answer = await caller.post("/classify/batch", files=files, headers={"X-Request-Timeout": f"{enough:.3f}"})
        gate.open()

    first, second = answer.json()["results"]
    assert first["predictions"][0]["label"] == "two"
    assert second["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", ""])
async def test_an_invalid_timeout_is_refused(value: str, demo: Bundle) -> None:
    """An X-Request-Timeout that is not a positive number is refused."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        answer = await caller.post("/classify", content=digit(demo), headers={"X-Request-Timeout": value})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


async def test_a_disconnect_during_the_upload_ends_the_request() -> None:
    """After a disconnect during the upload, the body is dropped, and the stage `read` is counted."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, b"half", is_whole=False)
        request = asyncio.create_task(visitor.ask())
        await visitor.waits.wait()
        visitor.leave()
        await request
        held = app.state.service.uploaded

    assert (visitor.sent, held) == ([], 0)
    assert count(app, "swin_cancelled_total", stage="read") == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


async def test_a_disconnect_in_the_decode_queue_saves_the_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image in the decode queue is not decoded after its client has disconnected."""
    app = create_app(Settings(device="cpu", threads=1, decode_threads=1))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_decoding(monkeypatch)
        first = asyncio.create_task(caller.post("/classify", content=PHOTO))
        await entered(gate)
        visitor = Visitor(app, PHOTO)
        request = asyncio.create_task(visitor.ask())
        await visitor.waits.wait()
        visitor.leave()
        await request
        gate.open(times=2)
        last = await caller.post("/classify", content=PHOTO)
        await first
        depth = app.state.service.classifier.decoder.in_progress

    assert (visitor.sent, depth, last.status_code) == ([], 0, 200)
    assert len(gate.batches) == 2  # decodings: the first and the last image
    assert count(app, "swin_cancelled_total", stage="decode") == 1


@pytest.mark.parametrize("stage", ["queue", "infer"])
async def test_a_disconnect_cancels_the_image(stage: str, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued or running image is canceled at the disconnect and counted, and no response is sent."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch)
        before = [asyncio.create_task(caller.post("/classify", content=digit(demo)))] if stage == "queue" else []
        if before:
            await entered(gate)
        visitor = Visitor(app, digit(demo))
        request = asyncio.create_task(visitor.ask())
        await (visitor.waits.wait() if before else entered(gate))
        visitor.leave()
        await request
        gate.open()
        await asyncio.gather(*before)

    assert visitor.sent == []
    assert gate.batches == [1]
    assert count(app, "swin_cancelled_total", stage=stage) == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


async def test_a_server_can_cancel_the_request_of_a_client_that_left(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reports no disconnect but cancels the request gets no response, and the code is 499."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app):
        gate = hold_engine(app, monkeypatch)
        visitor = Visitor(app, digit(demo))
        request = asyncio.create_task(visitor.ask())
        await entered(gate)
        request.cancel()
        await request
        gate.open()

    assert visitor.sent == []
    assert count(app, "swin_cancelled_total", stage="infer") == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


async def test_a_disconnect_that_is_reported_twice_counts_once(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost after a refusal reports the disconnect again, which has no effect."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app):
        gate = hold_engine(app, monkeypatch)
        visitor = Visitor(app, digit(demo))
        request = asyncio.create_task(visitor.ask())
        await entered(gate)
        visitor.leave()
        visitor.leave()
        await request
        gate.open()

    assert visitor.sent == []
    assert count(app, "swin_cancelled_total", stage="infer") == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


async def test_a_disconnect_during_the_drain_cancels_the_image(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain runs all queued images, except those of disconnected clients."""
    app = create_app(SETTINGS.model_copy(update={"max_batch": 1}))
    async with app.router.lifespan_context(app), asyncio.timeout(HANG_SECONDS), caller_of(app) as caller:
        gate, batcher = hold_engine(app, monkeypatch), app.state.service.batcher
        first = asyncio.create_task(caller.post("/classify", content=digit(demo)))
        await entered(gate)
        visitor = Visitor(app, digit(demo))
        request = asyncio.create_task(visitor.ask())
        await until(lambda: batcher.waiting == 1)
        drain = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        visitor.leave()
        await request
        gate.open()
        await drain
        answer = await first

    assert (answer.status_code, visitor.sent, gate.batches) == (200, [], [1])
    assert count(app, "swin_cancelled_total", stage="queue") == 1


@pytest.mark.parametrize("kib", [81, 317])
async def test_a_disconnect_after_a_long_body_is_noticed(
    kib: int, demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading pauses after 64 KiB and resumes after the body, so that a disconnect is noticed."""
    image, last = digit(demo).ljust(kib * 2**10, b"\0"), 81 * 2**10
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), asyncio.timeout(HANG_SECONDS):
        gate, state = hold_engine(app, monkeypatch), State(SETTINGS, app.state.service)
        async with connected(app, state) as client:
            client.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode())
            await until(lambda: bool(state.tasks))  # the application waits for the body
            client.sendall(image[:-last])
            await until(lambda: state.service.uploaded == len(image) - last)
            client.sendall(image[-last:])
            await entered(gate)
        await until(lambda: not state.tasks)
        gate.open()

    assert count(app, "swin_cancelled_total", stage="infer") == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


@pytest.mark.parametrize("failure", ["exception", "shape", "nan"])
async def test_a_failed_engine_is_replaced(failure: str, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch of a failed engine is a 500; then another engine is opened and serves, and the restart is counted."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        (old,) = app.state.service.backend.engines
        monkeypatch.setattr(old, "_session", FailingSession(old._session, failure))  # noqa: SLF001 (to let it fail)
        failed = await caller.post("/classify", content=digit(demo))
        not_ready = await caller.get("/health/ready")
        live = await caller.get("/health/live")
        answer = await caller.post("/classify", content=digit(demo))
        ready = await caller.get("/health/ready")
        (new,) = app.state.service.backend.engines

    assert (failed.status_code, failed.json()["code"]) == (500, "engine_failed")
    assert (not_ready.status_code, not_ready.json()["status"], live.status_code) == (503, "recovering", 200)
    assert answer.json()["predictions"][0]["label"] == "two"
    assert ready.status_code == 200
    assert new is not old
    assert count(app, "swin_engine_restarts_total") == 1


async def test_engines_that_shared_a_session_share_the_next(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines that share a failed session are restarted with one new session."""
    app = create_app(SETTINGS.model_copy(update={"instances_per_device": 2}))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        engines = app.state.service.backend.engines
        old = list(engines)
        broken = FailingSession(old[0]._session, "exception")  # noqa: SLF001 (to let it fail)
        for engine in old:
            monkeypatch.setattr(engine, "_session", broken)
        while len({*old, *engines}) < 4:
            failed = await caller.post("/classify", content=digit(demo))
            assert failed.status_code in {200, 500}
        answer = await caller.post("/classify", content=digit(demo))
        first, second = engines

    assert answer.json()["predictions"][0]["label"] == "two"
    assert first is not second
    assert first.shares_session(second)
    assert not first.shares_session(old[0])
    assert count(app, "swin_engine_restarts_total") == 2


async def test_a_service_without_an_engine_is_broken(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no other engine can be verified, requests, liveness and readiness get 503."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", FailingSession(engine._session, "exception"))  # noqa: SLF001 (to let it fail)
        monkeypatch.setattr("app.inference.pool.open_verified", None)
        failed = await caller.post("/classify", content=digit(demo))
        await until(lambda: not app.state.service.batcher.alive)
        refused = await caller.post("/classify", content=digit(demo))
        live, ready = await caller.get("/health/live"), await caller.get("/health/ready")

    assert failed.status_code == 500
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert "retry-after" in refused.headers
    assert (live.status_code, live.json()["status"]) == (503, "broken")
    assert (ready.status_code, ready.json()["status"]) == (503, "broken")


async def test_the_second_signal_ends_the_drain(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second signal, a waiting request gets 503 `draining`, and the process ends."""
    gate = Gate()
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        settings = Settings(device="cpu", drain_delay=3600)
        server = Server(uvicorn.Config(app), settings, app.state.service)
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold each run)
        call = asyncio.create_task(caller.post("/classify", content=digit(demo, "two")))
        await asyncio.to_thread(gate.wait_until_entered)
        server.handle_exit(signal.SIGTERM, None)
        first = (server.should_exit, call.done(), (await caller.get("/health/ready")).json()["status"])
        server.handle_exit(signal.SIGTERM, None)
        answer = await call
        gate.open()

    assert first == (False, False, "draining")
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert server.should_exit
    assert server.force_exit


def test_on_disconnect_is_called_once() -> None:
    """`ClientState.disconnect` calls `on_disconnect` the first time only."""
    calls = list[str]()
    client_state = ClientState()
    client_state.on_disconnect = lambda: calls.append("disconnected")

    client_state.disconnect()
    client_state.disconnect()

    assert calls == ["disconnected"]


async def test_no_connection_follows_the_last_accepted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client can connect between the last `accept` and the close of the listener, and then be reset."""
    late = list[str]()

    def accept_and_connect(listener: socket.socket) -> list[socket.socket]:
        connections = _accept_all(listener)
        with contextlib.suppress(TimeoutError), socket.create_connection(listener.getsockname(), timeout=0.2):
            late.append("connected")
        return connections

    monkeypatch.setattr("app.server.server._accept_all", accept_and_connect)
    service = create_app(SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with service.router.lifespan_context(service):
            server = Server(uvicorn_config(service, SETTINGS), SETTINGS, service.state.service)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await until(lambda: server.started)
            server.should_exit = True
            await serving

    assert late == []
