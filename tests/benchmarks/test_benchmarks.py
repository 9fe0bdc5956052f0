"""Tests of the counters, rounds and pictures of `benchmarks/comparison` and `benchmarks/load`."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
import uvloop

from app.bundle.load import Bundle
from app.load.other_work import MAX_OTHER_CORES
from benchmarks.comparison import server
from benchmarks.comparison.protocols import Protocol
from benchmarks.comparison.service import draw_latency, verdict
from benchmarks.comparison.traffic import Outcomes, Traffic, Window
from benchmarks.comparison.workload import Candidate, Comparison, Workload, run_benchmark
from benchmarks.load.images import NEAR, Known
from tests.support.scripted_server import CLOSE, CONTENT, Script, reply

IMAGE = Known(CONTENT, [(3, 0.9)])
RIGHT = json.dumps({"predictions": [{"index": 3, "label": "three", "score": 0.9}]}).encode()
ROUNDED = RIGHT.replace(b"0.9", b"0.90001")
WRONG = RIGHT.replace(b'"index": 3', b'"index": 4')


class FakeServer:
    """The attributes of a server that traffic uses."""

    protocol, is_exact = Protocol(), True

    def predictions(self, body: bytes) -> Any:
        """Return the predictions of a response body."""
        return json.loads(body)["predictions"]


def counted(script: Script, requests: int) -> tuple[int, int, int, int]:
    """Return the right, refused, wrong and lost responses to requests, sent one after the other."""

    async def calls() -> tuple[int, int, int, int]:
        async with script.client_pool() as pool:
            traffic = Traffic(cast("server.Server", FakeServer()), pool, [IMAGE])
            for _ in range(requests):
                await traffic.call()
            found = traffic.outcomes
            return found.right, found.refused, found.wrong, found.lost

    return uvloop.run(calls())


def test_right_refused_wrong_and_lost_responses_are_counted() -> None:
    """Another class is wrong, 429 is refused, and a closed connection is lost; rounding of a score is tolerated."""
    script = Script(reply(RIGHT), reply(WRONG), CLOSE, reply(ROUNDED), reply(RIGHT, status=429), reply(RIGHT))

    assert counted(script, 6) == (3, 1, 1, 1)


def test_predictions_resemble_if_scores_are_near_and_the_best_class_is_known() -> None:
    """Scores may differ by `NEAR`, and the best class must be one of the expected ones."""
    image = Known(b"", [(3, 0.5), (4, 0.3)])
    moved = [{"index": 4, "score": 0.3 + NEAR / 2}, {"index": 3, "score": 0.5}]

    assert image.resembles(moved)
    assert not image.resembles([{"index": 3, "score": 0.5 + 2 * NEAR}])
    assert not image.resembles([{"index": 5, "score": 0.5}])
    assert not image.resembles([])


class Disturbed:
    """A server and its traffic, with scripted use of the machine by other processes in each window.

    The unit is `MAX_OTHER_CORES`.
    """

    name = "disturbed"

    def __init__(self, *other_cores: float) -> None:
        self.outcomes, self.checks = Outcomes(), 0
        self._other_cores = iter(other_cores)

    def candidate(self) -> Candidate:
        """Return this server as a candidate of a comparison."""
        return Candidate(cast("server.Server", self), cast("Traffic", self), 0.0)

    async def window(self, *_: float) -> Window:
        """Return the next window."""
        return Window(100.0, 1.0, 1.0, 1.0, next(self._other_cores) * MAX_OTHER_CORES, 1.0, 1.0)

    def check(self) -> None:
        """Count the call: the server runs."""
        self.checks += 1


def disturbance(*servers: Disturbed, rounds: int = 1) -> Any:
    """Measure rounds of these servers with one client, and return the figures of disturbance."""
    found = Comparison(Workload("demo", 1, (1,)), [each.candidate() for each in servers], Path("no folder"))
    for number in range(rounds):
        asyncio.run(found.round(number, 1.0))
    return found.figures()["disturbance"]


def test_rounds_are_interleaved() -> None:
    """Each round begins with another server."""
    order = list[Disturbed]()

    class Noted(Disturbed):
        async def window(self, *_: float) -> Window:
            order.append(self)
            return await super().window()

    one, two = Noted(0.0, 0.0), Noted(0.0, 0.0)
    disturbance(one, two, rounds=2)

    assert order == [one, two, two, one]


def test_a_disturbed_window_is_repeated() -> None:
    """A window is repeated if others use more than `MAX_OTHER_CORES`, and at most twice."""
    calm, soon, never = Disturbed(1.0), Disturbed(3.0, 0.5), Disturbed(4.0, 2.0, 3.0, 0.0)

    found = disturbance(calm, soon, never)

    assert (calm.checks, soon.checks, never.checks) == (1, 2, 3)
    assert (found["windows"], found["repeated"]) == (3, 2)


def test_the_least_disturbed_window_counts() -> None:
    """The least disturbed of three tries counts, and the figures hold the other cores of the windows that count."""
    found = disturbance(Disturbed(0.1, 9.0, 2.0, 3.0, 0.5), rounds=3)

    assert found == {
        "windows": 3,
        "repeated": 1,
        "other_cores": pytest.approx(0.5 * MAX_OTHER_CORES, abs=1e-3),
        "max_other_cores": pytest.approx(2.0 * MAX_OTHER_CORES, abs=1e-3),
    }


class Slow(Disturbed):
    """A server with a rate of 100 requests per second, and a scripted response time in each open loop."""

    def __init__(self, *seconds: float) -> None:
        super().__init__(0.0)
        self.expected = list[float]()  # requests of each window
        self._seconds = iter(seconds)

    async def latencies(self, rate: float, seconds: float, _: Random) -> list[float]:
        """Return 100 response times, of which two are ten times as long."""
        self.expected.append(rate * seconds)
        own = next(self._seconds)
        return [own] * 98 + [10 * own] * 2


def latencies(slow: Slow, shares: list[float], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure the response times after one round."""

    async def measured() -> list[dict[str, Any]]:
        found = Comparison(Workload("demo", 1, (1,)), [slow.candidate()], Path("no folder"))
        await found.round(0, 1.0)
        return await found.latencies(found.candidates, shares, rounds, seconds)

    return asyncio.run(measured())


