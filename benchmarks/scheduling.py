"""What the engine itself costs per chunk: the chunks of a huge scene, on a real cluster, without their work.

Scheduler, workers and client are processes of their own, as they are on any cluster that is not this machine alone.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Bench, Figure
from geoseg.cluster import Cluster
from geoseg.decide import layers_of
from geoseg.engine import Agenda, work_off
from geoseg.exchange import Job
from geoseg.jobs import Facts, SeamJob, seam_name
from geoseg.journal import Record, RunDirectory
from geoseg.plan import RunPlan, plan_run
from geoseg.settings import ClusterOptions, Settings
from geoseg.testing import LinearModel, SyntheticScene, scene_of

__all__ = ["CLIENT_PER_JOB", "SCHEDULER_PER_JOB", "Idle", "Watch", "idle_plan", "measure", "run_idle"]

SIDE, TILE, OVERLAP = 400_000, 512, 128
CHUNK = 10 * (TILE - OVERLAP)
"""Pixels: 105 x 105 chunks, nearly all with a seam of their own."""
CLIENT_PER_JOB = "processor time of the client per job"
SCHEDULER_PER_JOB = "processor time of the scheduler per job"
EARLY = 0.2
"""Share of the chunks after which everything is loaded and every queue is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A job that leaves its work undone, and reports as if it had done it."""

    job: Job

    @property
    def name(self) -> str:
        """The job's."""
        return self.job.name

    @property
    def place(self) -> tuple[str, str]:
        """The job's."""
        return self.job.place

    def run(self, on_row: Callable[[int, int], None] | None = None) -> list[Record]:
        """Records of usual length; one tile row is reported."""
        if on_row:
            on_row(8, 1)
        if isinstance(self.job, SeamJob):
            chunks = self.job.facts.value.plan.chunks
            return [_idle_record("seam", seam_name(chunks.chunk_at(*place))) for place in self.job.places]
        return [_idle_record("chunk", self.name)]


def _idle_record(kind: str, name: str) -> Record:
    digest = {"size": 123_456, "sha256": "0" * 64}
    return {
        "kind": kind,
        "name": name,
        "files": {f"{name}.{raster}.tif": digest for raster in ("labels", "confidence", "shared")},
        "seconds": 0.0,
        "counts": {"tiles": 8, "pixels": 1, "forward_passes": 8, "bytes_read": 0, "halvings": 0, "read": 0.0},
        "process": os.getpid(),
        "peak_memory": 1,
    }


@dataclass(slots=True)
class Watch:
    """What a run of idle jobs was seen to do."""

    chunks: int
    """Chunks of the run."""
    jobs: int = 0
    """Jobs that were handed out: a chunk each, or some seams."""
    finished: int = 0
    """Chunks and seams whose records were accepted."""
    job_bytes: int = 0
    """Size of the largest job on its way."""
    most_in_flight: int = 0
    """Jobs at once."""
    memory: list[int] = field(default_factory=list)
    """Resident bytes of client and scheduler together: early, and at the end."""
    seconds: float = 0.0
    """From the first job to the last record."""
    client: float = 0.0
    """Of these, seconds of processor time of this process."""
    scheduler: float = 0.0
    """And of the scheduler's, which works beside it."""


def idle_plan(side: int = SIDE, *, tile: int = TILE, overlap: int = OVERLAP, chunk: int = CHUNK) -> RunPlan:
    """The plan of a scene of `side` x `side`; nothing is read."""
    spec = LinearModel(np.zeros((3, 4))).spec
    scene = scene_of(SyntheticScene(side, side, names=("blue", "green", "red", "nir")))
    return plan_run(
        scene, spec, settings=Settings(), layers=layers_of(spec), tile=tile, overlap=overlap, chunk=chunk, workers=2
    )


