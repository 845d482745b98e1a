"""The work of a run, piece by piece: a chunk is streamed, a seam is decided. A piece is durable before it counts.

A job holds its place only; what all of them share travels once (`geoseg.exchange.Shared`).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoseg.decide import Layers
from geoseg.errors import ChunkError, GeosegError
from geoseg.exchange import Shared
from geoseg.grid import Chunk
from geoseg.journal import Record
from geoseg.memory import cache_bytes, give_back
from geoseg.plan import RunPlan
from geoseg.protocols import Model, Source, Wanted
from geoseg.sink.parts import PartWriter, load_arrays, save_arrays
from geoseg.source.open import limit_cache
from geoseg.store import Store
from geoseg.stream import SharedSums, decide_shared, stream_chunk
from geoseg.window import Window

__all__ = ["ChunkJob", "Facts", "SeamJob", "peak_memory", "seam_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What all jobs of a run have in common."""

    plan: RunPlan
    source: Source
    wanted: Wanted | None
    model: Model
    parts: Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkJob:
    """Streams one chunk; leaves its core as TIFFs and its shared sums as one npz."""

    chunk: Chunk
    scene_id: str
    facts: Shared[Facts]

    @property
    def name(self) -> str:
        """The chunk's."""
        return self.chunk.name

    @property
    def place(self) -> tuple[str, str]:
        """Scene id and window, for messages."""
        return self.scene_id, str(self.chunk.extent)

    def run(self, on_row: Callable[[int, int], None] | None = None) -> list[Record]:
        """Leaves the chunk's parts.

        Raises:
            SourceError: The source cannot be read.
            ModelError: The net gave something that is no score.
            SinkError: Parts cannot be written.
            ChunkError: Anything else went wrong.
        """
        began = time.perf_counter()
        facts, plan, core = self.facts.value, self.facts.value.plan, self.chunk.core
        give_back()
        stored = sum(np.dtype(band.dtype).itemsize for band in facts.source.bands)
        limit_cache(cache_bytes(facts.source.block, self.chunk.extent.width, plan.grid.width, stored))
        writer = PartWriter(facts.parts, self.name, core, _bands(plan.layers)) if core else None
        try:
            shared, counts = stream_chunk(
                self.chunk,
                source=facts.source,
                model=facts.model,
                blend=plan.blend,
                layers=plan.layers,
                settings=plan.settings,
                wanted=facts.wanted,
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
            files |= save_arrays(facts.parts, _shared_name(self.name), _to_arrays(shared))
        return [_record("chunk", self.name, files, began, asdict(counts))]

    def _failed(self, error: Exception) -> ChunkError:
        scene, window = self.place
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        return ChunkError(f"{scene}: chunk {self.name} ({window}) failed: {first_line}", scene, window)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamJob:
    """Adds up what several chunks know of the seam areas that bear their names, and decides; some seams at once.

    A seam takes far less time than a scheduler needs for a task, so that each in a task of its own would be mostly
    administration. Each still leaves parts and a record of its own.
    """

    places: tuple[tuple[int, int], ...]
    """Row and column, in the plan's grid of chunks, of those whose seams they are."""
    scene_id: str
    facts: Shared[Facts]

    @property
    def name(self) -> str:
        """That of its first seam."""
        return seam_name(self._chunk(0))

    @property
    def place(self) -> tuple[str, str]:
        """Scene id and window of the first, for messages."""
        return self.scene_id, str(self._chunk(0).extent)

    def run(self, on_row: Callable[[int, int], None] | None = None) -> list[Record]:
        """Leaves the parts of the seam areas.

        Raises:
            SinkError: Parts cannot be written.
        """
        records = []
        for index in range(len(self.places)):
            records.append(self._decide(self._chunk(index)))
            if on_row:
                on_row(0, records[-1]["counts"]["pixels"])
        return records

    def _chunk(self, index: int) -> Chunk:
        return self.facts.value.plan.chunks.chunk_at(*self.places[index])

    def _decide(self, chunk: Chunk) -> Record:
        began = time.perf_counter()
        parts, plan = self.facts.value.parts, self.facts.value.plan
        contributors = [other.name for other in plan.chunks.contributors(chunk)]
        files: dict[str, Any] = {}
        for number, area in enumerate(chunk.seam):
            writer = PartWriter(parts, f"{seam_name(chunk)}{number}", area, _bands(plan.layers))
            try:
                writer.write(area, decide_shared(_known_of(area, parts, contributors), plan.layers))
            except BaseException:
                writer.abandon()
                raise
            files |= writer.close()
        pixels = sum(area.size for area in chunk.seam)
        return _record("seam", seam_name(chunk), files, began, {"pixels": pixels})


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


def seam_name(chunk: Chunk) -> str:
    """Name in the journal, and of the parts, of the seam areas that bear a chunk's name."""
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


def _known_of(area: Window, parts: Store, contributors: Sequence[str]) -> list[SharedSums]:
    """What the chunks around an area left of it."""
    sums, inside = _keys(area)
    known = (load_arrays(parts, _shared_name(name), {sums, inside}) for name in contributors)
    return [SharedSums(window=area, sums=arrays[sums], inside=arrays[inside]) for arrays in known if arrays]
