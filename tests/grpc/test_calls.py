"""Tests of what surrounds each call: limits, deadlines, cancellation, keys, log, metrics, health and reflection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from fastapi import FastAPI
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from app import errors
from app.bundle.load import Bundle
from app.grpc import arrivals, server
from app.grpc.proto.descriptors import SERVICE_NAME
from app.grpc.status import PUSHBACK, STATUS, status_of
from app.settings import Settings
from tests.support.engines import Gate, HeldSession
from tests.support.http2 import GOAWAY, PING, Http2Client
from tests.support.rpc import RpcClient, image_request, parameters, route, rpc_service
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

SETTINGS = Settings(device="cpu", threads=1)
KEY = "0123456789abcdef"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
INFO = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def digit(demo: Bundle, name: str = "two") -> bytes:
    """Return the golden sample of this name."""
    return (demo.folder / "golden" / f"{name}.png").read_bytes()


def hold_engine(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Put a gate before each run of the service's engine."""
    (engine,), gate = app.state.service.backend.engines, Gate()
    monkeypatch.setattr(engine, "_session", HeldSession(engine._session, gate))  # noqa: SLF001 (to hold each run)
    return gate


def count(app: FastAPI, name: str, **labels: str) -> float:
    """Return one sample of the metrics, or 0."""
    return app.state.service.metrics.registry.get_sample_value(name, labels) or 0.0


def requests(app: FastAPI, code: int, name: str = "ModelInfer") -> float:
    """Return the number of calls of an RPC that ended with this code."""
    return count(app, "swin_requests_total", route=route(name), code=str(code))


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110 (the condition has no event)
            await asyncio.sleep(0.001)


async def error_of(call: Any) -> Any:
    """Return the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def start(client: RpcClient, demo: Bundle, **options: Any) -> "asyncio.Task[Any]":
    """Start a call with one image."""

    async def infer() -> Any:
        return await client.call("ModelInfer", image_request(digit(demo)), **options)

    return asyncio.create_task(infer())


async def silent_calls(client: RpcClient, name: str, number: int) -> list[Any]:
    """Start calls that send no message. They arrive in the order of the list."""
    calls = []
    for count in range(1, number + 1):
        calls.append(client.channel.stream_unary(name)())
        await until(partial(lambda count: client.in_progress == count, count))
    return calls


def test_every_error_has_a_status() -> None:
    """Each class of the error tree has a gRPC status, and only errors that a retry can help are UNAVAILABLE."""

    def leaves(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
        below = [leaf for each in kind.__subclasses__() for leaf in leaves(each)]
        return below or [kind]

    found = {kind.__name__: status_of(kind.__new__(kind)).name for kind in leaves(errors.ServiceError)}
    unavailable = {name for name, status in found.items() if status == "UNAVAILABLE"}

    assert unavailable == {"Overloaded", "NotReady", "Draining", "TooManyConnections", "TooManyCalls"}
    assert found["InvalidParameter"] == found["UnreadableImage"] == "INVALID_ARGUMENT"
    assert found["EngineFailed"] == found["InternalError"] == "INTERNAL"
    assert set(STATUS.values()) == {StatusCode[status] for status in found.values()}


async def test_a_full_queue_is_unavailable_with_a_pushback(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call for a full queue gets a time for its retry before its message is read. The other calls succeed."""
    settings = Settings(device="cpu", threads=1, max_batch=1, max_queue_size=1, max_client_batch_size=1)
    async with rpc_service(settings) as (app, client):
        gate = hold_engine(app, monkeypatch)
        running = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        waiting = start(client, demo)
        await until(lambda: app.state.service.batcher.waiting == 1)
        refused = await error_of(client.silent_call("ModelInfer"))
        gate.open(times=2)
        await asyncio.gather(running, waiting)

        assert (refused.code(), refused.details()) == (
            StatusCode.UNAVAILABLE,
            "Too much work is queued. Try again in 1 s.",
        )
        assert dict(refused.trailing_metadata())[PUSHBACK] == "1000"
        assert (requests(app, 429), requests(app, 200)) == (1, 2)
        assert count(app, "swin_rejected_total", reason="overloaded") == 1


