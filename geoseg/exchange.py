"""What travels between a client and the workers of a Dask cluster.

Once per run, what all its jobs share; per chunk, a job of a few hundred bytes; from the worker, a report when it
starts, one for each tile row, and the records. Reports go through Dask's event log, a topic for each client; no pixel
ever travels.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from geoseg.errors import ClusterError
from geoseg.journal import Record
from geoseg.models.held import hold

__all__ = ["SHARED", "Job", "OnRow", "Post", "Shared", "post_of", "run_reporting"]

SHARED = "geoseg-shared"
"""Under which name the scheduler keeps what runs share."""

OnRow = Callable[[int, int], None]
"""Called with the tiles and pixels of a finished tile row."""

_EVERYTHING = "all"  # Dask's topic of what happens to workers
_SELDOM = 0.1  # seconds between two reports of rows
_SharedT = TypeVar("_SharedT")


class Job(Protocol):
    """One chunk, or some seams; pickles."""

    @property
    def name(self) -> str:
        """Unique in a run."""
        ...

    @property
    def place(self) -> tuple[str, str]:
        """Scene id and window, for messages."""
        ...

    def run(self, on_row: OnRow | None = None) -> list[Record]:
        """Does the work, leaves durable parts, returns what the journal notes: a record for each finished piece."""
        ...


class Shared(Generic[_SharedT]):
    """What all jobs of a run have in common. It pickles as a key; workers fetch the value once and hold it."""

    def __init__(self, key: str, value: _SharedT | None = None) -> None:
        self._key = key
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self._key,)

    @property
    def value(self) -> _SharedT:
        """The value itself."""
        if self._value is None:
            self._value = hold((SHARED, self._key), lambda: _fetched(self._key))
        return self._value


def run_reporting(job: Job, attempt: int, *, topic: str, run: str) -> None:
    """What a worker does: the job, and reports of it to the client."""
    from distributed import get_worker

    worker = get_worker()
    tiles = pixels = 0
    reported = time.monotonic()

    def report(what: str, **facts: Any) -> None:
        who = {"run": run, "job": job.name, "attempt": attempt, "worker": worker.address, "name": str(worker.name)}
        worker.log_event(topic, who | {"what": what, "tiles": tiles, "pixels": pixels} | facts)

    def on_row(more_tiles: int, more_pixels: int) -> None:
        nonlocal tiles, pixels, reported
        tiles, pixels, now = tiles + more_tiles, pixels + more_pixels, time.monotonic()
        if now - reported >= _SELDOM:
            reported = now
            report("row")

    report("start")
    records = job.run(on_row)
    counts = [record["counts"] for record in records]
    tiles, pixels = sum(count.get("tiles", 0) for count in counts), sum(count["pixels"] for count in counts)
    report("done", records=records)


def _fetched(key: str) -> Any:
    """What the client shared under this key."""
    from distributed import get_worker
    from distributed.protocol import pickle
    from distributed.utils import sync

    worker = get_worker()
    stored = sync(worker.loop, worker.scheduler.get_metadata, keys=[SHARED, key], default=None)
    if stored is None:
        raise ClusterError(f"scheduler {worker.scheduler.address}: knows no such run any more")
    return pickle.loads(stored)


class Post:
    """Brings what the workers of one client report to the runners that it concerns."""

    def __init__(self, client: Any) -> None:
        self.topic = f"geoseg-{client.id}"
        self.address = str(client.scheduler.address)
        self._boxes: dict[str, queue.SimpleQueue[Any]] = {}

    def open(self, run: str, client: Any) -> queue.SimpleQueue[Any]:
        """A box for one run."""
        if not self._boxes:
            client.subscribe_topic(self.topic, self._deliver)
            client.subscribe_topic(_EVERYTHING, self._announce)
        return self._boxes.setdefault(run, queue.SimpleQueue())

    def shut(self, run: str, client: Any) -> None:
        """Whatever comes for this run from now on is thrown away."""
        self._boxes.pop(run, None)
        if not self._boxes:
            client.unsubscribe_topic(self.topic)
            client.unsubscribe_topic(_EVERYTHING)

    def _deliver(self, event: tuple[float, dict[str, Any]]) -> None:
        report = event[1]
        if box := self._boxes.get(report["run"]):
            box.put(("report", report))

    def _announce(self, event: tuple[float, dict[str, Any]]) -> None:
        what = event[1]
        if what.get("action") == "remove-worker":
            for box in list(self._boxes.values()):
                box.put(("gone", what["worker"], not what["expected"]))


_posts: WeakKeyDictionary[Any, Post] = WeakKeyDictionary()


def post_of(client: Any) -> Post:
    """The one of this client: Dask knows one handler for each topic."""
    if client not in _posts:
        _posts[client] = Post(client)
    return _posts[client]
