"""Runners: jobs run in this process, or on the workers of a Dask cluster.

A runner takes jobs and gives back what they return, in the order in which they finish. Jobs are idempotent and leave
their results on disk, so a runner has nothing to guard: a worker that dies costs the chunk that it was at.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from geoseg.attempts import Attempts, Pace
from geoseg.errors import ChunkError, ClusterError, ConfigError, GeosegError
from geoseg.events import ChunkRetried, OnEvent, RowDone
from geoseg.exchange import SHARED, Job, Shared, post_of, run_reporting
from geoseg.journal import Record

__all__ = ["DaskRunner", "InlineRunner", "Runner"]

_SharedT = TypeVar("_SharedT")
_NOBODY: tuple[Any, Any, Any] = (None, None, None)
_LOOK = 1.0  # seconds between two looks at the clock and at the scheduler
_ANSWER = 25.0  # seconds that a scheduler may take for an answer before it counts as lost
_TAKE_OUT = 10.0  # seconds that a nanny has to end a worker
_WAITING = 2  # jobs that wait on each worker: a worker never idles while the client makes the next one
_GIVEN_UP = 5  # attempts after which a job is given up, whatever else is known of its workers


class Runner(Protocol):
    """Runs the jobs of one scene somewhere."""

    @property
    def slots(self) -> int:
        """How many jobs may be queued at once: enough to keep every worker busy, few enough to stay small."""
        ...

    @property
    def in_flight(self) -> int:
        """Jobs that were queued and are not finished."""
        ...

    def share(self, value: _SharedT) -> Shared[_SharedT]:
        """Makes a value known to whoever runs the jobs.

        Raises:
            ConfigError: It cannot be sent anywhere.
        """
        ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs."""
        ...

    def next_done(self) -> list[Record]:
        """Waits until a queued job is finished; returns the records of all that are.

        A failure comes after what was finished.

        Raises:
            GeosegError: As the job raised it.
            ChunkError: The job's workers died of it, or it hung again and again.
            ClusterError: The scheduler or all workers are gone.
        """
        ...

    def close(self) -> None:
        """Drops what is queued, and what was shared."""
        ...


