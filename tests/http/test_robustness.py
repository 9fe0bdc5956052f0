"""The service when queues are full, deadlines pass, callers leave and engines fail; over HTTP, in process."""

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
    """A gate before every run of the application's engine."""
    (engine,), gate = app.state.service.backend.engines, Gate()
    monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold it)
    return gate


def hold_decoding(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate before every decoding."""
    gate = Gate()

    def held(image: Image.Image, **options: bool) -> Image.Image:
        gate([np.zeros(1)])
        return to_rgb(image, **options)

    monkeypatch.setattr("app.classification.classifier.to_rgb", held)
    return gate


def count(app: FastAPI, name: str, **labels: str) -> float:
    """One sample of the metrics."""
    return app.state.service.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until it is so."""
    while not condition():  # noqa: ASYNC110 (what is asked for announces itself to nobody)
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(app: FastAPI, state: State) -> AsyncIterator[socket.socket]:
    """A caller's socket, with the application at its other end. What is sent at once is there to be read at once."""
    config = uvicorn.Config(app, log_config=None)
    with socket.socket() as listener, socket.socket() as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        caller.connect(listener.getsockname())
        taken, _ = listener.accept()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(config, state, {}), taken)
        yield caller


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.wait_until_entered)


async def test_a_full_queue_answers_429(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the engine busy and the queue full, the next caller is refused with Retry-After; the others are answered."""
    gate = Gate()
    app = create_app(Settings(device="cpu", threads=1, max_batch=1, max_queue_size=2, max_client_batch_size=2))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold it)
        running = asyncio.create_task(caller.post("/classify", content=digit(demo, "two")))
        await asyncio.to_thread(gate.wait_until_entered)
        calls = [asyncio.create_task(caller.post("/classify", content=digit(demo, "two"))) for _ in range(3)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        gate.open(times=3)
        answers = await asyncio.gather(running, *calls)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429]
    (refusal,) = (call.result() for call in refused)
    assert (refusal.json()["code"], refusal.headers["retry-after"]) == ("overloaded", "1")


async def test_a_full_decode_queue_answers_429(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that wait for decoding are bounded as well."""
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


async def test_the_decode_queue_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is what decoding has taken lately, for all who wait."""
    now = [0.0]

    def slow(image: Image.Image, **options: bool) -> Image.Image:
        now[0] += 80.0
        return to_rgb(image, **options)

    app = create_app(Settings(device="cpu", threads=1, decode_threads=1, max_decode_queue_size=2, request_timeout=3600))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        with monkeypatch.context() as patch:
            patch.setattr("app.classification.classifier.time.perf_counter", lambda: now[0])
            patch.setattr("app.classification.classifier.to_rgb", slow)
            await caller.post("/classify", content=PHOTO)
        gate = hold_decoding(monkeypatch)
        calls = [asyncio.create_task(caller.post("/classify", content=PHOTO)) for _ in range(3)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        gate.open(times=2)
        await asyncio.gather(*calls)

    assert [call.result().headers["retry-after"] for call in refused] == ["20"]  # an eighth of 80 s, for each of two


@pytest.mark.usefixtures("all_batches_pay")
async def test_a_request_with_many_images_is_split(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches count images, not requests: five images and a largest batch of two are three runs."""
    app = create_app(Settings(device="cpu", threads=1, max_batch=2))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch)
        gate.open(times=9)
        names = ["one", "two", "three", "four", "five"]
        answer = await caller.post("/classify/batch", files=[("files", digit(demo, name)) for name in names])

    assert names == [result["predictions"][0]["label"] for result in answer.json()["results"]]
    assert len(gate.batches) == 3


