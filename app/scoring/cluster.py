"""Scorers in the processes of a Ray cluster, which together return the rows of one scorer.

Blocks of items are cut at multiples of the batch size, so the rows do not depend on how many
workers there are, which of them computes a block, or how often. If a worker dies, Ray starts it
again, and sends its blocks again, a few times.
"""

import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError

from app.errors import DeviceError, StartError
from app.scoring.errors import ScoringFailed
from app.scoring.items import Item
from app.scoring.provenance import bundle_digest, library_versions
from app.scoring.rows import Columns, schema
from app.scoring.scorer import Scorer
from app.settings import Settings

# The most chunks in a block. A worker has no image decoded at the start of a block, which costs the time of about one
# chunk.
MAX_CHUNKS = 32

# Bytes of images after which a block ends. Images that are files do not count: a block has their paths.
MAX_BLOCK_BYTES = 32 * 2**20

# Blocks for each worker that are in the cluster: one that runs, one that waits, and finished ones that wait for an
# earlier block.
BLOCKS_PER_WORKER = 4

# Seconds in which the head node must accept a connection.
CONNECT_SECONDS = 10

# Seconds in which a worker must have a process. The run goes on without a worker whose place another program of the
# cluster has taken. A process loads its libraries first, which takes seconds.
PLACE_SECONDS = 60

# How often Ray starts a worker again, and sends a block again. An image that ends its process would do so forever.
LIVES = {"max_restarts": 3, "max_task_retries": 3}

# Ray's names of resources, by the names of the options that reserve them.
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}

log = logging.getLogger("swin.score")


@dataclass(frozen=True)
class Facts:
    """The properties of a scorer that a worker has opened."""

    batch: int
    devices: Sequence[str]
    bundle: str  # its digest
    versions: Mapping[str, str]  # of the libraries that determine the rows


class Worker:
    """A scorer in a process of the cluster. After a restart of the process, it opens with the next block."""

    def __init__(self, settings: Settings, columns: Columns) -> None:
        self._settings, self._columns = settings, columns
        self._scorer: Scorer | None = None

    def is_placed(self) -> bool:
        """Return true: the cluster has found a place for the process."""
        return True

    def open(self, batch: int | None) -> Facts:
        """Open the scorer for batches of this size, or of the fastest one.

        Raises:
            StartError: the bundle or a device cannot be used on this node.
        """
        self._scorer, facts = self._opened(batch)
        return facts

    def table(self, items: Sequence[Item], expected: Facts) -> pa.Table:
        """Return the rows of a block.

        Raises:
            ScoringFailed: as for `Scorer.batches`.
            StartError: the process is new, and its node cannot be used or would compute other rows than expected.
        """
        if self._scorer is None:
            scorer, facts = self._opened(expected.batch)
            check_equal(expected, facts)
            self._scorer = scorer
        return self._scorer.table(items)

    def _opened(self, batch: int | None) -> tuple[Scorer, Facts]:
        scorer = Scorer(self._settings, self._columns, batch)
        bundle = bundle_digest(self._settings)
        return scorer, Facts(scorer.batch, scorer.devices, bundle, library_versions())


