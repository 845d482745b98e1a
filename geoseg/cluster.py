"""How a run reaches its workers: this process, or processes of a Dask cluster that is started here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from geoseg.events import OnEvent
from geoseg.runner import DaskRunner, InlineRunner, Runner

__all__ = ["Cluster", "ClusterOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Where the chunks of a run are worked on."""

    workers: int = 1
    """Processes on this machine, where no cluster is named."""
    scheduler: str | None = None
    """Address of a Dask scheduler."""
    scheduler_file: Path | None = None
    """File that a Dask scheduler wrote its address to."""
    cluster: Path | None = None
    """YAML file that describes a cluster to start."""
    worker_timeout: float = 600.0
    """Seconds to wait for workers that are started on demand."""
    report: Path | None = None
    """HTML file for Dask's performance report."""


class Cluster:
    """Connects when the first chunk is due, so that bad input is refused before anything is started."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def runner(self, on_event: OnEvent) -> Runner:
        """A runner for one scene; all share the workers."""
        if self._options.workers == 1:
            return InlineRunner(on_event)
        if self._client is None:
            self._client = self._stack.enter_context(_local_client(self._options.workers))
        return DaskRunner(self._client, on_event)


@contextmanager
def _local_client(workers: int) -> Iterator[Any]:
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
            dashboard_address="127.0.0.1:0",  # any port: the usual one may be taken
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
