"""Runs the chunks of a plan, then the seams between them; every finished piece is durable before the next begins.

A seam can be decided as soon as all chunks around it are finished. Which runner does the work, in what order and how
often it was interrupted changes no byte of the result.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.blend import Blend
from geoseg.cluster import Cluster
from geoseg.decide import Layers
from geoseg.errors import ChunkError, GeosegError
from geoseg.events import ChunkDone, OnEvent, StageStarted
from geoseg.grid import Chunk
from geoseg.journal import Record, RunDirectory
from geoseg.plan import RunPlan
from geoseg.protocols import Model, Source, Wanted
from geoseg.runner import Job
from geoseg.settings import Settings
from geoseg.sink.parts import Part, PartWriter, load_arrays, save_arrays
from geoseg.source.open import limit_cache
from geoseg.stream import SharedSums, decide_shared, stream_chunk
from geoseg.window import Window

__all__ = ["parts_of", "peak_memory", "run_chunks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChunkJob:
    """Streams one chunk; leaves its core as TIFFs and its shared sums as one npz."""

    chunk: Chunk
    scene_id: str
    source: Source
    wanted: Wanted | None
    model: Model
    blend: Blend
    layers: Layers
    settings: Settings
    folder: Path

    @property
    def name(self) -> str:
        return self.chunk.name

    @property
    def place(self) -> tuple[str, str]:
        return self.scene_id, str(self.chunk.extent)

    def run(self, on_row: Callable[[int, int], None] | None = None) -> Record:
        began = time.perf_counter()
        limit_cache(_cache_bytes(self.source, self.chunk))
        core = self.chunk.core
        writer = PartWriter(self.folder, self.name, core, _bands(self.layers)) if core else None
        try:
            shared, counts = stream_chunk(
                self.chunk,
                source=self.source,
                model=self.model,
                blend=self.blend,
                layers=self.layers,
                settings=self.settings,
                wanted=self.wanted,
                write=writer.write if writer else _nothing_to_write,
                on_row=on_row or (lambda tiles, pixels: None),
            )
        except BaseException as error:
            if writer:
                writer.abandon()
            if isinstance(error, GeosegError) or not isinstance(error, Exception):
                raise
            raise self._failed(error) from error
        files = writer.close() if writer else {}
        if shared:
            files |= save_arrays(self.folder / _shared_name(self.name), _to_arrays(shared))
        return _record("chunk", self.name, files, began, asdict(counts))

    def _failed(self, error: Exception) -> ChunkError:
        scene, window = self.place
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        return ChunkError(f"{scene}: chunk {self.name} ({window}) failed: {first_line}", scene, window)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeamJob:
    """Adds up what several chunks know of the seam areas that bear one chunk's name, and decides."""

    chunk: Chunk
    scene_id: str
    contributors: tuple[str, ...]
    layers: Layers
    folder: Path

    @property
    def name(self) -> str:
        return _seam_name(self.chunk)

    @property
    def place(self) -> tuple[str, str]:
        return self.scene_id, str(self.chunk.extent)

    def run(self, on_row: Callable[[int, int], None] | None = None) -> Record:
        began = time.perf_counter()
        files: dict[str, Any] = {}
        pixels = 0
        for number, area in enumerate(self.chunk.seam):
            writer = PartWriter(self.folder, f"{self.name}{number}", area, _bands(self.layers))
            try:
                writer.write(area, decide_shared(_known_of(area, self.folder, self.contributors), self.layers))
            except BaseException:
                writer.abandon()
                raise
            files |= writer.close()
            pixels += area.size
        if on_row:
            on_row(0, pixels)
        return _record("seam", self.name, files, began, {"pixels": pixels})


def _cache_bytes(source: Source, chunk: Chunk) -> int:
    """Two rows of the source's blocks, as wide as the chunk reads; and as much again for bands stored interleaved."""
    rows, cols = source.block
    per_pixel = sum(np.dtype(band.dtype).itemsize for band in source.bands)
    return 2 * 2 * rows * (chunk.extent.width + 2 * cols) * per_pixel