class ClusterScorer:
    """The workers of a cluster, with the interface of `Scorer`.

    The number of workers follows from the resources that are free now. Each takes a GPU, unless the
    setting `device` is `cpu`, or it is `auto` and the cluster has none, and CPUs for its threads.

    Args:
        address: of the cluster, as `ray.init` takes it: `auto` is the one of this machine, `local`
            starts one on this machine for the run.
        settings: as for `Scorer`. The bundle has the same path on all nodes.
        columns: what a row holds.
        batch: images that an engine runs together. None: the fastest size, as the first worker measures it.

    Raises:
        StartError: there is no such cluster, it has no free resources, or a node cannot use the bundle or
            the device, or would compute other rows.
    """

    def __init__(self, address: str, settings: Settings, columns: Columns, batch: int | None = None) -> None:
        self.schema = schema(columns)
        if address == "local":  # by default, Ray reports its usage to its makers
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            check_reachable(address)
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError) as error:
            raise StartError(f"no cluster of Ray at {address}: {first_line(error)}") from error
        try:
            self._open(settings, columns, batch)
        except BaseException:
            self.close()
            raise

    def _open(self, settings: Settings, columns: Columns, batch: int | None) -> None:
        nodes = list(available_resources_per_node().values())
        settings, resources = placement(settings, nodes, ray.cluster_resources().get("GPU", 0))
        worker = ray.remote(**LIVES, **resources)(Worker)
        count = worker_count(nodes, resources)
        self._workers = placed([worker.remote(settings, columns) for _ in range(count)])
        facts = self._facts(self._workers[0].open.remote(batch))
        self.batch, self.devices = facts.batch, list(facts.devices)
        check_equal(replace(facts, bundle=bundle_digest(settings), versions=library_versions()), facts)
        self._expected = facts
        for opening in [each.open.remote(facts.batch) for each in self._workers[1:]]:
            check_equal(facts, self._facts(opening))

    def _facts(self, opening: Any) -> Facts:
        try:
            facts: Facts = ray.get(opening)
        except RayTaskError as error:
            if isinstance(error.cause, StartError):
                raise error.cause from None
            raise StartError(f"a worker cannot start: {first_line(error.cause)}") from error
        except RayError as error:
            raise StartError(f"a worker cannot start: {first_line(error)}") from error
        return facts

    def batches(self, items: Iterable[Item]) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows in the order of the items. Items are taken ahead of the workers.

        Raises:
            ScoringFailed: an engine fails on images that it should be able to run, or the cluster is lost.
        """
        loads = [set[Any]() for _ in self._workers]  # the blocks of each worker that are not done
        pending = deque[Any]()  # all blocks with rows that are not yielded, in order
        sources = deque[str]()  # the first image of each of them
        try:
            for block in blocks(items, self.batch):
                _, waiting = ray.wait(list(pending), num_returns=len(pending), timeout=0) if pending else ([], [])
                for load in loads:
                    load.intersection_update(waiting)
                place = min(range(len(loads)), key=lambda index: len(loads[index]))
                pending.append(self._workers[place].table.remote(block, self._expected))
                loads[place].add(pending[-1])
                sources.append(block[0].source)
                if len(pending) >= BLOCKS_PER_WORKER * len(self._workers):
                    yield from rows_of(pending.popleft(), sources.popleft())
            while pending:
                yield from rows_of(pending.popleft(), sources.popleft())
        finally:
            for block in pending:
                ray.cancel(block)

    def close(self) -> None:
        """End the workers, and leave the cluster."""
        ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def check_reachable(address: str) -> None:
    """Connect to a `host:port`, because Ray tries it for minutes.

    Raises:
        OSError: nothing listens there.
        StartError: it is an address for Ray Client, whose programs run outside of the cluster.
    """
    if address.startswith("ray://"):
        raise StartError(f"{address} is for Ray Client; run the command on a node of the cluster, with --ray auto")
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def placement(
    settings: Settings, nodes: Iterable[Mapping[str, float]], gpus: float = 0
) -> tuple[Settings, dict[str, float]]:
    """Return the settings of a worker, and the resources of Ray that it takes.

    `nodes` are the free resources of each node, and `gpus` all GPUs of the cluster.

    Ray hides no GPU from a worker that reserves none. Such a worker gets the device `cpu`, so that it
    does not use a GPU that Ray has given to another program. With a GPU, a worker decodes on an equal
    share of the free CPUs of its node, the smallest one of all nodes. On CPUs, a worker has one thread that
    decodes and one for the engine, unless they are set. They take turns, so they take one CPU.

    Raises:
        DeviceError: GPUs are reserved by other programs, or the cluster has none for the device.
    """
    settings = settings.model_copy(update={"bundle": settings.bundle.absolute()})
    if settings.device == "cpu" or (settings.device == "auto" and gpus == 0):
        threads = {"threads": settings.threads or 1, "decode_threads": settings.decode_threads or 1}
        return settings.model_copy(update={"device": "cpu", **threads}), {"num_cpus": max(threads.values())}
    if gpus == 0:
        raise DeviceError(f"the cluster has no GPU for the device {settings.device}; choose --device cpu")
    free = [node for node in nodes if node.get("GPU", 0) >= 1]
    if not free:
        raise DeviceError("other programs have reserved all GPUs of the cluster; wait, or choose --device cpu")
    shares = [max(1, int(node["CPU"] // int(node["GPU"]))) for node in free if node.get("CPU", 0) >= 1]
    decode_threads = settings.decode_threads or min(shares, default=1)
    settings = settings.model_copy(update={"decode_threads": decode_threads})
    return settings, {"num_gpus": 1, "num_cpus": decode_threads}


def worker_count(nodes: Iterable[Mapping[str, float]], resources: Mapping[str, float]) -> int:
    """Return the number of workers for which the free resources of the nodes suffice. A worker is on one node.

    Raises:
        DeviceError: there are not enough for one.
    """
    wanted = {RESOURCES[name]: amount for name, amount in resources.items()}
    count = sum(min(int(node.get(name, 0) // amount) for name, amount in wanted.items()) for node in nodes)
    if count < 1:
        text = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
        raise DeviceError(f"no node of the cluster has a worker's resources free ({text}); wait, or lower threads")
    return count


def placed(workers: Sequence[Any]) -> list[Any]:
    """Return the workers that have a process within `PLACE_SECONDS`, and end the others.

    Raises:
        DeviceError: there is none.
    """
    answers = [worker.is_placed.remote() for worker in workers]
    _, waiting = ray.wait(answers, num_returns=len(answers), timeout=PLACE_SECONDS)
    found = []
    for worker, answer in zip(workers, answers, strict=True):
        if answer in waiting:
            ray.kill(worker)
        else:
            found.append(worker)
    if not found:
        raise DeviceError(f"the cluster has not started a worker in {PLACE_SECONDS} s; wait until resources are free")
    if waiting:
        log.warning("workers have no place", extra={"workers": len(waiting), "left": len(found)})
    return found


def blocks(items: Iterable[Item], batch: int) -> Iterator[list[Item]]:
    """Yield the items in blocks of whole chunks, with the absolute paths of files."""
    rest, block, size = iter(items), list[Item](), 0
    while chunk := [_portable(item) for item in itertools.islice(rest, batch)]:
        block += chunk
        size += sum(len(item.content or b"") for item in chunk)
        if len(block) >= MAX_CHUNKS * batch or size >= MAX_BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _portable(item: Item) -> Item:
    """Return the item as a process in another folder can read it."""
    return item if item.path is None or item.path.is_absolute() else item._replace(path=item.path.absolute())


def rows_of(block: Any, source: str) -> Iterator[pa.RecordBatch]:
    """Wait for a block, whose first image is `source`, and yield its rows.

    Raises:
        ScoringFailed: as for `ClusterScorer.batches`.
    """
    try:
        table: pa.Table = ray.get(block)
    except RayTaskError as error:
        if isinstance(error.cause, ScoringFailed):
            raise error.cause from None
        if isinstance(error.cause, StartError):
            raise ScoringFailed(f"a worker has died, and cannot start again: {error.cause}") from error
        raise
    except RayError as error:
        raise ScoringFailed(f"a worker has failed in the images from {source} on: {first_line(error)}") from error
    yield from table.to_batches()


def check_equal(expected: Facts, found: Facts) -> None:
    """Refuse a node that would compute other rows.

    Raises:
        StartError: bundle, libraries or devices are not those of the first.
    """
    for name in ("bundle", "versions", "devices"):
        here, there = getattr(expected, name), getattr(found, name)
        if here != there:
            raise StartError(f"the nodes of the cluster differ in {name}: {here} and {there}; make them equal")


def first_line(error: BaseException) -> str:
    """Return the first line of an error of Ray, which may have a stack trace after it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
