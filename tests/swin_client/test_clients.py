"""Both clients with a real service, and with services that are killed, slow, overloaded or restarting."""

import asyncio
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from swin_client import (
    AsyncClient,
    Classification,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    ImageTooLarge,
    InvalidAnswer,
    InvalidParameter,
    Overloaded,
    Unauthorized,
    UnreadableImage,
    UnsupportedImage,
)
from swin_client.results import Evidence

from benchmarks.load.served import START_SECONDS
from tests.support.both_clients import Ask, AskMany, Outcome
from tests.support.fake_server import Handler, Script, break_off, drip_content, fake_server, hang_up, reply, silence
from tests.support.served import Served
from tests.support.waiting import HANG_SECONDS, until
from tests.swin_client.conftest import GOLDEN

KEY = "a-key-of-the-tests"
GOOD = reply(200, {"predictions": [{"index": 7, "label": "seven", "score": 1}]})


def test_the_answer_is_that_of_the_service(ask: Ask, service: Served, seven: Path) -> None:
    """Classes, labels, scores, times and the id of the request are those in the HTTP answer."""
    answer = httpx.post(f"{service.url}/classify", content=seven.read_bytes())
    (result,) = ask(service.url, seven)

    assert [
        {"index": each.index, "label": each.label, "score": each.score} for each in result.predictions
    ] == answer.json()["predictions"]
    assert set(result.stage_ms) == {"read", "decode", "preprocess", "queue", "infer", "rank"}
    assert result.request_id
    assert result.best.label == "seven"
    assert result.embedding is None
    assert result.best.evidence is None


def test_evidence_and_embedding_are_returned_on_request(service: Served, seven: Path) -> None:
    """Evidence sums to the logit, and the number of classes is that of the call."""
    with Client(service.url) as client:
        result = client.classify(seven, 2, evidence=True, embedding=True)

    assert len(result.predictions) == 2
    for prediction in result.predictions:
        assert isinstance(prediction.evidence, Evidence)
        assert sum(map(sum, prediction.evidence.rows)) == pytest.approx(prediction.evidence.logit, abs=1e-3)
    assert result.embedding
    assert all(isinstance(value, float) for value in result.embedding)


@pytest.mark.anyio
async def test_the_options_of_the_asynchronous_client_are_the_same(service: Served, seven: Path) -> None:
    """So are its results."""
    with Client(service.url) as client:
        expected = client.classify(seven, 2, evidence=True, embedding=True)
        picture = client.draw_evidence(seven, 3)
    async with AsyncClient(service.url) as other:
        assert await other.classify(seven, 2, evidence=True, embedding=True) == expected
        assert await other.draw_evidence(seven, 3) == picture


def test_the_evidence_is_drawn(service: Served, seven: Path) -> None:
    """For the best class, or for another one."""
    with Client(service.url) as client:
        best, other = client.draw_evidence(seven), client.draw_evidence(seven, 3)

    assert (best.index, other.index) == (7, 3)
    assert best.png != other.png
    assert best.png.startswith(b"\x89PNG")


def test_errors_of_the_service_are_exceptions(service: Served, seven: Path) -> None:
    """They have the id of the request, under which the log of the service has its cause."""
    with Client(service.url) as client:
        with pytest.raises(UnsupportedImage) as raised:
            client.classify(b"no image")
        with pytest.raises(UnreadableImage):
            client.classify(seven.read_bytes()[:80])
        with pytest.raises(InvalidParameter, match="top_k"):
            client.classify(seven, top_k=0)
    assert raised.value.request_id


def test_the_key_is_sent_and_not_shown(ask: Ask, seven: Path) -> None:
    """Without the key, the service refuses."""
    served = Served("--http-workers", "0", "--api-keys", KEY)
    try:
        assert ask(served.url, seven, api_key=KEY)
        for wrong in (None, "another"):
            with pytest.raises(Unauthorized):
                ask(served.url, seven, api_key=wrong)
    finally:
        served.stop()
    assert KEY not in repr(vars(Client(served.url, KEY)))


