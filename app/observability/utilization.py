"""How busy each part of the service was lately, and which of them is its limit.

What is told, by the first rule that holds, where a part is at its limit from 85 % on, and all CPUs are used from 90 %:

    engines on the CPU, all CPUs used          CPU-bound       less work for what is busier, or more CPUs
    engines on the CPU, CPUs left              engine-bound    more threads or engines
    engines elsewhere                          engine-bound    a faster device, a smaller or more frugal network
    the loop that serves several HTTP workers     queue-bound     another service beside this one
    decode threads, all CPUs used              decode-bound    more CPUs, or smaller images
    decode threads, CPUs left                  decode-bound    more HTTP workers: threads of one wait for each other
    event loops of the HTTP workers               HTTP worker-bound  more HTTP workers
    all CPUs used                              CPU-bound       more CPUs

Of engines and decode threads, seconds are those of the clock: on a CPU that others want, too, they are busy for longer.
What HTTP workers in other processes did is known as it was a second ago.
"""

from collections import deque
from typing import NamedTuple

from app.observability.metrics import Counts

LIMIT, CPU_LIMIT = 0.85, 0.9
WINDOW_SECONDS = 10

SAMPLES = {  # name of a sample, and the value of its one label that counts → part
    ("swin_engine_busy_seconds_total", None): "engine",
    ("swin_decode_busy_seconds_total", None): "decode",
    ("swin_loop_busy_seconds_total", "http_worker"): "http_worker",
    ("swin_loop_busy_seconds_total", "queue"): "queue",
    ("process_cpu_seconds_total", None): "cpu",
}


class Parts(NamedTuple):
    """Something of each part of the service: seconds that it was busy, how many there are, or how busy it is."""

    engine: float = 0.0
    decode: float = 0.0
    http_worker: float = 0.0
    queue: float = 0.0  # the loop that only serves HTTP workers; none where one process does it all
    cpu: float = 0.0


class Watch:
    """The last seconds of a service.

    Args:
        there_are: how many of each part: engines, decode threads, and so on.
        engines_use_cpus: whether they compute on the CPUs that decoding wants, too.
    """

    def __init__(self, there_are: Parts, *, engines_use_cpus: bool) -> None:
        self._there_are, self._engines_use_cpus = there_are, engines_use_cpus
        self._readings: deque[tuple[float, Parts]] = deque()

    def read(self, now: float, busy: Parts) -> None:
        """Take a reading: seconds that each part has been busy until now. About one a second."""
        self._readings.append((now, busy))
        while len(self._readings) > 2 and now - self._readings[1][0] >= WINDOW_SECONDS:  # noqa: PLR2004 (a window has two ends)
            self._readings.popleft()

    @property
    def shares(self) -> Parts:
        """How busy each part was, 0 to 1, between the ends of the window; 0 before there are two readings."""
        (began, before), (ends, after) = (self._readings[0], self._readings[-1]) if self._readings else NOTHING
        took = ends - began
        if took <= 0:
            return Parts()
        triples = zip(before, after, self._there_are, strict=True)
        # Decoding counts when its image is answered: what took long would make it busier than can be.
        return Parts(*(min((new - old) / took / count, 1.0) if count else 0.0 for old, new, count in triples))

    @property
    def verdict(self) -> str:
        """One sentence for people: what the limit is, and what helps."""
        shares = self.shares
        facts = ", ".join(
            f"{_count(count, name)} at {share:.0%}"
            for name, share, count in zip(NAMES, shares, self._there_are, strict=True)
            if count
        )
        what, advice = self._limit(shares)
        return f"{what}: {facts}" + (f": {advice}" if advice else "")

    def _limit(self, shares: Parts) -> tuple[str, str]:
        uses_all = shares.cpu >= CPU_LIMIT
        if uses_all and self._engines_use_cpus:
            less = "an int8 bundle" if shares.engine >= shares.decode else "decode=fast, smaller images"
            return "CPU-bound", f"{less}, or more CPUs"
        if shares.engine >= LIMIT:
            other = "a faster device, a smaller network, or a bundle of lower precision"
            return "engine-bound", "more threads or engines" if self._engines_use_cpus else other
        if shares.queue >= LIMIT:
            return "queue-bound", "another service beside this one"
        if shares.decode >= LIMIT:
            return "decode-bound", "more CPUs, decode=fast, or smaller images" if uses_all else "more HTTP workers"
        if shares.http_worker >= LIMIT:
            return "HTTP worker-bound", "more HTTP workers"
        return ("CPU-bound", "more CPUs") if uses_all else ("nothing is at its limit", "")


NOTHING = ((0.0, Parts()), (0.0, Parts()))
NAMES = ("engine", "decode thread", "http_worker", "queue", "CPU")


def busy(counts: Counts) -> Parts:
    """Seconds that each part has been busy, as the metrics of a process have it."""
    seconds = dict.fromkeys(Parts._fields, 0.0)
    for sample in (sample for family in counts for sample in family.samples):
        part = SAMPLES.get((sample.name, sample.labels.get("loop")))
        if part is not None:
            seconds[part] += sample.value
    return Parts(**seconds)


def together(*parts: Parts) -> Parts:
    """Of several processes, as if they were one."""
    return Parts(*map(sum, zip(*parts, strict=True)))


def _count(count: float, name: str) -> str:
    return f"{count:g} {name}{'s' if count > 1 else ''}"
