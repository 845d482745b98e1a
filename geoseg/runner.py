"""Runners: jobs run in this process, or on the workers of a Dask cluster.

A runner takes jobs and gives back what they return, in the order in which they finish. Jobs are idempotent and leave
their results on disk, so a runner has nothing to guard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from geoseg.errors import ChunkError
from geoseg.events import OnEvent, RowDone
from geoseg.journal import Record

__all__ = ["DaskRunner", "InlineRunner", "Job", "OnRow", "Runner"]

OnRow = Callable[[int, int], None]
"""Called with the tiles and pixels of a finished tile row."""


class Job(Protocol):
    """One chunk or one seam; pickles."""

    @property
    def name(self) -> str:
        """Unique in a run."""
        ...

    @property
    def place(self) -> tuple[str, str]:
        """Scene id and window, for messages."""
        ...

    def run(self, on_row: OnRow | None = None) -> Record:
        """Does the work, leaves durable parts, returns what the journal notes."""
        ...


class Runner(Protocol):
    """Runs jobs somewhere."""

    @property
    def slots(self) -> int:
        """How many jobs may be queued at once: enough to keep every worker busy, few enough to stay small."""
        ...

    def submit(self, job: Job) -> None:
        """Queues a job."""
        ...

    def next_done(self) -> Record:
        """Waits for one queued job to finish.

        Raises:
            GeosegError: As the job raised it.
            ChunkError: The job's worker died, repeatedly.
        """
        ...


class InlineRunner:
    """Runs one job after the other in this process."""

    slots = 1

    def __init__(self, on_event: OnEvent) -> None:
        """Takes `on_event`, called in the thread that waits, for each finished tile row."""
        self._jobs: deque[Job] = deque()
        self._on_event = on_event

    def submit(self, job: Job) -> None:
        """Queues a job."""
        self._jobs.append(job)

    def next_done(self) -> Record:
        """Runs the oldest queued job."""
        job = self._jobs.popleft()
        return job.run(lambda tiles, pixels: self._on_event(RowDone(chunk=job.name, tiles=tiles, pixels=pixels)))


class DaskRunner:
    """Runs jobs on the workers of a Dask cluster."""

    def __init__(self, client: Any, on_event: OnEvent) -> None:
        """Takes a `distributed.Client`, and `on_event`, called for each finished tile row."""
        from distributed import as_completed

        self._client, self._on_event = client, on_event
        self._done = as_completed(with_results=False)
        self._jobs: dict[str, Job] = {}

    @property
    def slots(self) -> int:
        """Two jobs per worker: one at work, one waiting."""
        return 2 * max(1, len(self._client.scheduler_info()["workers"]))

    def submit(self, job: Job) -> None:
        """Queues a job; its name is the task's key, so that nothing is ever queued twice."""
        future = self._client.submit(_run, job, key=f"geoseg-{job.name}", pure=False)
        self._jobs[future.key] = job
        self._done.add(future)

    def next_done(self) -> Record:
        """Waits for any queued job."""
        from distributed import KilledWorker

        future = next(self._done)
        job = self._jobs.pop(future.key)
        try:
            record: Record = future.result()
        except KilledWorker as error:
            scene, window = job.place
            raise ChunkError(
                f"{scene}: chunk {job.name} ({window}) killed its worker again and again; "
                "it may need more memory: try fewer --workers or a smaller --chunk",
                scene,
                window,
            ) from error
        future.release()
        counts = record["counts"]
        worker = str(record["process"])
        self._on_event(RowDone(chunk=job.name, worker=worker, tiles=counts.get("tiles", 0), pixels=counts["pixels"]))
        return record


def _run(job: Job) -> Record:
    return job.run()
