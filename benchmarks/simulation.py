"""A cluster that nobody has at hand: a discrete-event simulation of one huge scene on up to 1,024 GPU workers.

The planner's chunks, the engine's agenda (a seam as soon as the chunks around it are finished) and the runner's limit
of jobs in flight are the real ones; what a job costs is measured here or taken from the other benchmarks. Only the time
of a tile on a GPU is assumed: `TILE_SECONDS`, three nets from light to heavy. A file ``costs.json`` in the benchmarks'
folder, with fields of `Costs`, replaces what is measured.
"""

from __future__ import annotations

import heapq
import json
import math
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np

import geoseg
from benchmarks.measure import Bench, Figure, StageClock
from benchmarks.nets import pointwise_package
from benchmarks.scene import large_scene
from benchmarks.scheduling import CLIENT_PER_JOB, SCHEDULER_PER_JOB
from geoseg.decide import layers_of
from geoseg.engine import Agenda
from geoseg.exchange import Shared
from geoseg.grid import Chunk
from geoseg.jobs import ChunkJob, Facts, SeamJob
from geoseg.journal import RunDirectory
from geoseg.plan import RunPlan, plan_run
from geoseg.settings import Settings
from geoseg.spec import ClassInfo
from geoseg.testing import LinearModel, SyntheticScene, scene_of

__all__ = ["Costs", "Outcome", "limits_of", "measure", "plan_for", "simulate"]

SIDE, TILE, OVERLAP, CLASSES = 100_000, 512, 128, 6
WORKERS = (64, 256, 1024)
TARGETS = {64: 0.90, 1024: 0.80}
TILE_SECONDS = {"U-Net resnet18": 0.004, "ViT-L": 0.04, "ViT-L with eight-fold test-time augmentation": 0.32}
"""Seconds per tile of 512 on one GPU in bf16: orders of magnitude, assumed, not measured."""
WORKER_MEMORY = 16 << 30
"""Bytes of host memory beside each GPU."""
WAITING = 2
"""Jobs that wait on each worker while it works at another, as `geoseg.runner` keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the parts of a run cost, in seconds and bytes."""

    tile: float
    """Seconds of the net per tile: assumed."""
    read_tile: float = 0.0
    """Seconds of decoding per tile, beside the net: of the chunks that `measured` runs, like the four after it."""
    chunk: float = 0.0
    """Seconds per chunk that overlap with nothing: opening, first read, last write, durable parts."""
    seam: float = 0.0
    """Seconds per seam."""
    seam_pixel: float = 0.0
    """Seconds per pixel of a seam."""
    assembly_pixel: float = 0.0
    """Seconds per pixel of putting finished COGs together, on the client's cores."""
    client: float = 0.0
    """Seconds of the client per job, half before and half after it: from the benchmark `scheduling`."""
    scheduler: float = 0.0
    """Likewise of the scheduler, which works beside the client."""
    start: float = 0.0
    """Seconds that a worker takes to load the net with its first chunk: assumed."""
    bandwidth: float = math.inf
    """Bytes per second of the shared file system, all workers together: assumed."""
    stored: float = 0.6
    """Bytes on disk per byte of pixels, read and written: DEFLATE on Sentinel-2, about."""


DEFAULTS: Mapping[str, float] = {"client": 0.0025, "scheduler": 0.0025, "start": 10.0, "bandwidth": 10e9}
"""The target of `scheduling` for both together; loading a net of 1 GB and starting CUDA; a parallel file system of
modest size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One simulated run."""

    seconds: float
    """From the first job to the last durable part."""
    efficiency: float
    """Forward passes alone, perfectly shared out, over `seconds`."""
    assembly: float
    """Seconds from there to finished COGs."""


def plan_for(workers: int, *, side: int = SIDE, tile: int = TILE, overlap: int = OVERLAP, **options: Any) -> RunPlan:
    """What the planner makes of a scene of `side` x `side` for a number of workers; nothing is read."""
    spec = replace(
        LinearModel(np.zeros((CLASSES, 4))).spec,
        classes=tuple(ClassInfo(value=value, name=f"class-{value}") for value in range(CLASSES)),
    )
    scene = scene_of(SyntheticScene(side, side, names=("blue", "green", "red", "nir")))
    settings = Settings(device="cuda:0", precision="bf16", batch=8)
    return plan_run(
        scene,
        spec,
        settings=settings,
        layers=layers_of(spec),
        tile=tile,
        overlap=overlap,
        workers=workers,
        worker_memory=WORKER_MEMORY,
        **options,
    )