async def test_a_canceled_call_cancels_its_image_only(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued image is canceled with its call and counted, and the images beside it get their results."""
    async with rpc_service(SETTINGS) as (app, client):
        gate = hold_engine(app, monkeypatch)
        running = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        before, leaving, after = (start(client, demo) for _ in range(3))
        await until(lambda: app.state.service.batcher.waiting == 3)
        leaving.cancel()
        await until(lambda: requests(app, 499) == 1)
        gate.open(times=4)
        answers = await asyncio.gather(running, before, after)

        assert [np.frombuffer(answer.raw_output_contents[0], "<f4").argmax() for answer in answers] == [2] * 3
        assert count(app, "swin_cancelled_total", stage="queue") == 1
        assert app.state.service.uploaded == 0


async def test_a_call_canceled_before_its_message_is_counted() -> None:
    """A client that disappears while its message arrives is counted in the stage `read`."""
    async with rpc_service(SETTINGS) as (app, client):
        call = client.silent_call("ModelInfer")
        await until(lambda: client.in_progress == 1)
        call.cancel()
        await until(lambda: requests(app, 499) == 1)

        assert count(app, "swin_cancelled_total", stage="read") == 1


async def test_a_canceled_call_without_images_is_not_counted_as_one() -> None:
    """`swin_cancelled_total` counts images, so a call of another RPC adds nothing."""
    async with rpc_service(SETTINGS) as (app, client):
        call = client.silent_call("ModelReady")
        await until(lambda: client.in_progress == 1)
        call.cancel()
        await until(lambda: requests(app, 499, "ModelReady") == 1)

        assert count(app, "swin_cancelled_total", stage="read") == 0


async def test_the_deadline_of_the_client_holds(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call ends at its deadline while its image waits, and counts as 504, not as a disconnect."""
    async with rpc_service(SETTINGS) as (app, client):
        gate = hold_engine(app, monkeypatch)
        running = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        late = await error_of(start(client, demo, timeout=1))
        await until(lambda: requests(app, 504) == 1)
        gate.open()
        await running

        assert late.code() is StatusCode.DEADLINE_EXCEEDED
        assert requests(app, 499) == 0


async def test_the_timeout_of_the_service_holds(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a deadline, or with a later one, gets the error of `request_timeout`."""
    async with rpc_service(Settings(device="cpu", threads=1, request_timeout=0.2)) as (app, client):
        gate = hold_engine(app, monkeypatch)
        late = [await error_of(start(client, demo, timeout=timeout)) for timeout in (None, HANG_SECONDS)]
        gate.open(times=2)

        assert [error.code() for error in late] == [StatusCode.DEADLINE_EXCEEDED] * 2
        assert "within the time limit of the request" in late[0].details()


async def test_a_message_that_does_not_arrive_ends_the_call() -> None:
    """A client that sends no message gets an error after `body_timeout`."""
    async with rpc_service(Settings(device="cpu", threads=1, body_timeout=0.1)) as (_, client):
        error = await error_of(client.silent_call("ModelInfer"))

    assert (error.code(), error.details()) == (
        StatusCode.DEADLINE_EXCEEDED,
        "The message did not arrive in 0.1 s.",
    )


async def test_a_call_without_a_message_is_refused() -> None:
    """A call whose client ends its messages before the first one is an invalid argument."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with rpc_service(SETTINGS) as (_, client):
        error = await error_of(client.channel.stream_unary(route("ModelInfer"))(nothing()))

    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "The call has no message.")


async def test_the_messages_of_all_calls_are_limited_together(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message beyond `max_uploads_mib` is refused while others are held, and accepted after them."""
    settings = Settings(device="cpu", threads=1, max_body_mib=1, max_uploads_mib=1)
    image = digit(demo) + bytes(600_000)
    async with rpc_service(settings) as (app, client):
        gate = hold_engine(app, monkeypatch)
        held = client.call("ModelInfer", image_request(image))
        await asyncio.to_thread(gate.wait_until_entered)
        refused = await error_of(client.call("ModelInfer", image_request(image)))
        gate.open(times=2)
        await held
        await client.call("ModelInfer", image_request(image))

        assert refused.code() is StatusCode.UNAVAILABLE
        assert app.state.service.uploaded == 0


async def test_messages_arrive_one_after_another_if_they_could_fill_the_limit(demo: Bundle) -> None:
    """With room for one message of the largest size, a second one is read when the first call has ended."""
    settings = Settings(device="cpu", threads=1, max_body_mib=1, max_uploads_mib=1)
    async with rpc_service(settings) as (_, client):
        first = client.silent_call("ModelInfer")
        await until(lambda: client.in_progress == 1)
        second = start(client, demo)
        await until(lambda: client.in_progress == 2)
        # The first call holds the only slot, so the second one cannot end. A third one is answered without a message.
        await client.call("ServerLive")
        is_done = second.done()
        first.cancel()
        await second

    assert not is_done


@pytest.mark.parametrize("name", [CHECK, WATCH, route("ModelReady")])
async def test_silent_calls_without_images_hold_up_no_images(
    demo: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages without images do not take the places of those with images."""
    monkeypatch.setattr(arrivals, "SMALL_SECONDS", HANG_SECONDS)
    settings = Settings(device="cpu", threads=1, max_body_mib=1, max_uploads_mib=1, body_timeout=HANG_SECONDS)
    async with rpc_service(settings) as (_, client):
        (silent,) = await silent_calls(client, name, 1)
        await start(client, demo)

        assert not silent.done()


async def test_a_message_without_images_has_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent call of an RPC without images ends before `body_timeout`."""
    monkeypatch.setattr(arrivals, "SMALL_SECONDS", 0.1)
    async with rpc_service(SETTINGS) as (_, client):
        late = await error_of(client.channel.stream_unary(CHECK)())

    assert (late.code(), late.details()) == (StatusCode.DEADLINE_EXCEEDED, "The message did not arrive in 0.1 s.")


async def test_a_message_without_images_takes_the_place_of_the_oldest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent calls cannot keep the others from being answered: the one that waits for the longest time is refused."""
    monkeypatch.setattr(arrivals, "SMALL_SECONDS", HANG_SECONDS)
    async with rpc_service(Settings(device="cpu", threads=1, body_timeout=HANG_SECONDS)) as (_, client):
        silent = await silent_calls(client, CHECK, arrivals.MAX_SMALL_MESSAGES)
        await client.channel.unary_unary(CHECK)(b"")
        refused = await error_of(silent[0])

        assert (refused.code(), refused.details()) == (StatusCode.UNAVAILABLE, errors.Overloaded(1).detail)
        assert not any(call.done() for call in silent[1:])


@pytest.mark.parametrize("name", [CHECK, WATCH, INFO, route("ModelReady")])
async def test_a_message_without_images_is_short(name: str) -> None:
    """A message of more than 64 KiB is refused by an RPC that needs only names."""
    message = HealthCheckRequest(service="a" * 2**16).SerializeToString()
    async with rpc_service(SETTINGS) as (_, client):
        stream = client.channel.stream_stream(name)()
        await stream.write(message)
        refused = await error_of(stream.read())

    assert (refused.code(), refused.details()) == (
        StatusCode.INVALID_ARGUMENT,
        "The message has 65540 bytes. Messages without images have at most 65536.",
    )


async def test_calls_are_limited(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call beyond `max_connections` is refused, so that clients cannot hold calls without number."""
    async with rpc_service(Settings(device="cpu", threads=1, max_connections=1)) as (app, client):
        gate = hold_engine(app, monkeypatch)
        running = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        refused = await error_of(client.call("ServerMetadata"))
        gate.open()
        await running

    assert (refused.code(), refused.details()) == (
        StatusCode.UNAVAILABLE,
        "Too many calls are in progress. Try again.",
    )
    assert dict(refused.trailing_metadata())[PUSHBACK] == "1000"


async def test_responses_that_are_not_read_count_as_calls() -> None:
    """A call is in progress until its client has read the response or has disconnected."""
    async with rpc_service(Settings(device="cpu", threads=1, max_connections=2)) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address, window=0) as silent:
            for _ in range(2):
                silent.call(route("ServerLive"))
            await until(lambda: requests(app, 200, "ServerLive") == 2)
            refused = await error_of(client.call("ServerLive"))
        await until(lambda: client.in_progress == 0)
        await client.call("ServerLive")

    assert refused.code() is StatusCode.UNAVAILABLE


async def test_calls_of_health_count_apart(demo: Bundle) -> None:
    """Calls that need no API key leave room for those that need one."""
    async with rpc_service(Settings(device="cpu", threads=1, max_connections=2)) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address, window=0) as silent:
            for _ in range(2):
                silent.call(route("ServerLive"))
            await until(lambda: requests(app, 200, "ServerLive") == 2)
            await start(client, demo)

            assert client.in_progress >= 2


async def test_one_connection_holds_few_calls() -> None:
    """A client that reads no response gets 128 calls on a connection, and clients on other connections are served."""
    async with rpc_service(SETTINGS) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address, window=0) as silent:
            for _ in range(1000):
                silent.call(route("ServerLive"))
            await asyncio.to_thread(silent.ping)
            await until(lambda: requests(app, 200, "ServerLive") >= 128)
            for _ in range(10):
                await client.call("ServerReady")

            assert requests(app, 200, "ServerLive") == 128


async def test_a_client_can_start_more_calls_than_a_connection_holds() -> None:
    """Calls beyond the limit of their connection wait in the client, and all of them succeed."""
    async with rpc_service(SETTINGS) as (app, client):
        await asyncio.gather(*(client.call("ServerLive") for _ in range(600)))

        assert requests(app, 200, "ServerLive") == 600


async def test_a_connection_without_calls_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes leave of a client that has started no call for some minutes."""
    monkeypatch.setattr(server, "MAX_IDLE_MS", 100)
    async with rpc_service(SETTINGS) as (_, client):
        with await asyncio.to_thread(Http2Client, client.address) as idle:
            await asyncio.to_thread(idle.wait_for, GOAWAY)


async def test_a_connection_without_calls_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server finds out whether a client without calls is still there."""
    monkeypatch.setattr(server, "KEEPALIVE_MS", 100)
    async with rpc_service(SETTINGS) as (_, client):
        with await asyncio.to_thread(Http2Client, client.address) as idle:
            await asyncio.to_thread(idle.wait_for, PING)


async def test_a_client_can_ping_without_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings in the interval that the server allows are answered, however many there are."""
    monkeypatch.setattr(server, "MIN_PING_INTERVAL_MS", 0)
    async with rpc_service(SETTINGS) as (_, client):
        with await asyncio.to_thread(Http2Client, client.address) as idle:
            for _ in range(10):
                await asyncio.to_thread(idle.ping)


@pytest.mark.parametrize("health_open", [True, False])
async def test_a_call_needs_a_key(demo: Bundle, health_open: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """Without a valid key, only health is served, and only if `health_open` is on."""
    settings = Settings(device="cpu", threads=1, api_keys=(KEY,), health_open=health_open)
    async with rpc_service(settings) as (app, client):
        keys: list[list[tuple[str, str]]] = [
            [],
            [("authorization", KEY)],
            [("authorization", "Bearer wrong")],
            [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
        ]
        refused = [await error_of(start(client, demo, metadata=metadata)) for metadata in keys]
        await start(client, demo, metadata=[("authorization", f"bearer {KEY}")])
        check = client.channel.unary_unary(CHECK)
        calls: list[Callable[[], Any]] = [lambda: client.call("ServerReady"), lambda: check(b"")]
        for call in calls:
            if health_open:
                await call()
            else:
                assert (await error_of(call())).code() is StatusCode.UNAUTHENTICATED
        reflected = await error_of(client.channel.stream_stream(INFO)().read())

    assert [error.code() for error in refused] == [StatusCode.UNAUTHENTICATED] * len(keys)
    assert "Authorization: Bearer KEY" in refused[0].details()
    assert reflected.code() is StatusCode.UNAUTHENTICATED
    assert requests(app, 401) == len(keys)


async def test_a_call_has_an_id_and_a_line_in_the_log(demo: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """The ID of the client, or a new one, and its trace are in the log, and the ID is in the trailing metadata."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = [("x-request-id", "a/1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01")]
    async with rpc_service(SETTINGS) as (_, client):
        with caplog.at_level(logging.INFO, "swin.request"):
            call = client.call("ModelInfer", image_request(digit(demo)), metadata=metadata)
            await call
            forged = client.call("ServerLive", metadata=[("x-request-id", "a b")])
            await forged
            ids = [dict(await each.trailing_metadata())["x-request-id"] for each in (call, forged)]
        lines = [vars(record) for record in caplog.records if record.message == "request"]

    assert ids[0] == "a/1"
    assert len(ids[1]) == 32
    assert [(line["client"], line["path"], line["code"], line["grpc_status"]) for line in lines] == [
        ("127.0.0.1", route("ModelInfer"), 200, "OK"),
        ("127.0.0.1", route("ServerLive"), 200, "OK"),
    ]


async def test_a_defect_is_internal_and_logged_once(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is logged with its stack trace. The client gets no details."""

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr("app.protocols.inference.infer", fail)
    async with rpc_service(SETTINGS) as (app, client):
        error = await error_of(start(client, demo))

        assert (error.code(), error.details()) == (StatusCode.INTERNAL, errors.InternalError().detail)
        assert requests(app, 500) == 1
    assert [record.message for record in caplog.records if record.exc_info] == ["unexpected error"]
    assert "a secret" in caplog.text


async def test_an_unknown_rpc_is_not_supported() -> None:
    """RPCs of Triton that the service does not have are refused, and counted under one route."""
    async with rpc_service(SETTINGS) as (app, client):
        error = await error_of(client.channel.unary_unary(route("TraceSetting"))(b""))

        assert error.code() is StatusCode.UNIMPLEMENTED
        assert count(app, "swin_requests_total", route="unknown", code="501") == 1


async def test_health_follows_readiness() -> None:
    """`Check` and `Watch` say NOT_SERVING as soon as the service drains, for the server and for the service by name."""
    async with rpc_service(SETTINGS) as (app, client):
        check = client.channel.unary_unary(CHECK, request, HealthCheckResponse.FromString)
        watch = client.channel.unary_stream(WATCH, request, HealthCheckResponse.FromString)
        names = ("", SERVICE_NAME)
        watching = [watch(HealthCheckRequest(service=name)) for name in names]
        serving = [(await each.read()).status for each in watching]
        checked = [(await check(HealthCheckRequest(service=name))).status for name in names]
        unknown = await error_of(check(HealthCheckRequest(service="cats")))
        app.state.service.is_draining = True
        drained = [(await check(HealthCheckRequest(service=name))).status for name in names]
        ended = [(await each.read()).status for each in watching]

    assert serving == checked == [HealthCheckResponse.SERVING] * 2
    assert drained == ended == [HealthCheckResponse.NOT_SERVING] * 2
    assert (unknown.code(), unknown.details()) == (StatusCode.NOT_FOUND, "There is no service 'cats'.")


def request(message: Any) -> bytes:
    """Return the bytes of a message."""
    data: bytes = message.SerializeToString()
    return data


async def test_reflection_describes_the_services() -> None:
    """A tool can list the services and get the definition of a message, in one stream."""
    async with rpc_service(SETTINGS) as (_, client):
        info = client.channel.stream_stream(INFO, request, ServerReflectionResponse.FromString)
        stream = info()
        await stream.write(ServerReflectionRequest(list_services=""))
        services = [each.name for each in (await stream.read()).list_services_response.service]
        symbols = (SERVICE_NAME, "inference.ModelInferRequest", "grpc.health.v1.Health")
        for symbol in symbols:
            await stream.write(ServerReflectionRequest(file_containing_symbol=symbol))
        found = [(await stream.read()).file_descriptor_response.file_descriptor_proto for _ in symbols]
        await stream.done_writing()

        assert await stream.code() is StatusCode.OK

    assert {SERVICE_NAME, "grpc.health.v1.Health"} <= set(services)
    assert all(found)


async def test_reflection_holds_few_streams() -> None:
    """More than 16 streams of reflection are refused, since each can hold a message of the largest size."""
    async with rpc_service(SETTINGS) as (_, client):
        info = client.channel.stream_stream(INFO, request, ServerReflectionResponse.FromString)
        streams = [info() for _ in range(16)]
        for stream in streams:
            await stream.write(ServerReflectionRequest(list_services=""))
            await stream.read()
        refused = await error_of(info().read())

    assert refused.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_streams_of_health_count_apart_from_calls() -> None:
    """With 64 streams of `Watch`, another one is refused, and calls are served up to their own limit."""
    async with rpc_service(Settings(device="cpu", threads=1, max_connections=1)) as (_, client):
        watch = client.channel.unary_stream(WATCH, request, HealthCheckResponse.FromString)
        streams = [watch(HealthCheckRequest()) for _ in range(64)]
        for stream in streams:
            await stream.read()
        refused = await error_of(watch(HealthCheckRequest()).read())
        await client.call("ServerLive")

    assert (refused.code(), refused.details()) == (
        StatusCode.RESOURCE_EXHAUSTED,
        "64 streams of this RPC are open, which is the maximum. Close one first.",
    )


async def test_a_class_of_errors_is_counted_with_the_code_of_http(demo: Bundle) -> None:
    """Metrics have the code that HTTP has for the same error, so that one alert covers both."""
    async with rpc_service(SETTINGS) as (app, client):
        await error_of(client.call("ModelInfer", image_request(digit(demo), parameters=parameters(timeout=1))))
        await error_of(client.call("ModelInfer", image_request(b"text")))

        assert [requests(app, code) for code in (504, 415)] == [1, 1]