def _record(kind: str, name: str, files: dict[str, Any], began: float, counts: dict[str, Any]) -> Record:
    return {
        "kind": kind,
        "name": name,
        "files": files,
        "seconds": time.perf_counter() - began,
        "counts": counts,
        "process": os.getpid(),
        "peak_memory": peak_memory(),
    }


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    Linux hands the largest size of whoever started a process down to it in getrusage, so its own record is asked first.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _nothing_to_write(*_: object) -> None:
    """The core of a chunk whose tiles all reach into others is empty."""


def _seam_name(chunk: Chunk) -> str:
    return f"{chunk.name}.seam"


def _shared_name(chunk_name: str) -> str:
    return f"{chunk_name}.shared.npz"


def _bands(layers: Layers) -> dict[str, tuple[int, str]]:
    return {name: (count, layers.dtype(name)) for name, count in layers.counts.items()}


def _to_arrays(shared: list[SharedSums]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for part in shared:
        sums, inside = _keys(part.window)
        arrays |= {sums: part.sums, inside: part.inside}
    return arrays


def _keys(area: Window) -> tuple[str, str]:
    return f"sums {area}", f"inside {area}"


def _known_of(area: Window, folder: Path, contributors: tuple[str, ...]) -> list[SharedSums]:
    """What the chunks around an area left of it."""
    sums, inside = _keys(area)
    known = (load_arrays(folder / _shared_name(name), {sums, inside}) for name in contributors)
    return [SharedSums(window=area, sums=arrays[sums], inside=arrays[inside]) for arrays in known if arrays]


def run_chunks(
    plan: RunPlan,
    *,
    source: Source,
    model: Model,
    directory: RunDirectory,
    wanted: Wanted | None,
    cluster: Cluster,
    on_event: OnEvent,
) -> list[Record]:
    """Runs what the journal does not hold yet; returns the records of every chunk and seam.

    Raises:
        SourceError: The source cannot be read.
        ModelError: The net gave something that is no score.
        SinkError: Parts cannot be written.
        ChunkError: Anything else that a chunk died of.
    """
    finished = directory.finished()
    done = [chunk for chunk in plan.chunks if chunk.name in finished]
    on_event(
        StageStarted(
            stage="predict",
            total_tiles=plan.tiles,
            done_tiles=sum(chunk.tiles for chunk in done),
            total_pixels=plan.chunks.crop.size,
        )
    )
    missing = [chunk for chunk in plan.chunks if chunk.name not in finished]
    seams = [chunk for chunk in plan.chunks if chunk.seam and _seam_name(chunk) not in finished]
    if not missing and not seams:
        return list(finished.values())

    def chunk_job(chunk: Chunk) -> _ChunkJob:
        return _ChunkJob(
            chunk=chunk,
            scene_id=plan.scene_id,
            source=source,
            wanted=wanted,
            model=model,
            blend=plan.blend,
            layers=plan.layers,
            settings=plan.settings,
            folder=directory.parts,
        )

    def seam_job(chunk: Chunk) -> _SeamJob:
        around = tuple(other.name for other in plan.chunks.contributors(chunk))
        return _SeamJob(
            chunk=chunk, scene_id=plan.scene_id, contributors=around, layers=plan.layers, folder=directory.parts
        )

    waiting: deque[Job] = deque(chunk_job(chunk) for chunk in missing)
    blocked = [seam_job(chunk) for chunk in seams]
    runner, in_flight = cluster.runner(on_event), 0
    for _ in range(len(missing) + len(seams)):
        for seam in [seam for seam in blocked if finished.keys() >= set(seam.contributors)]:
            blocked.remove(seam)
            waiting.appendleft(seam)
        while waiting and in_flight < runner.slots:
            runner.submit(waiting.popleft())
            in_flight += 1
        record = runner.next_done()
        in_flight -= 1
        directory.accept(record)
        finished[record["name"]] = record
        on_event(ChunkDone(chunk=record["name"], seconds=record["seconds"]))
    return list(finished.values())


def parts_of(plan: RunPlan, directory: RunDirectory, raster: str) -> list[Part]:
    """The pieces of one raster; together they cover the crop, each pixel once."""
    parts = [
        Part(path=directory.parts / f"{chunk.name}.{raster}.tif", window=chunk.core)
        for chunk in plan.chunks
        if chunk.core
    ]
    parts += [
        Part(path=directory.parts / f"{_seam_name(chunk)}{number}.{raster}.tif", window=area)
        for chunk in plan.chunks
        for number, area in enumerate(chunk.seam)
    ]
    return parts