class _Cluster:
    """Workers, a client and a scheduler that do one thing at a time each, and a file system that all share.

    A job passes client and scheduler (half of what each takes), runs on the first worker that is free, and passes
    scheduler and client (the other half), who then sends what has become possible. A job's bytes pass the file system
    while it works, job after job.
    """

    def __init__(self, plan: RunPlan, workers: int, costs: Costs) -> None:
        self._plan, self._costs = plan, costs
        self._slots = workers * (1 + WAITING)
        self._idle = list(range(workers))
        self._cold = set(self._idle)
        self._ready: deque[tuple[str, float, float]] = deque()
        self._events: list[tuple[float, int, str, Any]] = []
        self._client = self._scheduler = self._disk = self._last = 0.0
        self._in_flight = self._number = 0
        self._agenda = Agenda(plan.chunks, ())
        facts = Facts(
            plan=plan, source=cast("Any", None), wanted=None, model=cast("Any", None), parts=cast("Any", None)
        )
        self._facts = Shared("", facts)
        self._read = plan.bytes_to_read / plan.chunks.pixels_read

    def run(self) -> float:
        """Seconds until the client knows of the last part."""
        self._send(0.0)
        while self._events:
            now, _, what, payload = heapq.heappop(self._events)
            if what == "sent":
                self._ready.append(payload)
            elif what == "done":
                name, worker = payload
                heapq.heappush(self._idle, worker)
                self._at(self._by_client(self._by_scheduler(now)), "noted", name)
            else:
                self._last, self._in_flight = now, self._in_flight - 1
                self._agenda.finish(payload)
                self._send(now)
            self._work(now)
        return self._last

    def _at(self, when: float, what: str, payload: Any) -> None:
        self._number += 1  # events of one moment stay in the order in which they were made
        heapq.heappush(self._events, (when, self._number, what, payload))

    def _by_client(self, now: float) -> float:
        """When the client is through with one more message."""
        self._client = max(now, self._client) + self._costs.client / 2
        return self._client

    def _by_scheduler(self, now: float) -> float:
        """When the scheduler is."""
        self._scheduler = max(now, self._scheduler) + self._costs.scheduler / 2
        return self._scheduler

    def _send(self, now: float) -> None:
        while self._in_flight < self._slots and (job := self._agenda.next(self._facts)) is not None:
            self._in_flight += 1
            seconds, size = self._chunk(job.chunk) if isinstance(job, ChunkJob) else self._seams(cast("SeamJob", job))
            self._at(self._by_scheduler(self._by_client(now)), "sent", (job.name, seconds, size))

    def _work(self, now: float) -> None:
        while self._ready and self._idle:
            name, seconds, size = self._ready.popleft()
            worker = heapq.heappop(self._idle)
            if worker in self._cold:
                self._cold.remove(worker)
                seconds += self._costs.start
            self._disk = max(now, self._disk) + size / self._costs.bandwidth
            self._at(max(now + seconds, self._disk), "done", (name, worker))

    def _chunk(self, chunk: Chunk) -> tuple[float, float]:
        """Seconds and bytes of a chunk job: reading hides behind the net, or the net behind reading."""
        costs = self._costs
        read = (chunk.extent & self._plan.chunks.crop).size * self._read
        written = chunk.core.size * len(self._plan.layers.counts)
        shared = sum(area.size for area in chunk.shared) * (4 * CLASSES + 1)
        return costs.chunk + chunk.tiles * max(costs.tile, costs.read_tile), costs.stored * (read + written) + shared

    def _seams(self, job: SeamJob) -> tuple[float, float]:
        chunks = [self._plan.chunks.chunk_at(*place) for place in job.places]
        pixels = sum(area.size for chunk in chunks for area in chunk.seam)
        shared = 2 * pixels * (4 * CLASSES + 1)  # most of a seam lies between two chunks
        written = self._costs.stored * pixels * len(self._plan.layers.counts)
        return len(chunks) * self._costs.seam + pixels * self._costs.seam_pixel, shared + written


def simulate(plan: RunPlan, workers: int, costs: Costs) -> Outcome:
    """How a run goes on a cluster."""
    seconds = _Cluster(plan, workers, costs).run()
    ideal = plan.tiles * costs.tile / workers
    assembly = plan.chunks.crop.size * costs.assembly_pixel
    return Outcome(seconds=seconds, efficiency=ideal / seconds if seconds else 1.0, assembly=assembly)


def limits_of(plan: RunPlan, workers: int, costs: Costs) -> dict[str, float]:
    """Efficiency that is won if one cost were none, the largest first; what then remains is the tail."""
    free = {
        "client and scheduler": {"client": 0.0, "scheduler": 0.0},
        "seams": {"seam": 0.0, "seam_pixel": 0.0},
        "start-up of workers": {"start": 0.0},
        "fixed cost of a chunk": {"chunk": 0.0},
        "decoding": {"read_tile": 0.0},
        "shared file system": {"bandwidth": math.inf},
    }
    now = simulate(plan, workers, costs).efficiency
    won = {name: simulate(plan, workers, replace(costs, **without)).efficiency - now for name, without in free.items()}
    alone = replace(costs, **{name: value for without in free.values() for name, value in without.items()})
    won["tail: chunks are no multiple of workers"] = 1.0 - simulate(plan, workers, alone).efficiency
    return dict(sorted(won.items(), key=lambda item: -item[1]))


# --- measured ---


