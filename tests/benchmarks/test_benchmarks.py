"""The instruments measure what they say: what a server answers rightly, wrongly or not at all is counted as that."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import uvloop

from app.bundle.load import Bundle
from benchmarks.comparison import server
from benchmarks.comparison.picture import draw
from benchmarks.comparison.protocols import Protocol
from benchmarks.comparison.service import verdict
from benchmarks.comparison.traffic import Cores, Outcomes, Sample, Traffic, Window
from benchmarks.comparison.workload import MAX_OTHERS, Contest, Contestant, Workload, figures_of
from benchmarks.load import processes
from benchmarks.load.client_pool import Answer, Crowd
from benchmarks.load.clients import Address, Broken, request
from benchmarks.load.images import NEAR, Known
from benchmarks.load.processes import Taken

IMAGE = Known(b"an image", [(3, 0.9)])
RIGHT = json.dumps({"predictions": [{"index": 3, "label": "three", "score": 0.9}]}).encode()
ROUNDED = RIGHT.replace(b"0.9", b"0.90001")
WRONG = RIGHT.replace(b'"index": 3', b'"index": 4')
HANG_UP = b""


def reply(body: bytes, status: int = 200, fields: bytes = b"") -> bytes:
    """An answer as it goes over the wire."""
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body)


class Script:
    """Answers requests with one of these after the other, in pieces; hangs up after the last, or instead of none."""

    def __init__(self, *answers: bytes, piece: int = 10_000) -> None:
        self.connections = 0
        self._answers, self._piece = list(answers), piece

    @contextlib.asynccontextmanager
    async def crowd(self) -> AsyncIterator[Crowd]:
        """Callers of it."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        address: Address = listener.sockets[0].getsockname()
        async with listener:
            with contextlib.closing(Crowd(address)) as crowd:
                yield crowd

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while self._answers:
                await reader.readuntil(IMAGE.data)
                answer = self._answers.pop(0)
                if answer == HANG_UP:
                    return
                for start in range(0, len(answer), self._piece):
                    writer.write(answer[start : start + self._piece])
                    await writer.drain()
                    await asyncio.sleep(0)


class Asked:
    """What traffic wants to know of a server."""

    protocol, is_exact = Protocol(), True

    def predictions(self, body: bytes) -> Any:
        """What an answer says."""
        return json.loads(body)["predictions"]


def ask(script: Script) -> Answer:
    """One request."""

    async def once() -> Answer:
        async with script.crowd() as crowd:
            return await crowd.ask(request("/classify", IMAGE.data))

    return uvloop.run(once())


def counted(script: Script, requests: int) -> tuple[int, int, int, int]:
    """Right, refused, wrong and lost of so many requests, one after the other."""

    async def calls() -> tuple[int, int, int, int]:
        async with script.crowd() as crowd:
            traffic = Traffic(cast("server.Server", Asked()), crowd, [IMAGE])
            for _ in range(requests):
                await traffic.call()
            found = traffic.outcomes
            return found.right, found.refused, found.wrong, found.lost

    return uvloop.run(calls())


def test_an_answer_may_come_in_pieces() -> None:
    """Its end is where its length says, however the network cuts it."""
    assert ask(Script(reply(RIGHT), piece=7)) == Answer(200, RIGHT)


def test_an_answer_may_come_in_chunks() -> None:
    """Some servers know no length beforehand."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (RIGHT[:20], RIGHT[20:], b""))

    assert ask(Script(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, piece=9)) == Answer(200, RIGHT)


@pytest.mark.parametrize("said", [HANG_UP, b"HTTP/1.1 200 OK\r\n\r\nfor ever", reply(RIGHT)[:-1]])
def test_half_an_answer_is_none(said: bytes) -> None:
    """A connection that ends early, or an answer without an end, is an error of its own."""
    with pytest.raises(Broken):
        ask(Script(said))


def test_right_refused_wrong_and_lost_answers_are_counted() -> None:
    """Another class is wrong, a full queue refuses, an end of the connection loses; a score may differ by rounding."""
    script = Script(reply(RIGHT), reply(WRONG), HANG_UP, reply(ROUNDED), reply(RIGHT, status=429), reply(RIGHT))

    assert counted(script, 6) == (3, 1, 1, 1)


def test_a_connection_the_server_closes_is_not_used_again() -> None:
    """`Connection: close` costs a connection, not an answer."""
    script = Script(reply(RIGHT, fields=b"connection: close\r\n"), reply(RIGHT))

    assert counted(script, 2) == (2, 0, 0, 0)
    assert script.connections == 2


def test_a_connection_is_kept() -> None:
    """As many connections as requests at once, not as many as requests."""
    script = Script(*[reply(RIGHT)] * 5)

    assert counted(script, 5) == (5, 0, 0, 0)
    assert script.connections == 1


def test_a_near_answer_is_one_of_the_same_best_classes() -> None:
    """Where rounding is not all that differs, scores may move a little, and the best class stays a known one."""
    image = Known(b"", [(3, 0.5), (4, 0.3)])
    moved = [{"index": 4, "score": 0.3 + NEAR / 2}, {"index": 3, "score": 0.5}]

    assert image.resembles(moved)
    assert not image.resembles([{"index": 3, "score": 0.5 + 2 * NEAR}])
    assert not image.resembles([{"index": 5, "score": 0.5}])
    assert not image.resembles([])


def test_children_count() -> None:
    """What a child holds in memory is its parent's."""
    child = "data = bytearray(50_000_000); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 (our own interpreter)
        assert process.stdout is not None
        process.stdout.readline()

        assert len(processes.family(process.pid)) == 2
        assert processes.taken(process.pid).memory > 50e6
        processes.end(process.pid)


