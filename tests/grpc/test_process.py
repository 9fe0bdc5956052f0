"""Tests of gRPC in a real process: its port, its start and its drain, alone and with HTTP workers."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse

from app.bundle.load import Bundle
from app.errors import StartError
from app.grpc import extra
from app.system.processes import process_stat
from benchmarks.load.served import START_SECONDS
from tests.support.http2 import Http2Client
from tests.support.rpc import RpcClient, image_request, route
from tests.support.served import Served, run

pytestmark = pytest.mark.anyio

# Calls that a client starts, one after another, until the service has ended.
CLIENTS = 8


@pytest.fixture
def rpc_served(http_workers: str) -> Iterator[Served]:
    """Start a service with gRPC, and stop it after the test."""
    served = Served("--http-workers", http_workers, "--grpc-port", "0")
    try:
        yield served
    finally:
        served.stop()


def digit(demo: Bundle) -> bytes:
    """Return a golden sample."""
    return (demo.folder / "golden/seven.png").read_bytes()


async def test_a_drain_under_load_loses_no_call(rpc_served: Served, demo: Bundle) -> None:
    """Every call that the service has accepted is answered, others are UNAVAILABLE, and the process exits with 0."""
    accounts = rpc_served.watch_requests()
    answered, codes = set[str](), list[StatusCode]()

    async def ask(number: int) -> None:
        # Channels of one process share their connections unless their options differ.
        async with grpc.aio.insecure_channel(rpc_served.grpc_address, [("number", number)]) as channel:
            client = RpcClient(channel)
            for turn in range(1_000_000):
                identity = f"{number}-{turn}"
                try:
                    await client.call("ModelInfer", image_request(digit(demo)), metadata=[("x-request-id", identity)])
                    answered.add(identity)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
                    return

    async with asyncio.timeout(START_SECONDS), asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(ask(number))
        while len(answered) < 20 * CLIENTS:  # noqa: ASYNC110 (the count has no event)
            await asyncio.sleep(0.01)
        rpc_served.process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(rpc_served.process.wait, START_SECONDS)
    await asyncio.to_thread(rpc_served.stop)

    assert code == 0
    assert codes == [StatusCode.UNAVAILABLE] * CLIENTS
    assert answered == {identity for identity, status in accounts.requests if status == 200}


async def test_health_goes_off_before_calls_are_refused(http_workers: str, demo: Bundle) -> None:
    """During `drain_delay`, health is NOT_SERVING and calls are still answered."""
    served = Served("--http-workers", http_workers, "--grpc-port", "0", "--drain-delay", "3600")
    try:
        async with grpc.aio.insecure_channel(served.grpc_address) as channel:
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch", None, HealthCheckResponse.FromString)(b"")
            first = (await watch.read()).status
            served.process.send_signal(signal.SIGTERM)
            second = (await watch.read()).status
            await RpcClient(channel).call("ModelInfer", image_request(digit(demo)))
    finally:
        served.stop()

    assert [first, second] == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]


async def test_a_second_signal_ends_calls_in_progress(http_workers: str) -> None:
    """A call whose message does not arrive holds up the first drain, but not the second."""
    served = Served(
        "--http-workers", http_workers, "--grpc-port", "0", "--drain-timeout", "3600", "--body-timeout", "3600"
    )
    try:
        async with grpc.aio.insecure_channel(served.grpc_address) as channel:
            client = RpcClient(channel)
            call = client.silent_call("ModelInfer")
            await call.wait_for_connection()
            await client.call("ServerLive")  # on the same connection: the call before it has arrived, too
            served.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(served.wait_for, "draining")
            served.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(served.process.wait, START_SECONDS)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
    finally:
        served.stop()

    assert code == 0
    assert error.value.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}, error.value


def test_responses_that_are_not_read_do_not_delay_the_exit(http_workers: str) -> None:
    """The process ends after `drain_timeout` with 0, although a client reads neither a response nor a stream."""
    options = ("--http-workers", http_workers, "--grpc-port", "0", "--drain-timeout", "1")
    served = Served(*options)
    try:
        with Http2Client(served.grpc_address, window=0) as silent:
            for name in (route("ServerLive"), "/grpc.health.v1.Health/Watch"):
                silent.call(name)
            silent.ping()
            served.process.send_signal(signal.SIGTERM)
            code = served.process.wait(START_SECONDS)
    finally:
        served.stop()

    assert code == 0


async def test_calls_of_all_http_workers_are_counted(demo: Bundle) -> None:
    """Each HTTP worker serves calls: connections get to both, and the statistics are those of all processes."""
    served = Served("--http-workers", "2", "--grpc-port", "0")
    try:
        events = [event for event in served.starting if event["message"] == "HTTP worker started"]
        before = [cpu_seconds(event["pid"]) for event in events]
        for number in range(20):
            async with grpc.aio.insecure_channel(served.grpc_address, [("number", number)]) as channel:
                client = RpcClient(channel)
                for _ in range(20):
                    await client.call("ModelInfer", image_request(digit(demo)))
        after = [cpu_seconds(event["pid"]) for event in events]
        async with grpc.aio.insecure_channel(served.grpc_address) as channel:
            statistics = await RpcClient(channel).call("ModelStatistics")
    finally:
        served.stop()

    assert all(late > early for early, late in zip(before, after, strict=True))
    assert statistics.model_stats[0].inference_count == 400


def cpu_seconds(pid: object) -> int:
    """Return the CPU time of a process, in ticks."""
    fields = process_stat(int(str(pid)))
    return int(fields[14 - 3]) + int(fields[15 - 3])  # proc(5) counts from 1


def test_a_port_in_use_is_one_sentence_and_exit_code_2(rpc_served: Served, http_workers: str) -> None:
    """The port of another swin-serve or of another program is refused before the bundle is read."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [rpc_served.grpc_address.rpartition(":")[2], str(other.getsockname()[1])]
        done = [run("run", "--port", "0", "--grpc-port", port, "--http-workers", http_workers) for port in ports]

    for each, port in zip(done, ports, strict=True):
        assert each.returncode == 2
        assert each.stderr == (
            f"swin-serve: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another --grpc-port\n"
        )


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the start names the missing package and the command that installs it."""
    monkeypatch.setattr(extra, "PACKAGES", ("grpc", "no_such_package.below"))

    with pytest.raises(StartError, match=r"no_such_package.below is missing: pip install 'swin-serve\[grpc\]'"):
        extra.check()


def test_without_the_setting_grpc_is_not_imported(http_workers: str) -> None:
    """A service without `grpc_port` has no gRPC: none of its files is mapped into the process."""
    served = Served("--http-workers", http_workers)
    try:
        maps = Path(f"/proc/{served.process.pid}/maps").read_text()
    finally:
        served.stop()

    assert "cygrpc" not in maps