def test_connections_are_kept(ask: Ask) -> None:
    """Calls one after another use one connection, unless they come seconds apart."""
    with fake_server(GOOD) as server:
        ask(server.url, *[b"image"] * 20)

    assert len(server.requests) == 20
    assert len({request.connection for request in server.requests}) < 5


def test_threads_can_share_a_client(service: Served) -> None:
    """Each call gets its own answer."""
    files = sorted(GOLDEN.glob("*.png")) * 10
    with Client(service.url, max_connections=4) as client, ThreadPoolExecutor(8) as threads:
        results = list(threads.map(client.classify, files))

    assert [result.best.label for result in results] == [path.stem for path in files]


def test_tasks_can_share_a_client(service: Served) -> None:
    """More calls than connections wait for one."""
    files = sorted(GOLDEN.glob("*.png")) * 10

    async def run() -> list[Classification]:
        async with AsyncClient(service.url, max_connections=4) as client:
            return await asyncio.gather(*map(client.classify, files))

    assert [result.best.label for result in asyncio.run(run())] == [path.stem for path in files]


def test_a_service_that_is_not_there(ask: Ask) -> None:
    """`ConnectionFailed`, after the tries that the timeout allows."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # without listening, so that no other process takes the port
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=f"cannot connect to {url}") as raised:
            ask(url, b"image", timeout=1)

    assert raised.value.__notes__


@pytest.mark.parametrize("failure", [hang_up, break_off])
def test_a_connection_that_is_lost(ask: Ask, failure: Script) -> None:
    """The request is repeated. `ConnectionFailed` if that does not help."""
    with fake_server(failure, GOOD) as server:
        assert ask(server.url, b"image")[0].best.label == "seven"
    with fake_server(failure) as server, pytest.raises(ConnectionFailed, match="lost the connection"):
        ask(server.url, b"image", timeout=0.5)


def test_a_service_that_is_killed(ask_many: AskMany, seven: Path) -> None:
    """The requests in progress and all later ones are a `ConnectionFailed`. Their places are kept."""
    served = Served("--http-workers", "0")
    arrived = []

    def kill_at_the_tenth(outcome: Outcome) -> None:
        arrived.append(outcome)
        if len(arrived) == 10:
            served.process.send_signal(signal.SIGKILL)

    try:
        outcomes = ask_many(served.url, [seven] * 100, kill_at_the_tenth, max_retries=0)
    finally:
        served.stop()
    assert len(outcomes) == 100
    assert all(isinstance(each, Classification) for each in outcomes[:10])
    assert {type(each) for each in outcomes} == {Classification, ConnectionFailed}
    assert isinstance(outcomes[-1], ConnectionFailed)


def test_a_service_that_does_not_answer(ask: Ask, seven: Path) -> None:
    """A stopped process accepts connections and does not answer: `DeadlineExceeded`."""
    served = Served("--http-workers", "0")
    try:
        served.process.send_signal(signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded, match=r"no answer arrived within 0.3 s"):
            ask(served.url, seven, timeout=0.3)
    finally:
        served.stop()


@pytest.mark.parametrize("slow", [silence, drip_content])
def test_a_slow_answer_does_not_outlast_the_timeout(ask: Ask, slow: Script) -> None:
    """It does not help a server to send single bytes."""
    with fake_server(slow) as server, pytest.raises(DeadlineExceeded):
        ask(server.url, b"image", timeout=0.3)


def test_the_service_keeps_to_the_timeout(seven: Path) -> None:
    """Its own 504 arrives if it sees the end of the time first. The name of the error is the same."""
    served = Served("--http-workers", "0", "--request-timeout", "0.000001")
    try:
        with Client(served.url, max_retries=0) as client, pytest.raises(DeadlineExceeded) as raised:
            client.classify(seven)
    finally:
        served.stop()
    assert raised.value.request_id
    assert raised.value.retry_after == 1


def test_an_overloaded_service(ask: Ask, seven: Path) -> None:
    """`Overloaded` if the wait is too long; otherwise the client waits and gets its answer."""
    served = Served("--http-workers", "0", "--max-uploads-mib", "1", "--max-body-mib", "1")
    try:
        with served.connect() as other:
            head = f"POST /classify HTTP/1.1\r\nHost: swin\r\nContent-Length: {2**20}\r\n\r\n"
            other.sendall(head.encode() + b"x" * (2**20 - 1))  # the bodies of all requests fill their memory
            until(lambda: "swin_uploaded_bytes 1.048575e+06" in httpx.get(f"{served.url}/metrics").text)
            with pytest.raises(Overloaded, match="Try again in 1 s") as raised:
                ask(served.url, seven, timeout=0.9)
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(ask, served.url, seven, timeout=START_SECONDS)
                until(lambda: 'swin_rejected_total{reason="overloaded"} 2.0' in httpx.get(f"{served.url}/metrics").text)
                other.close()
                assert waiting.result()[0].best.label == "seven"
    finally:
        served.stop()
    assert raised.value.retry_after == 1


def test_an_image_that_is_too_large(ask: Ask, service: Served) -> None:
    """The service answers before it has read the image, and closes. The answer arrives nevertheless."""
    with pytest.raises(ImageTooLarge, match="longer than 32 MiB"):
        ask(service.url, bytes(33 * 2**20), max_retries=0)


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_closes_its_connection() -> None:
    """The service sees it, and does not run the image."""
    closed = threading.Event()

    def until_closed(handler: Handler) -> None:
        if not handler.rfile.read(1):
            closed.set()

    with fake_server(until_closed) as server:
        async with AsyncClient(server.url) as client:
            call = asyncio.create_task(client.classify(b"image"))
            await asyncio.to_thread(server.wait_for_request)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(closed.wait, HANG_SECONDS)


def test_another_server(ask: Ask) -> None:
    """`InvalidAnswer` if it answers with success."""
    with fake_server(reply(200, b"<html>It works!")) as server, pytest.raises(InvalidAnswer, match="It works!"):
        ask(server.url, b"image")


class Restarts:
    """A service that is stopped by SIGTERM and started again on its port, once, in a thread."""

    def __init__(self) -> None:
        self.first = Served("--http-workers", "0")
        self.second: Served | None = None
        self.thread = threading.Thread(target=self._restart)
        self.codes = [self.first.watch_requests()]

    def _restart(self) -> None:
        self.first.process.send_signal(signal.SIGTERM)
        self.first.process.wait(START_SECONDS)
        self.second = Served("--http-workers", "0", "--port", str(self.first.address[1]))
        self.codes.append(self.second.watch_requests())

    def stop(self) -> None:
        if self.thread.ident:
            self.thread.join()
        for each in (self.first, self.second):
            if each is not None:
                each.stop()


def test_a_service_that_restarts_loses_no_image(ask_many: AskMany) -> None:
    """1,000 images arrive in order, with the right results, although the service is restarted among them."""
    files = random.Random(0).choices(sorted(GOLDEN.glob("*.png")), k=1000)
    service = Restarts()

    def restart_at_the_hundredth(_: Outcome) -> None:
        arrived.append(time.monotonic())
        if len(arrived) == 100:
            service.thread.start()

    arrived = list[float]()
    try:
        with Client(service.first.url) as client:
            expected = {path: client.classify(path).best for path in set(files)}
        outcomes = ask_many(service.first.url, files, restart_at_the_hundredth, timeout=START_SECONDS)
    finally:
        service.stop()
    assert len(outcomes) == 1000
    for path, outcome in zip(files, outcomes, strict=True):
        assert isinstance(outcome, Classification), outcome
        assert outcome.best.index == expected[path].index
        assert outcome.best.score == pytest.approx(expected[path].score, abs=1e-6)
    before, after = ([code for _, code in accounts.requests] for accounts in service.codes)
    assert before.count(200) >= 100 + len(expected)
    assert after.count(200) >= 1