def test_the_machine_is_busy_unless_it_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where it waits for a disk; interrupts and what the host took count, and guests once: they are users'."""
    (tmp_path / "stat").write_text("cpu  1 10 100 7000000 80000000 1000 10000 100000 1 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)

    assert processes.busy() == 111111 / processes.TICKS


def test_what_neither_side_took_is_others() -> None:
    """Of 4 s on 2 CPUs that were busy for 7, a server took 3 and this side 2: others kept half a core busy."""
    earlier = Sample(10.0, 1.0, 100.0, Taken(20.0, 0))

    assert Sample(14.0, 3.0, 107.0, Taken(23.0, 0)).since(earlier) == Cores(0.75, 0.5, 0.5)
    assert Sample(14.0, 3.0, 104.9, Taken(23.0, 0)).since(earlier) == Cores(0.75, 0.5, 0.0)


class Disturbed:
    """A server and its traffic, in whose windows others take so much of the machine."""

    name = "disturbed"

    def __init__(self, *others: float) -> None:
        self.outcomes, self.checks = Outcomes(), 0
        self._others = iter(others)

    def contestant(self) -> Contestant:
        """Itself, in a comparison."""
        return Contestant(cast("server.Server", self), cast("Traffic", self), 0.0)

    async def window(self, *_: float) -> Window:
        """The next."""
        return Window(100.0, 1.0, 1.0, 1.0, next(self._others) * MAX_OTHERS, 1.0, 1.0)

    def check(self) -> None:
        """It runs."""
        self.checks += 1


def disturbance(*contestants: Disturbed, rounds: int = 1) -> Any:
    """Of these, by one caller each."""
    found = Contest(Workload("demo", 1, (1,)), [each.contestant() for each in contestants], Path("no folder"))
    for number in range(rounds):
        asyncio.run(found.round(number, 1.0))
    return found.figures()["disturbance"]


def test_servers_take_turns() -> None:
    """Another one begins each round."""
    order = list[Disturbed]()

    class Noted(Disturbed):
        async def window(self, *_: float) -> Window:
            order.append(self)
            return await super().window()

    one, two = Noted(0.0, 0.0), Noted(0.0, 0.0)
    disturbance(one, two, rounds=2)

    assert order == [one, two, two, one]


def test_a_window_that_others_disturb_is_measured_again() -> None:
    """Not one in which they take a twentieth of the machine, and no more than twice."""
    calm, soon, never = Disturbed(1.0), Disturbed(3.0, 0.5), Disturbed(4.0, 2.0, 3.0, 0.0)

    found = disturbance(calm, soon, never)

    assert (calm.checks, soon.checks, never.checks) == (1, 2, 3)
    assert (found["windows"], found["measured_again"]) == (3, 2)


def test_the_least_disturbed_window_counts() -> None:
    """Of three that were all disturbed; and the record says how much others took in those that count."""
    found = disturbance(Disturbed(0.1, 9.0, 2.0, 3.0, 0.5), rounds=3)

    assert found == {
        "windows": 3,
        "measured_again": 1,
        "others": pytest.approx(0.5 * MAX_OTHERS, abs=1e-3),
        "most": pytest.approx(2.0 * MAX_OTHERS, abs=1e-3),
    }


class Slow(Disturbed):
    """Answers 100 requests a second; in each of its windows of latencies callers wait about so many seconds."""

    def __init__(self, *waits: float) -> None:
        super().__init__(0.0)
        self.expected = list[float]()  # requests of each window
        self._waits = iter(waits)

    async def latencies(self, rate: float, seconds: float, _: Random) -> list[float]:
        """Of a hundred callers one waits ten times as long."""
        self.expected.append(rate * seconds)
        wait = next(self._waits)
        return [wait] * 98 + [10 * wait] * 2


def latencies(slow: Slow, shares: list[float], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """After a round."""

    async def measured() -> list[dict[str, Any]]:
        found = Contest(Workload("demo", 1, (1,)), [slow.contestant()], Path("no folder"))
        await found.round(0, 1.0)
        return await found.latencies(found.contestants, shares, rounds, seconds)

    return asyncio.run(measured())


def test_latencies_are_medians_of_rounds() -> None:
    """At each share of the rate; one round that something else slows down does not show."""
    rows = latencies(Slow(0.001, 0.004, 0.003, 0.005, 9.0, 0.001), [0.1, 0.5], 3, 5.0)

    columns = ("share", "requests_per_second", "p50_ms", "p99_ms", "p99_of_p50")
    assert [[row[column] for column in columns] for row in rows] == [[0.1, 10, 3, 30, 10], [0.5, 50, 4, 40, 10]]


def test_latencies_are_of_hundreds_of_requests() -> None:
    """A window is as long as it takes, and no shorter than asked for."""
    slow = Slow(0.001, 0.001)

    latencies(slow, [0.1, 0.9], 1, 30.0)

    assert slow.expected == [400, 2700]


@pytest.mark.parametrize("name", server.peers())
def test_peers_are_pinned(name: str) -> None:
    """What a peer is measured with is the same tomorrow."""
    wanted = server._requirements(server.PEERS / f"{name}.py")  # noqa: SLF001 (read where it is written)

    assert wanted
    assert all("==" in requirement for requirement in wanted)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [({}, 0), ({"wrong": 1}, 1), ({"lost": 1}, 1), ({"difference": 0.2}, 1), ({"share": 0.9}, 1), ({"share": 0.93}, 0)],
)
def test_the_verdict_is_about_answers_and_the_engine_s_rate(figures: dict[str, Any], expected: int) -> None:
    """One wrong or lost answer of anybody's, another network, or less than 92 % of the engine's own rate fails."""
    row = {"wrong": 0, "lost": 0, "difference": 0} | figures

    assert verdict({"swin-t": {"servers": [row]} | figures}) == expected


def test_the_picture_has_two_curves_for_each_server() -> None:
    """Median and 99th percentile; every point is inside the frame."""
    random = Random(0)
    rows = [
        {"server": name, "requests_per_second": rate, "p50_ms": 3 + random.random(), "p99_ms": 90 + rate}
        for name in ("one", "two")
        for rate in (10.0, 500.0, 990.0)
    ]

    picture = ET.fromstring(draw("A title", rows))  # noqa: S314 (our own)

    circles = [
        (float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter() if dot.tag.endswith("circle")
    ]
    assert len(circles) == 12
    assert all(72 <= x <= 736 and 72 <= y <= 348 for x, y in circles)


def test_the_picture_names_as_many_servers_as_there_are() -> None:
    """Each beside a stroke of its own color; names stand in rows, none over another or over the edge."""
    names = [f"server with the number {number}" for number in range(8)]
    rows = [{"server": name, "requests_per_second": 10.0, "p50_ms": 3, "p99_ms": 90} for name in names]

    picture = draw("A title", rows)

    texts = [each for each in ET.fromstring(picture) if each.tag.endswith("text") and each.text in names]  # noqa: S314 (our own)
    places = [(float(text.attrib["y"]), float(text.attrib["x"])) for text in texts]
    assert len(places) == 8
    assert all(below > y or right - x > 7 * 24 for (y, x), (below, right) in pairwise(places))
    assert max(x for _, x in places) + 7 * 24 < 760
    assert len(set(re.findall(r"^  \.s\d { stroke: (#\w+)", picture, re.MULTILINE))) == 16  # on both kinds of page


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only what is on the screen is left of a machine, the log alone would tell nobody."""
    monkeypatch.setattr(server, "CACHE", tmp_path)
    ended = server.Server(server.Launch("brief", [sys.executable, "-c", "raise SystemExit('no such bundle')"]))
    ended.process.wait()

    with pytest.raises(RuntimeError, match=r"brief has ended: .*brief\.log ends with\nno such bundle"):
        ended.check()


def test_what_fails_apart_complains_on_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    """Its exit status alone would tell nobody why."""
    with pytest.raises(subprocess.CalledProcessError):
        figures_of("decoders")

    assert "the following arguments are required: bundle" in capfd.readouterr().err


def test_all_cpus_decode_in_one_window(demo: Bundle) -> None:
    """Each has its process, which has waited for the others: none is left waiting for ever."""
    assert figures_of("decoders", str(demo.folder), "--seconds", "0.2", "--images", "2")["images_per_second"] > 0