def test_response_times_are_medians_of_rounds() -> None:
    """At each share of the rate, one slow round does not change the figure."""
    rows = latencies(Slow(0.001, 0.004, 0.003, 0.005, 9.0, 0.001), [0.1, 0.5], 3, 5.0)

    columns = ("share", "requests_per_second", "p50_ms", "p99_ms", "p99_of_p50")
    assert [[row[column] for column in columns] for row in rows] == [[0.1, 10, 3, 30, 10], [0.5, 50, 4, 40, 10]]


def test_response_times_are_those_of_hundreds_of_requests() -> None:
    """A window is long enough for 400 requests, and not shorter than the option says."""
    slow = Slow(0.001, 0.001)

    latencies(slow, [0.1, 0.9], 1, 30.0)

    assert slow.expected == [400, 2700]


@pytest.mark.parametrize("name", server.baseline_names())
def test_baselines_are_pinned(name: str) -> None:
    """Each requirement of a baseline names an exact version."""
    requirements = server._requirements(server.BASELINES / f"{name}.py")  # noqa: SLF001 (parses the metadata)

    assert requirements
    assert all("==" in requirement for requirement in requirements)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [({}, 0), ({"wrong": 1}, 1), ({"lost": 1}, 1), ({"difference": 0.2}, 1), ({"share": 0.9}, 1), ({"share": 0.93}, 0)],
)
def test_the_verdict_depends_on_responses_and_the_engine_s_rate(figures: dict[str, Any], expected: int) -> None:
    """A wrong or lost response of any server, another network, or less than 92 % of the engine's rate fails."""
    row = {"wrong": 0, "lost": 0, "difference": 0} | figures

    assert verdict({"swin-t": {"servers": [row]} | figures}) == expected


def test_the_record_is_drawn_as_a_series_for_each_server() -> None:
    """The picture names the servers of the rows, each once."""
    rows = [
        {"server": name, "requests_per_second": rate, "p50_ms": 3.0, "p99_ms": 90.0}
        for name in ("one", "two")
        for rate in (10.0, 20.0)
    ]

    assert re.findall(r">(one|two)<", draw_latency(rows)) == ["one", "two"]


def test_the_error_of_an_ended_server_quotes_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the log and its last lines, because the log may be lost with the machine."""
    monkeypatch.setattr(server, "CACHE", tmp_path)
    ended = server.Server(server.Launch("brief", [sys.executable, "-c", "raise SystemExit('no such bundle')"]))
    ended.process.wait()

    with pytest.raises(RuntimeError, match=r"brief has ended: .*brief\.log ends with\nno such bundle"):
        ended.check()


def test_a_failing_benchmark_process_shows_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    """The error output of the process is shown, not only its exit status."""
    with pytest.raises(subprocess.CalledProcessError):
        run_benchmark("behavior.decoders")

    assert "the following arguments are required: bundle" in capfd.readouterr().err


def test_all_cpus_decode_in_one_window(demo: Bundle) -> None:
    """Each CPU has a process, and none of them waits forever for the others."""
    arguments = (str(demo.folder), "--seconds", "0.2", "--images", "2")

    assert run_benchmark("behavior.decoders", *arguments)["images_per_second"] > 0