async def test_a_refusal_needs_no_body(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the queue full, the body of what is refused anyway is neither read nor decoded."""
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
    assert visitor._pieces == [b"x"]  # noqa: SLF001 (what it still had to send)


async def test_the_bodies_of_all_requests_together_are_bounded(demo: Bundle) -> None:
    """Many callers with large bodies are refused rather than held; what they held is free again when they leave."""
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
async def test_nobody_is_answered_after_the_deadline(held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """X-Request-Timeout shortens a request's own deadline: 504 when it is over, wherever the image is then."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_engine(app, monkeypatch) if held == "engine" else hold_decoding(monkeypatch)
        answer = await caller.post("/classify", content=PHOTO, headers={"X-Request-Timeout": "0.2"})
        gate.open()
        abandoned = sum(count(app, "swin_cancelled_total", stage=stage) for stage in ("decode", "queue", "infer"))

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert abandoned == 0


async def test_an_upload_that_eats_up_the_deadline_is_a_504() -> None:
    """The deadline counts from the request's head: a caller who is slower than its own deadline is told so."""
    app = create_app(Settings(device="cpu", threads=1, request_timeout=0.05))
    async with app.router.lifespan_context(app):
        visitor = Visitor(app, b"half", is_whole=False)
        await visitor.ask()

    assert visitor.sent[0]["status"] == 504


async def test_in_a_batch_each_image_has_its_deadline(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that made it have their results, the others the error."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        gate = hold_decoding(monkeypatch)
        gate.open(times=3)
        began = time.perf_counter()
        for _ in range(2):
            await caller.post("/classify", content=digit(demo))
        enough = max(0.8, 10 * (time.perf_counter() - began))  # for one digit, on a machine as busy as now
        files = [("files", digit(demo)), ("files", PHOTO)]  # the digit is decoded in place
        answer = await caller.post("/classify/batch", files=files, headers={"X-Request-Timeout": f"{enough:.3f}"})
        gate.open()

    first, second = answer.json()["results"]
    assert first["predictions"][0]["label"] == "two"
    assert second["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", ""])
async def test_a_timeout_that_is_none_is_refused(value: str, demo: Bundle) -> None:
    """X-Request-Timeout is a positive number of seconds."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        answer = await caller.post("/classify", content=digit(demo), headers={"X-Request-Timeout": value})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


async def test_a_caller_who_leaves_while_uploading_is_let_go() -> None:
    """What it sent is dropped, and it is counted as one who left in the stage `read`."""
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


async def test_a_caller_who_leaves_the_decode_queue_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that waits for a decode thread costs nothing more once its caller has left."""
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
        depth = app.state.service.classifier.decoding

    assert (visitor.sent, depth, last.status_code) == ([], 0, 200)
    assert len(gate.batches) == 2  # decodings: of the first, and of the last
    assert count(app, "swin_cancelled_total", stage="decode") == 1


@pytest.mark.parametrize("stage", ["queue", "infer"])
async def test_a_caller_that_hangs_up_is_let_go(stage: str, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is abandoned as soon as the connection closes, is counted, and nothing is sent to nobody."""
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


async def test_a_caller_that_leaves_twice_is_counted_once(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost after a refusal says it again: nobody else, the service least of all, has ended it."""
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


async def test_a_caller_that_leaves_during_the_drain_does_not_hold_it_up(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in the queue is finished before the end, unless its caller has left: then it is not run."""
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
async def test_a_caller_of_a_long_body_is_heard_when_it_leaves(
    kib: int, demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading pauses after 64 KiB at once, and goes on when all of the body is here: who then leaves is let go."""
    image, last = digit(demo).ljust(kib * 2**10, b"\0"), 81 * 2**10
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), asyncio.timeout(HANG_SECONDS):
        gate, state = hold_engine(app, monkeypatch), State(SETTINGS, app.state.service)
        async with connected(app, state) as caller:
            caller.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n".encode())
            await until(lambda: bool(state.tasks))  # the body is waited for
            caller.sendall(image[:-last])
            await until(lambda: state.service.uploaded == len(image) - last)
            caller.sendall(image[-last:])
            await entered(gate)
        await until(lambda: not state.tasks)
        gate.open()

    assert count(app, "swin_cancelled_total", stage="infer") == 1
    assert count(app, "swin_requests_total", route="/classify", code="499") == 1


@pytest.mark.parametrize("failure", ["exception", "shape", "nan"])
async def test_a_failed_engine_is_replaced(failure: str, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch is a 500; another engine is opened, proved and serves, and `GET /model` and metrics show that one."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        (old,) = app.state.service.backend.engines
        monkeypatch.setattr(old, "_session", FailingSession(old._session, failure))  # noqa: SLF001 (to break it)
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
    """Two engines that lose their session are restarted with one between them, not with one each."""
    app = create_app(SETTINGS.model_copy(update={"engines": 2}))
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        engines = app.state.service.backend.engines
        old = list(engines)
        broken = FailingSession(old[0]._session, "exception")  # noqa: SLF001 (to break it)
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


async def test_a_service_without_engine_asks_to_be_restarted(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no other engine can be proved, requests hear 503, and so does who asks whether the process lives."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", FailingSession(engine._session, "exception"))  # noqa: SLF001 (to break it)
        monkeypatch.setattr("app.inference.pool.open_proved", None)
        failed = await caller.post("/classify", content=digit(demo))
        await until(lambda: not app.state.service.batcher.alive)
        refused = await caller.post("/classify", content=digit(demo))
        live, ready = await caller.get("/health/live"), await caller.get("/health/ready")

    assert failed.status_code == 500
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert "retry-after" in refused.headers
    assert (live.status_code, live.json()["status"]) == (503, "broken")
    assert (ready.status_code, ready.json()["status"]) == (503, "broken")


async def test_the_second_signal_waits_for_nobody(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever still waits for the engine then hears that the service shuts down, and the process can end."""
    gate = Gate()
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        settings = Settings(device="cpu", drain_delay=3600)
        server = Server(uvicorn.Config(app), settings, app.state.service)
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold it)
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


def test_who_has_left_is_not_told_again() -> None:
    """A caller leaves once, however often its connection says so: one cancellation is one caller's."""
    told = list[str]()
    caller = ClientState()
    caller.on_disconnect = lambda: told.append("gone")

    caller.disconnect()
    caller.disconnect()

    assert told == ["gone"]


async def test_nobody_connects_after_the_last_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes from there to the end of the listener: the end would reset the connection."""
    late = list[str]()

    def accepted_late(listener: socket.socket) -> list[socket.socket]:
        connections = _accepted(listener)
        with contextlib.suppress(TimeoutError), socket.create_connection(listener.getsockname(), timeout=0.2):
            late.append("connected")
        return connections

    monkeypatch.setattr("app.server.server._accepted", accepted_late)
    service = create_app(SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with service.router.lifespan_context(service):
            server = Server(uvicorn_config(service, SETTINGS), SETTINGS, service.state.service)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await until(lambda: server.started)
            server.should_exit = True
            await serving

    assert late == []