class InlineRunner:
    """Runs one job after the other in this process."""

    slots = 1

    def __init__(self, on_event: OnEvent) -> None:
        """Takes `on_event`, called in the thread that waits, for each finished tile row."""
        self._jobs: deque[Job] = deque()
        self._on_event = on_event

    @property
    def in_flight(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    def share(self, value: _SharedT) -> Shared[_SharedT]:
        """The value as it is."""
        return Shared("", value)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs."""
        self._jobs.extend(jobs)

    def next_done(self) -> list[Record]:
        """Runs the oldest queued job."""
        job = self._jobs.popleft()
        return job.run(lambda tiles, pixels: self._on_event(RowDone(chunk=job.name, tiles=tiles, pixels=pixels)))

    def close(self) -> None:
        """Forgets what was queued."""
        self._jobs.clear()


class DaskRunner:
    """Runs jobs on the workers of a Dask cluster, and looks after them.

    What it promises is its own work, not a setting of the scheduler's: a job of which three workers died in turn is
    given up, one that hangs is taken from its worker and tried elsewhere once, a lost scheduler ends the run.
    """

    def __init__(
        self,
        client: Any,
        on_event: OnEvent,
        *,
        patience: float = 300.0,
        worker_timeout: float = 600.0,
        expected: int = 0,
        placement: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes a `distributed.Client`, and who is told of rows.

        Args:
            client: Connected to the cluster.
            on_event: Called in the thread that waits, for each finished tile row and each attempt that failed.
            patience: Seconds without a finished tile row that any job is granted.
            worker_timeout: Seconds without any worker after which the run ends.
            expected: Jobs at once when all workers have come; a cluster grows only where more jobs wait.
            placement: Arguments of `Client.submit` that say on which workers jobs may run; None: on all.
        """
        self._client, self._on_event = client, on_event
        self._worker_timeout, self._expected, self._placement = worker_timeout, expected, dict(placement or {})
        self._run = uuid4().hex
        self._pace = Pace(patience)
        self._post = post_of(client)
        self._inbox = self._post.open(self._run, client)
        self._jobs: dict[str, tuple[Job, Attempts, Any]] = {}
        self._shared: list[str] = []
        self._failure: GeosegError | None = None
        self._looked = self._peopled = time.monotonic()
        self._threads: dict[str, int] = self._ask(client.scheduler.ncores)

    @property
    def slots(self) -> int:
        """One job for each thread of each worker, and two more per worker; follows workers that come and go."""
        return max(1, self._expected, sum(self._threads.values()) + _WAITING * len(self._threads))

    @property
    def in_flight(self) -> int:
        """Jobs of which no record came yet."""
        return len(self._jobs)

    def share(self, value: _SharedT) -> Shared[_SharedT]:
        """Leaves the value with the scheduler, from where each worker fetches it once."""
        from distributed.protocol import pickle

        try:
            stored = pickle.dumps(value)
        except Exception as error:
            raise ConfigError(
                f"model and scene cannot be sent to worker processes ({type(error).__name__}: {error}); "
                "give them by name or path, or use --workers 1"
            ) from error
        key = hashlib.sha256(stored + self._run.encode()).hexdigest()
        self._ask(self._client.scheduler.set_metadata, keys=[SHARED, key], value=stored)
        self._shared.append(key)
        return Shared(key, value)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs."""
        self._start([(job, Attempts(job.name)) for job in jobs])

    def _start(self, begun: Sequence[tuple[Job, Attempts]]) -> None:
        """The group of tasks is the run, so that a scheduler that lives for weeks keeps one entry for each run only."""
        futures = self._client.map(
            run_reporting,
            [job for job, _ in begun],
            [attempts.number for _, attempts in begun],
            topic=self._post.topic,
            run=self._run,
            key=[(f"geoseg-{self._run}", job.name, attempts.number) for job, attempts in begun],
            pure=False,
            **self._placement,
        )
        for (job, attempts), future in zip(begun, futures, strict=True):
            self._jobs[job.name] = (job, attempts, future)
            future.add_done_callback(partial(self._settled, job.name))

    def _settled(self, name: str, future: Any) -> None:
        self._inbox.put(("settled", name, future))

    def next_done(self) -> list[Record]:
        """Waits for any queued job."""
        records: list[Record] = []
        while not (records and self._inbox.empty()):
            try:
                self._take(records)
            except GeosegError as failure:
                self._failure = self._failure or failure
            if self._failure and self._inbox.empty() and not records:
                raise self._failure
        return records

    def _take(self, records: list[Record]) -> None:
        """One message, if one comes: a report of a worker, a worker that is gone, a task that Dask has done with."""
        self._look_after()
        with suppress(queue.Empty):
            kind, *facts = self._inbox.get(timeout=0 if self._failure else _LOOK)
            if kind == "report":
                records += self._hear(*facts)
            elif kind == "gone":
                self._lose(*facts)
            elif kind == "settled":
                self._settle(*facts)

    def close(self) -> None:
        """Drops what is queued; a worker that is at a job finishes it for nobody."""
        for _, _, future in self._jobs.values():
            future.release()
        self._jobs.clear()
        with suppress(ClusterError):
            self._demand_scheduler()
            self._post.shut(self._run, self._client)
            for key in self._shared:
                self._ask(self._client.scheduler.set_metadata, keys=[SHARED, key], value=None)

    # --- what is heard ------------------------------------------------------------------------------------------

    def _hear(self, report: dict[str, Any]) -> list[Record]:
        """A report; of an attempt that was given up none counts any more."""
        job, attempts, future = self._jobs.get(report["job"], _NOBODY)
        if attempts is None or report["attempt"] != attempts.number:
            return []
        now, what = time.monotonic(), report["what"]
        if what == "start":
            attempts.start(report["worker"], now)
            self._give_up_if_deadly(job, attempts)
            return []
        if what == "row":
            self._pace.note(now - attempts.heard)
        attempts.heard = now
        tiles, pixels = attempts.advance(report["tiles"], report["pixels"])
        if tiles or pixels:
            self._on_event(RowDone(chunk=job.name, worker=report["name"], tiles=tiles, pixels=pixels))
        if what == "row":
            return []
        del self._jobs[job.name]
        future.release()
        facts = {"worker": report["name"], "retries": max(attempts.number, attempts.starts) - 1}
        return [record | facts for record in report["records"]]

    def _lose(self, worker: str, died: bool) -> None:
        """A worker is gone; the cluster starts its jobs again elsewhere."""
        self._threads = self._ask(self._client.scheduler.ncores)
        for job, attempts, _ in list(self._jobs.values()):
            if attempts.worker == worker:
                attempts.lose(died=died)
                self._give_up_if_deadly(job, attempts)
                self._tell_retry(job, attempts, worker, "its worker is gone")

    def _settle(self, name: str, future: Any) -> None:
        """Dask has done with a task that did not report a record: it failed, or nobody would run it any more."""
        job, attempts, current = self._jobs.get(name, _NOBODY)
        if future is not current:
            return
        if future.status == "cancelled":
            self._demand_scheduler()
            raise ClusterError(f"{self._where}: somebody else cancelled chunk {name} there")
        if future.status == "error" and not _is_killed(error := future.exception()):
            raise error if isinstance(error, GeosegError) else self._failed(job, error) from error
        if attempts.number >= _GIVEN_UP:
            raise self._deadly(job, attempts)
        future.release()
        self._again(job, attempts)

    def _again(self, job: Job, attempts: Attempts) -> None:
        attempts.number += 1
        self._start([(job, attempts)])

    # --- what is looked after -----------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Now and then, all news being read: is there a scheduler, are there workers, does every job get on?"""
        now = time.monotonic()
        if now - self._looked < _LOOK or not self._inbox.empty():
            return
        self._looked = now
        self._demand_scheduler()
        self._threads = self._ask(self._client.scheduler.ncores)
        if self._threads:
            self._peopled = now
        elif now - self._peopled > self._worker_timeout:
            raise ClusterError(f"{self._where}: has had no worker for {self._worker_timeout:.0f} s; start some")
        hanging = (job for job, attempts, _ in self._jobs.values() if attempts.has_hung(now, self._pace.limit))
        if (job := next(hanging, None)) is not None:  # one at a time: meanwhile the others bring news
            self._rescue(*self._jobs[job.name])

    def _rescue(self, job: Job, attempts: Attempts, future: Any) -> None:
        """Takes a job from the worker that hangs in it, ends the worker, and tries elsewhere, once."""
        worker, limit = attempts.worker, self._pace.limit
        attempts.hang()
        future.release()
        self._take_out(worker)
        if len(attempts.hung) > 1:
            scene, window = job.place
            raise ChunkError(
                f"{scene}: chunk {job.name} ({window}) finished no tile row for {limit:.0f} s, "
                f"on {' and then on '.join(attempts.hung)}; see what these workers wait for",
                scene,
                window,
            )
        self._tell_retry(job, attempts, worker, f"no tile row for {limit:.0f} s")
        self._again(job, attempts)

    def _take_out(self, worker: str) -> None:
        """Ends a worker through its nanny, which starts another; one without a nanny is put out of the cluster."""
        with suppress(OSError, TimeoutError, ValueError):
            self._ask(
                self._client.scheduler.restart_workers,
                workers=[worker],
                timeout=_TAKE_OUT,
                wait_for_workers=False,
                on_error="return",
                stimulus_id=f"geoseg-hung-{self._run}",
            )

    def _give_up_if_deadly(self, job: Job, attempts: Attempts) -> None:
        if attempts.is_deadly:
            raise self._deadly(job, attempts)

    @staticmethod
    def _failed(job: Job, error: BaseException) -> ChunkError:
        """What went wrong outside of the job's own care: before it began, as a rule."""
        scene, window = job.place
        what = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return ChunkError(f"{scene}: chunk {job.name} ({window}) failed on its worker: {what}", scene, window)

    @staticmethod
    def _deadly(job: Job, attempts: Attempts) -> ChunkError:
        scene, window = job.place
        return ChunkError(
            f"{scene}: chunk {job.name} ({window}) killed its worker again and again ({', '.join(attempts.deaths)}); "
            "it may need more memory: try a smaller --chunk or fewer --workers",
            scene,
            window,
        )

    def _tell_retry(self, job: Job, attempts: Attempts, worker: str, reason: str) -> None:
        attempt = max(attempts.number, attempts.starts) + 1
        self._on_event(ChunkRetried(chunk=job.name, reason=reason, worker=worker, attempt=attempt))

    # --- the scheduler ------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"scheduler {self._post.address}"

    def _demand_scheduler(self) -> None:
        if self._client.status != "running":
            raise self._lost()

    def _lost(self) -> ClusterError:
        return ClusterError(f"{self._where}: is lost: it ended, or the network to it did")

    def _ask(self, question: Callable[..., Any], **facts: Any) -> Any:
        """What the scheduler answers.

        Raises:
            ClusterError: It does not.
        """
        try:
            return self._client.sync(question, callback_timeout=_ANSWER, **facts)
        except (OSError, TimeoutError) as error:
            raise self._lost() from error


def _is_killed(error: BaseException) -> bool:
    """Whether the scheduler lost patience: its count takes in jobs that only waited where a worker died."""
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)