def measured(bench: Bench) -> dict[str, float]:
    """Costs of jobs on this machine: chunks of several sizes with a net of next to no work, one process, local disk."""
    side, tile, overlap = bench.pick(4096, 1024), bench.pick(TILE, 128), bench.pick(OVERLAP, 32)
    scene, out = large_scene(bench.folder("scenes"), side), bench.folder("runs") / "simulation"
    package, clock = pointwise_package(bench.folder("nets")), StageClock()
    shutil.rmtree(out, ignore_errors=True)
    chunk = 3 * (tile - overlap)
    geoseg.segment(
        scene, model=package, out=out, vector=(), backend="torch", tile=tile, overlap=overlap, chunk=chunk,
        on_event=clock,
    )  # fmt: skip
    records = [line for line in RunDirectory(out).lines() if "counts" in line]
    shutil.rmtree(out)
    chunks = [record for record in records if record["kind"] == "chunk"]
    seams = [record for record in records if record["kind"] == "seam"]
    _, fixed = _line([record["counts"]["tiles"] for record in chunks], [record["seconds"] for record in chunks])
    per_pixel, seam = _line([record["counts"]["pixels"] for record in seams], [record["seconds"] for record in seams])
    tiles = sum(record["counts"]["tiles"] for record in chunks)
    return {
        "read_tile": sum(record["counts"]["read"] for record in chunks) / tiles,
        "chunk": fixed,
        "seam": seam,
        "seam_pixel": per_pixel,
        "assembly_pixel": (clock.to_rasters - clock.to_parts) / side**2,
    }


def _line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of seconds over sizes, neither below 0."""
    slope, intercept = np.polyfit(sizes, seconds, 1) if len(set(sizes)) > 1 else (0.0, np.mean(seconds))
    if slope < 0:
        return 0.0, float(np.mean(seconds))
    return float(slope), max(0.0, float(intercept))


def costs_of(bench: Bench) -> tuple[Costs, str]:
    """Costs without the net's, and where they come from."""
    costs, origin = dict(DEFAULTS) | measured(bench), ["jobs measured here"]
    results = bench.place / ("quick.json" if bench.quick else "results.json")
    rows = json.loads(results.read_text())["figures"] if results.exists() else []
    benchmarked = {row["what"]: row["value"] / 1e3 for row in rows if row["benchmark"] == "scheduling"}
    if CLIENT_PER_JOB in benchmarked:
        costs |= {"client": benchmarked[CLIENT_PER_JOB], "scheduler": benchmarked[SCHEDULER_PER_JOB]}
        origin.append("scheduling as benchmarked")
    else:
        origin.append("scheduling assumed")
    given = bench.place / "costs.json"
    if given.exists():
        costs |= {name: float(value) for name, value in json.loads(given.read_text()).items()}
        origin.append(f"{given.name} as given")
    known = {field.name for field in fields(Costs)}
    if set(costs) - known:
        raise ValueError(f"{given}: no cost named {', '.join(sorted(set(costs) - known))}")
    return Costs(**({"tile": 0.0} | costs)), ", ".join(origin)


def measure(bench: Bench) -> list[Figure]:
    """Efficiency of warm workers for each number of them and each net; targets are held against the heaviest net.

    A light net is done before 1,024 workers have begun: how heavy one must be is a figure of its own.
    """
    base, origin = costs_of(bench)
    plans = {workers: plan_for(workers, side=bench.pick(SIDE, 8192)) for workers in WORKERS}
    figures = [
        _efficiency(plans[workers], workers, replace(base, tile=seconds), net, origin)
        for net, seconds in TILE_SECONDS.items()
        for workers in WORKERS
    ]
    return figures + [_lightest(plans[workers], workers, base, target) for workers, target in TARGETS.items()]


def _efficiency(plan: RunPlan, workers: int, costs: Costs, net: str, origin: str) -> Figure:
    warm = replace(costs, start=0.0)
    found, cold = simulate(plan, workers, warm), simulate(plan, workers, costs)
    lost = [f"{name} {won:.0%}" for name, won in limits_of(plan, workers, warm).items() if won >= 0.01]
    heaviest = costs.tile == max(TILE_SECONDS.values())
    return Figure(
        benchmark="simulation",
        what=f"efficiency of {workers} GPUs, {net} ({costs.tile * 1e3:g} ms a tile, assumed), to the last durable part",
        value=found.efficiency,
        unit="",
        limit=TARGETS.get(workers) if heaviest else None,
        wanted=">=",
        note=(
            f"{found.seconds:.0f} s, with cold workers {cold.seconds:.0f} s, then {found.assembly:.0f} s of assembly; "
            f"{len(plan.chunks)} chunks; lost to: {', '.join(lost[:3]) or 'nothing'}; {origin}"
        ),
    )


def _lightest(plan: RunPlan, workers: int, costs: Costs, target: float) -> Figure:
    """The least time of a tile with which the target is reached; found by halving the interval."""
    warm, low, high = replace(costs, start=0.0), 1e-3, 1e3
    for _ in range(16):
        middle = math.sqrt(low * high)
        reached = simulate(plan, workers, replace(warm, tile=middle)).efficiency >= target
        low, high = (low, middle) if reached else (middle, high)
    return Figure(
        benchmark="simulation",
        what=f"lightest net that keeps {workers} GPUs busy to {target:.0%}",
        value=high * 1e3,
        unit="ms a tile",
        note="" if high < 999 else "none does: the planner's chunks leave too long a tail",
    )
