"""Worker processes of this machine: one per GPU, or one per core, each set up before a library can look around.

`geoseg worker` starts them for a scheduler that runs somewhere; `LocalProcesses` starts them with a scheduler of
their own. Thread pools are told their size, and CUDA its one device, through the environment of each process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import dask
from dask.utils import parse_bytes
from distributed import Nanny, Scheduler, Security, SpecCluster
from distributed.system import MEMORY_LIMIT

from geoseg.cluster_file import first_line
from geoseg.errors import ClusterError, ConfigError
from geoseg.tuning import usable_cores

__all__ = ["LocalProcesses", "Process", "processes_of", "serve"]

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
_SILENT = 100
"""Above every level: of processes that come and go, Dask has much to say; what matters is an error or an event."""
_DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""Run as a worker starts: Ctrl-C reaches every process of a terminal, and is for the one that started the others."""
_CLOSE_SECONDS = 10.0
"""What a process has to end by itself before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One worker process to be."""

    environment: dict[str, str]
    """Variables that it starts with."""
    resources: dict[str, float]
    """What it declares to have."""
    memory_limit: int
    """Bytes after which its nanny ends it; 0: none."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `distributed.Nanny`."""
        return {
            "nthreads": 1,
            "env": self.environment,
            "resources": self.resources,
            "memory_limit": self.memory_limit,
            "preload": [*dask.config.get("distributed.worker.preload", []), _DEAF],
        }


def processes_of(
    *,
    workers: int | None = None,
    gpus: Sequence[str | int] | Literal["auto", "none"] = "auto",
    threads: int = 1,
    memory_limit: str | int = "auto",
) -> list[Process]:
    """The processes that this machine's workers are.

    Args:
        workers: Processes on the CPU; None: one per GPU, and where there is none, as many as cores allow.
        gpus: CUDA devices by number or UUID; ``auto``: those that torch can use, none if `workers` is given.
        threads: Size of each process's thread pools.
        memory_limit: Bytes of each process (a number, or text like ``8GB``); 0: none; ``auto``: its share.

    Raises:
        ConfigError: These do not go together.

    >>> [process.environment["CUDA_VISIBLE_DEVICES"] for process in processes_of(gpus=[0, 1])]
    ['0', '1']
    >>> [process.resources for process in processes_of(workers=2)]
    [{}, {}]
    """
    if workers is not None and gpus not in ("auto", "none"):
        raise ConfigError("--workers and --gpus exclude each other: there is one process for each GPU")
    if threads < 1 or (workers is not None and workers < 1):
        raise ConfigError("--workers and --threads should be at least 1")
    devices = _devices(gpus) if workers is None else []
    count = len(devices) or workers or max(1, usable_cores() // threads)
    limit = _memory(memory_limit, count)
    pools = dict.fromkeys(_POOLS, str(threads))
    if not devices:
        return [Process(environment=pools, resources={}, memory_limit=limit)] * count
    return [
        Process(environment=pools | {"CUDA_VISIBLE_DEVICES": device}, resources={"GPU": 1.0}, memory_limit=limit)
        for device in devices
    ]


def _devices(gpus: Sequence[str | int] | Literal["auto", "none"]) -> list[str]:
    if gpus == "none":
        return []
    if gpus == "auto":
        count = import_module("torch").cuda.device_count()  # asked as the library that will use them
        shown = [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]
        return shown[:count] or [str(index) for index in range(count)]
    devices = [str(device).strip() for device in (gpus.split(",") if isinstance(gpus, str) else gpus)]
    if not devices or len(set(devices)) < len(devices) or not all(re.fullmatch(r"[\w/-]+", name) for name in devices):
        raise ConfigError(f"--gpus {gpus}: should be auto, none, or a list of different devices like 0,1")
    return devices


def _memory(limit: str | int, count: int) -> int:
    if limit == "auto":
        return int(MEMORY_LIMIT) // count
    try:
        size = parse_bytes(limit)
    except (ValueError, TypeError):
        size = -1
    if size < 0:
        raise ConfigError(f"--memory-limit {limit}: should be auto, 0 or a size like 8GB")
    return int(size)


class LocalProcesses(SpecCluster):
    """A scheduler and worker processes on this machine, listening on 127.0.0.1 only; arguments as `processes_of`."""

    def __init__(
        self,
        *,
        workers: int | None = None,
        gpus: Sequence[str | int] | Literal["auto", "none"] = "auto",
        threads: int = 1,
        memory_limit: str | int = "auto",
        dashboard: bool = False,
        security: Security | None = None,
    ) -> None:
        processes = processes_of(workers=workers, gpus=gpus, threads=threads, memory_limit=memory_limit)
        here = {"host": "127.0.0.1", "security": security or Security(), "protocol": "tls://" if security else "tcp://"}
        # Without an address Dask insists on port 8787 even for no page, and warns where another cluster has it.
        page = {"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
        quiet = {"silence_logs": _SILENT, "dashboard": False}
        specs = [{"cls": Nanny, "options": {**process.options(), **here, **quiet}} for process in processes]
        super().__init__(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": {**here, **page, "port": 0}},
            workers=dict(enumerate(specs)),
            worker=specs[0],
            security=here["security"],
            silence_logs=_SILENT,
        )

    def _update_worker_status(self, op: str, msg: Any) -> None:
        """Notes who comes and goes, and leaves it to the nanny to start a worker that died anew.

        `SpecCluster` looks 15 s after a death whether the worker has come back, and ends its nanny if it has not: also
        where it had come back, and has just died again.
        """
        super(SpecCluster, self)._update_worker_status(op, msg)  # type: ignore[no-untyped-call]


async def serve(
    address: str,
    processes: Sequence[Process],
    *,
    name: str | None,
    death_timeout: float,
    local_directory: str | None,
    on_ready: Callable[[], None],
) -> None:
    """Runs processes as workers of a scheduler until it has gone, or this process is told to end; none is left over.

    Args:
        address: The scheduler's.
        processes: What to start.
        name: What the cluster calls them, numbered where there are several; None: by their addresses.
        death_timeout: Seconds to look for the scheduler, at first and when it has gone.
        local_directory: Where they keep temporary files; None: as Dask's configuration says.
        on_ready: Called once all of them are connected.

    Raises:
        ClusterError: The scheduler does not answer.
    """
    nannies = [
        Nanny(
            address,
            **process.options(),
            name=f"{name}-{number}" if name and len(processes) > 1 else name,
            death_timeout=death_timeout,
            local_directory=local_directory,
            silence_logs=logging.WARNING,
            dashboard=False,
        )
        for number, process in enumerate(processes)
    ]
    told = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)
    at_work = asyncio.create_task(_work(nannies, on_ready))
    try:
        await asyncio.wait([at_work, asyncio.create_task(told.wait())], return_when=asyncio.FIRST_COMPLETED)
        if at_work.done():
            at_work.result()
    except (OSError, TimeoutError, RuntimeError) as error:
        raise ClusterError(
            f"scheduler {address}: no worker could connect within {death_timeout:.0f} s ({first_line(error)}); "
            "check the address, and that this machine may reach it"
        ) from error
    finally:
        at_work.cancel()
        await asyncio.gather(*(nanny.close(timeout=_CLOSE_SECONDS) for nanny in nannies), return_exceptions=True)


async def _work(nannies: Sequence[Nanny], on_ready: Callable[[], None]) -> None:
    await asyncio.gather(*nannies)
    on_ready()
    await asyncio.gather(*(nanny.finished() for nanny in nannies))
