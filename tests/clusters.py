"""Dask clusters for tests: real processes on loopback, each stopped at the end; and clusters that never get workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import LocalCluster, Scheduler, SpecCluster

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 90.0
"""No more than a bound of hangs: processes of a busy machine take their time."""


@contextmanager
def running(
    *command: object, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose messages go to a file; ended, with all that it started, when the block ends."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=out, env=os.environ | dict(env or {}), cwd=cwd
        )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def until(condition: Any, seconds: float = START_SECONDS) -> None:
    """Waits until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


@contextmanager
def scheduler_process(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A scheduler in a process of its own; yields the process, its file is ``scheduler.json`` in `folder`."""
    file = folder / "scheduler.json"
    dask = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
    command = (*dask, "--no-dashboard", "--scheduler-file", str(file), *options)
    with running(*command, log=folder / "scheduler.log", env=env) as process:
        until(lambda: file.exists() or process.poll() is not None)
        yield process


@contextmanager
def worker_processes(
    folder: Path, *options: str, log: str = "workers.log", env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``geoseg worker`` for the scheduler of `folder`, at work in another folder than this process."""
    command = (sys.executable, "-m", "geoseg", "worker", "--scheduler-file", str(folder / "scheduler.json"), *options)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    with running(*command, log=folder / log, env={"PYTHONPATH": path, **(env or {})}, cwd=elsewhere) as process:
        until(lambda: b"at work" in (folder / log).read_bytes() or process.poll() is not None)
        assert process.poll() is None, (folder / log).read_text()
        yield process


def threads_as_workers(workers: int = 1, **options: Any) -> LocalCluster:
    """Workers that are threads of this process, so that they can be told by monkeypatch what they are."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=100,
        **options,
    )


class EmptyCluster(SpecCluster):
    """A cluster whose queue never comes to its jobs."""

    def __init__(self, *, n_workers: int = 0, security: Any = None) -> None:
        self.asked = n_workers
        options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": options}, security=security, silence_logs=100
        )

    def scale(self, n: int = 0, memory: Any = None, cores: Any = None) -> None:  # noqa: ARG002 - Dask's signature
        """Asks, in vain."""
        self.asked = n
