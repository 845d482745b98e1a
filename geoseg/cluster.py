"""Workers: where jobs run, in this process or on a Dask cluster.

A runner takes jobs and gives back what they return, in the order in which they finish. Jobs are idempotent and leave
their results on disk, so a runner has nothing to guard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from geoseg.errors import ChunkError
from geoseg.journal import Record

__all__ = ["InlineRunner", "Job", "Runner", "local_cluster"]

OnRow = Callable[[int, int], None]


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

    def __init__(self, on_row: Callable[[str, int, int], None]) -> None:
        """Takes `on_row`, called with the job's name, tiles and pixels of each finished tile row."""
        self._jobs: deque[Job] = deque()
        self._on_row = on_row

    def submit(self, job: Job) -> None:
        """Queues a job."""
        self._jobs.append(job)

    def next_done(self) -> Record:
        """Runs the oldest queued job."""
        job = self._jobs.popleft()
        return job.run(lambda tiles, pixels: self._on_row(job.name, tiles, pixels))


class _DaskRunner:
    """Runs jobs on the workers of a Dask cluster."""

    def __init__(self, client: Any) -> None:
        from distributed import as_completed

        self._client = client
        self._done = as_completed(with_results=False)
        self._jobs: dict[str, Job] = {}

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
        return record


def _run(job: Job) -> Record:
    return job.run()


@contextmanager
def local_cluster(workers: int) -> Iterator[Runner]:
    """A cluster of `workers` processes on this machine, listening on 127.0.0.1 only, gone when the block ends."""
    import dask
    from distributed import Client, LocalCluster

    quiet = {"distributed.worker.daemon": True, "distributed.admin.log-format": "%(message)s"}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield _DaskRunner(client)
