"""The utilization of each component in the last seconds, and the component that limits the service.

The verdict follows the first rule that holds. A component is at its limit from 85 % on; all CPUs
are used from 90 % on.

    engines on the CPU, all CPUs used    CPU-bound          less engine or decode work, or more CPUs
    engines on the CPU, CPUs left        engine-bound       more threads or engines
    engines on a GPU                     engine-bound       a faster device, a smaller network
    the batcher of several HTTP workers  batcher-bound      another service beside this one
    decode threads, all CPUs used        decode-bound       more CPUs, or smaller images
    decode threads, CPUs left            decode-bound       more HTTP workers: their threads share a lock
    event loops of the HTTP workers      HTTP worker-bound  more HTTP workers
    all CPUs used                        CPU-bound          more CPUs

The batcher counts as a component only if HTTP workers are processes of their own. Busy seconds of
engines and decode threads are wall-clock time, so other programs on the same CPUs make them longer.
The figures of HTTP workers in other processes are up to a second old.
"""

from collections import deque
from typing import NamedTuple

from app.observability.metrics import Counts

LIMIT, CPU_LIMIT = 0.85, 0.9
WINDOW_SECONDS = 10

# The component of a sample, by the sample's name and the value of its label `loop`.
SAMPLES = {
    ("swin_engine_busy_seconds_total", None): "engine",
    ("swin_decode_busy_seconds_total", None): "decode",
    ("swin_loop_busy_seconds_total", "http_worker"): "http_worker",
    ("swin_loop_busy_seconds_total", "batcher"): "batcher",
    ("process_cpu_seconds_total", None): "cpu",
}


class BusySeconds(NamedTuple):
    """The seconds that each component has been busy since the start of the service."""

    engine: float = 0.0
    decode: float = 0.0
    http_worker: float = 0.0
    batcher: float = 0.0
    cpu: float = 0.0


class InstanceCounts(NamedTuple):
    """The number of instances of each component: engines, decode threads, event loops, CPUs.

    `batcher` is 0 if one process does everything. `cpu` may be a fraction.
    """

    engine: float = 0.0
    decode: float = 0.0
    http_worker: float = 0.0
    batcher: float = 0.0
    cpu: float = 0.0


class Utilization(NamedTuple):
    """How busy each component is, from 0 to 1."""

    engine: float = 0.0
    decode: float = 0.0
    http_worker: float = 0.0
    batcher: float = 0.0
    cpu: float = 0.0


# The names of the fields above in a sentence.
NAMES = ("engine", "decode thread", "HTTP worker", "batcher", "CPU")


class UtilizationMonitor:
    """The utilization of a service in a window of the last seconds.

    Args:
        instances: the number of instances of each component.
        engines_use_cpus: whether the engines compute on the CPUs that decoding needs too.
    """

    def __init__(self, instances: InstanceCounts, *, engines_use_cpus: bool) -> None:
        self._instances, self._engines_use_cpus = instances, engines_use_cpus
        self._readings: deque[tuple[float, BusySeconds]] = deque()

    def record(self, now: float, busy: BusySeconds) -> None:
        """Add a reading of the busy seconds at the time `now`. Call this about once a second."""
        self._readings.append((now, busy))
        while len(self._readings) > 2 and now - self._readings[1][0] >= WINDOW_SECONDS:  # noqa: PLR2004 (a window has two ends)
            self._readings.popleft()

    @property
    def utilization(self) -> Utilization:
        """The utilization between the ends of the window; 0 before there are two readings."""
        if not self._readings:
            return Utilization()
        (started, before), (ended, after) = self._readings[0], self._readings[-1]
        seconds = ended - started
        if seconds <= 0:
            return Utilization()
        triples = zip(before, after, self._instances, strict=True)
        # Busy seconds of decoding are added when an image is done, so long work can exceed the window.
        return Utilization(*(min((new - old) / seconds / count, 1.0) if count else 0.0 for old, new, count in triples))

    @property
    def verdict(self) -> str:
        """One sentence: the limit of the service, the figures, and what helps."""
        utilization = self.utilization
        facts = ", ".join(
            f"{_count(count, name)} at {share:.0%}"
            for name, share, count in zip(NAMES, utilization, self._instances, strict=True)
            if count
        )
        limit, advice = self._limit(utilization)
        return f"{limit}: {facts}" + (f": {advice}" if advice else "")

    def _limit(self, utilization: Utilization) -> tuple[str, str]:
        all_cpus_used = utilization.cpu >= CPU_LIMIT
        if all_cpus_used and self._engines_use_cpus:
            less = "an int8 bundle" if utilization.engine >= utilization.decode else "decode=fast, smaller images"
            return "CPU-bound", f"{less}, or more CPUs"
        if utilization.engine >= LIMIT:
            on_gpu = "a faster device, a smaller network, or a bundle of lower precision"
            return "engine-bound", "more threads or engines" if self._engines_use_cpus else on_gpu
        if utilization.batcher >= LIMIT:
            return "batcher-bound", "another service beside this one"
        if utilization.decode >= LIMIT:
            return "decode-bound", "more CPUs, decode=fast, or smaller images" if all_cpus_used else "more HTTP workers"
        if utilization.http_worker >= LIMIT:
            return "HTTP worker-bound", "more HTTP workers"
        return ("CPU-bound", "more CPUs") if all_cpus_used else ("nothing is at its limit", "")


def busy_seconds(counts: Counts) -> BusySeconds:
    """Return the busy seconds of each component, summed from the metrics of one process."""
    seconds = dict.fromkeys(BusySeconds._fields, 0.0)
    for family in counts:
        for sample in family.samples:
            component = SAMPLES.get((sample.name, sample.labels.get("loop")))
            if component is not None:
                seconds[component] += sample.value
    return BusySeconds(**seconds)


def total(*of_processes: BusySeconds) -> BusySeconds:
    """Return the sum of the busy seconds of several processes."""
    return BusySeconds(*map(sum, zip(*of_processes, strict=True)))


def _count(count: float, name: str) -> str:
    return f"{count:g} {name}{'s' if count > 1 else ''}"
