"""``geoseg worker``: this machine's share of a cluster."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.messages import say
from geoseg.cli.options import debug_option
from geoseg.cli.outcome import DONE
from geoseg.cli.text import byte_text
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.processes import Process

__all__ = ["worker"]


@click.command()
@click.option("--scheduler", metavar="ADDRESS", help="Of the scheduler. Default: $DASK_SCHEDULER_ADDRESS.")
@click.option("--scheduler-file", type=click.Path(path_type=Path), metavar="FILE", help="Where it wrote its address.")
@click.option("--gpus", metavar="auto|none|LIST", help="One process for each of these CUDA devices, like 0,1.")
@click.option(
    "--workers", type=int, metavar="N", help="Processes on the CPU. Default: none beside GPUs, else by cores."
)
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of each process.")
@click.option(
    "--memory-limit", default="auto", metavar="SIZE|auto|0", help="Of each process. Default: auto, its share."
)
@click.option(
    "--death-timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="Without scheduler."
)
@click.option("--local-directory", metavar="DIR", help="For temporary files.")
@click.option("--name", metavar="NAME", help="What the cluster calls them; several are numbered.")
@debug_option
def worker(
    *,
    scheduler: str | None,
    scheduler_file: Path | None,
    gpus: str | None,
    workers: int | None,
    threads: int,
    memory_limit: str,
    death_timeout: float,
    local_directory: str | None,
    name: str | None,
) -> int:
    """Work on chunks for the scheduler of a Dask cluster, until it ends or this command is ended.

    Starts one process per GPU, each with a device of its own, or one per core where there is none.
    """
    if scheduler is not None and scheduler_file is not None:
        raise ConfigError(f"--scheduler {scheduler} and --scheduler-file {scheduler_file} exclude each other")
    if death_timeout <= 0:
        raise ConfigError(f"--death-timeout {death_timeout}: should be above 0")
    from geoseg.cluster_file import address_in
    from geoseg.processes import processes_of, serve

    processes = processes_of(workers=workers, gpus=gpus or "auto", threads=threads, memory_limit=memory_limit)
    address = scheduler or (address_in(scheduler_file, death_timeout) if scheduler_file else _from_environment())
    text = f"{_described(processes)} at work for {address}"
    asyncio.run(
        serve(
            address,
            processes,
            name=name,
            death_timeout=death_timeout,
            local_directory=local_directory,
            on_ready=lambda: say(text, event="worker", level=logging.WARNING, scheduler=address),
        )
    )
    return DONE


def _described(processes: Sequence[Process]) -> str:
    devices = ", ".join(filter(None, (process.environment.get("CUDA_VISIBLE_DEVICES") for process in processes)))
    where = f" on GPU {devices}" if devices else ""
    limit = processes[0].memory_limit
    memory = f", {byte_text(limit)} of memory each" if limit else ""
    return f"{len(processes)} {'process' if len(processes) == 1 else 'processes'}{where}{memory}"


def _from_environment() -> str:
    address = os.environ.get("DASK_SCHEDULER_ADDRESS", "").strip()
    if not address:
        raise ConfigError("--scheduler is missing: give the scheduler's address, or --scheduler-file")
    return address
