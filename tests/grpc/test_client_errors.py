"""Tests of `app/grpc/client_errors.py`: what a client does is no defect, neither in metrics nor in the log."""

import asyncio
import logging

import pytest
from grpc.aio import InternalError

from app.grpc.client_errors import ClientErrors
from tests.grpc.test_calls import SETTINGS, WATCH, count, requests, until
from tests.support.http2 import Http2Client
from tests.support.rpc import rpc_service

pytestmark = pytest.mark.anyio

# Streams whose client disconnects. Some are cancelled first, and for some the write fails first.
STREAMS = 64


async def test_a_disconnect_while_a_stream_is_written_is_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """The calls count with 499, the log has the address of their client and no stack trace."""
    async with rpc_service(SETTINGS) as (app, client):
        with caplog.at_level(logging.INFO, "swin.request"):
            with await asyncio.to_thread(Http2Client, client.address, window=0) as silent:
                for _ in range(STREAMS):
                    silent.call(WATCH)
                await until(lambda: client.in_progress == STREAMS)
                await asyncio.to_thread(silent.ping)
            await until(lambda: client.in_progress == 0)
        lines = [vars(record) for record in caplog.records if record.message == "request"]

        assert count(app, "swin_requests_total", route=WATCH, code="499") == STREAMS
    assert {(line["client"], line["grpc_status"]) for line in lines} == {("127.0.0.1", "CANCELLED")}
    assert not any(record.exc_info for record in caplog.records)


async def test_responses_that_are_not_read_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A client that disconnects before it reads its responses leaves no stack trace in the log."""
    async with rpc_service(SETTINGS) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address, window=0) as silent:
            for _ in range(STREAMS):
                silent.call("/inference.GRPCInferenceService/ServerLive")
            await until(lambda: requests(app, 200, "ServerLive") == STREAMS)
        await until(lambda: client.in_progress == 0)

    assert not any(record.exc_info for record in caplog.records)


async def test_metadata_that_are_no_text_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A call with metadata that are not UTF-8 is served, and leaves no stack trace in the log."""
    async with rpc_service(SETTINGS) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address) as other:
            other.call("/inference.GRPCInferenceService/ServerLive", metadata={"x-name": "\udcff"})
            await until(lambda: requests(app, 200, "ServerLive") == 1)

    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "error", [InternalError("Failed grpc_call_start_batch: 8"), ValueError("a defect"), RuntimeError("another one")]
)
def test_defects_are_logged(error: Exception) -> None:
    """The filter of grpc's log passes errors that no client can cause."""
    record = logging.makeLogRecord({"msg": "unexpected", "exc_info": (type(error), error, None)})

    assert ClientErrors().filter(record)
