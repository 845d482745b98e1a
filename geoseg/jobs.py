"""The work of a run, piece by piece: a chunk is streamed, a seam is decided. A piece is durable before it counts.

A job holds its place only; what all of them share travels once (`geoseg.exchange.Shared`).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
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

    def run(self, on_row: Callable[[int, int], None] | None = None) -> Record:
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
        return _record("chunk", self.name, files, began, asdict(counts))

    def _failed(self, error: Exception) -> ChunkError:
        scene, window = self.place
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        return ChunkError(f"{scene}: chunk {self.name} ({window}) failed: {first_line}", scene, window)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamJob:
    """Adds up what several chunks know of the seam areas that bear one chunk's name, and decides."""

    chunk: Chunk
    scene_id: str
    contributors: tuple[str, ...]
    facts: Shared[Facts]

    @property
    def name(self) -> str:
        """The seam's."""
        return seam_name(self.chunk)

    @property
    def place(self) -> tuple[str, str]:
        """Scene id and window, for messages."""
        return self.scene_id, str(self.chunk.extent)

    def run(self, on_row: Callable[[int, int], None] | None = None) -> Record:
        """Leaves the parts of the seam areas.

        Raises:
            SinkError: Parts cannot be written.
        """
        began = time.perf_counter()
        parts, layers = self.facts.value.parts, self.facts.value.plan.layers
        files: dict[str, Any] = {}
        pixels = 0
        for number, area in enumerate(self.chunk.seam):
            writer = PartWriter(parts, f"{self.name}{number}", area, _bands(layers))
            try:
                writer.write(area, decide_shared(_known_of(area, parts, self.contributors), layers))
            except BaseException:
                writer.abandon()
                raise
            files |= writer.close()
            pixels += area.size
        if on_row:
            on_row(0, pixels)
        return _record("seam", self.name, files, began, {"pixels": pixels})


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


def _known_of(area: Window, parts: Store, contributors: tuple[str, ...]) -> list[SharedSums]:
    """What the chunks around an area left of it."""
    sums, inside = _keys(area)
    known = (load_arrays(parts, _shared_name(name), {sums, inside}) for name in contributors)
    return [SharedSums(window=area, sums=arrays[sums], inside=arrays[inside]) for arrays in known if arrays]