def run_idle(bench: Bench, plan: RunPlan) -> Watch:
    """Every job of the plan through engine, runner, scheduler, two worker processes and the journal on disk."""
    out = bench.folder("runs") / "scheduling"
    shutil.rmtree(out, ignore_errors=True)
    watch, agenda, directory = Watch(chunks=len(plan.chunks)), Agenda(plan.chunks, ()), RunDirectory(out)
    asked = 0
    with _elsewhere(out.with_suffix(".cluster")) as (cluster, scheduler), directory.locked():
        directory.begin({})
        with closing(cluster.runner(lambda _: None)) as runner:
            model, source = LinearModel(np.zeros((3, 4))), SyntheticScene(64, 64)
            facts = runner.share(Facts(plan=plan, source=source, wanted=None, model=model, parts=directory.parts))

            def next_job() -> Job | None:
                if (job := agenda.next(facts)) is None:
                    return None
                nonlocal asked
                asked += 1
                watch.jobs += 1
                watch.job_bytes = max(watch.job_bytes, len(pickle.dumps(job)))
                watch.most_in_flight = max(watch.most_in_flight, runner.in_flight + asked)
                return Idle(job=job)

            def accept(records: Sequence[Record]) -> None:
                nonlocal asked
                directory.accept(*records)
                asked = 0
                watch.finished += len(records)
                if not watch.memory and watch.finished >= EARLY * watch.chunks:
                    watch.memory.append(_resident(os.getpid(), scheduler))

            began, client, elsewhere = time.perf_counter(), time.process_time(), _worked(scheduler)
            work_off(next_job, agenda.finish, runner, accept)
            watch.seconds = time.perf_counter() - began
            watch.client, watch.scheduler = time.process_time() - client, _worked(scheduler) - elsewhere
            watch.memory.append(_resident(os.getpid(), scheduler))
    shutil.rmtree(out)
    return watch


@contextmanager
def _elsewhere(folder: Path) -> Iterator[tuple[Cluster, int]]:
    """A cluster of two workers of one thread, and the number of its scheduler's process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / "scheduler.json"
    python, place = (sys.executable, "-m"), ("--scheduler-file", str(file))
    dask = (*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *place)
    workers = (*python, "geoseg", "worker", "--workers", "2", *place)
    processes = [subprocess.Popen(dask, stderr=subprocess.DEVNULL)]
    try:
        while not file.exists():
            time.sleep(0.1)
        processes.append(subprocess.Popen(workers, stderr=subprocess.DEVNULL))
        with Cluster(ClusterOptions(scheduler_file=file)) as cluster:
            yield cluster, processes[0].pid
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        shutil.rmtree(folder)


def _resident(*processes: int) -> int:
    return sum(psutil.Process(number).memory_info().rss for number in processes)


def _worked(process: int) -> float:
    """Seconds of processor time of a process so far."""
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def measure(bench: Bench) -> list[Figure]:
    """Milliseconds per chunk and its seam, jobs in flight, and what client and scheduler hold on to."""
    side = bench.pick(SIDE, 40_000)
    watch = run_idle(bench, idle_plan(side))
    early, late = watch.memory
    records = (1 - EARLY) * watch.finished
    name = f"{watch.chunks} chunks and {watch.finished - watch.chunks} seams without work, {side} x {side}, two workers"
    return [
        Figure(
            benchmark="scheduling", what=f"engine, scheduler and journal per chunk: {name}",
            value=watch.seconds / watch.chunks * 1e3, unit="ms", limit=5.0,
            note=f"{watch.seconds:.1f} s in all, {watch.jobs} jobs",
        ),
        Figure(
            benchmark="scheduling", what=CLIENT_PER_JOB, value=watch.client / watch.jobs * 1e3, unit="ms",
            note="agenda, journal and Dask's client; beside the scheduler, which is a process of its own",
        ),
        Figure(
            benchmark="scheduling", what=SCHEDULER_PER_JOB, value=watch.scheduler / watch.jobs * 1e3, unit="ms",
        ),
        Figure(
            benchmark="scheduling", what="jobs in flight at once", value=watch.most_in_flight, unit="jobs",
            note=f"the largest is {watch.job_bytes} bytes on its way",
        ),
        Figure(
            benchmark="scheduling", what="client and scheduler hold on to", value=(late - early) / records,
            unit="bytes a record",
            note=f"{early / 1e6:.0f} MB after {EARLY:.0%} of the chunks, {late / 1e6:.0f} MB at the end",
        ),
    ]  # fmt: skip
