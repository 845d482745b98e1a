"""The work of a mosaic, piece by piece: scenes are laid over one another on one part of its grid."""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from geoseg.decide import Layers
from geoseg.errors import ChunkError, GeosegError
from geoseg.exchange import OnRow, Shared
from geoseg.grid import Chunk
from geoseg.jobs import peak_memory
from geoseg.journal import Record
from geoseg.overlay import Overlay
from geoseg.protocols import Source
from geoseg.sink.parts import PartWriter
from geoseg.source.maps import FinishedMap, on_grid
from geoseg.source.open import limit_cache
from geoseg.source.raster import RasterSource
from geoseg.store import Store
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window

__all__ = ["NOWHERE", "SIDE", "Facts", "MosaicLayers", "OverlayJob"]

SIDE = 4096
"""Pixels of a piece of work; a multiple of the blocks that are warped at once."""
NOWHERE = 65535
"""In ``scene.tif``, where no scene has a label."""

_ROWS = 512  # rows that are held at a time
_OPEN = 4  # scenes whose files a piece of work holds open
_CACHE = 64 << 20  # bytes that GDAL keeps of decoded blocks


class MosaicLayers(Layers):
    """The rasters of a mosaic: beside those of a scene, which scene each pixel is from."""

    __slots__ = ()

    @property
    def counts(self) -> dict[str, int]:
        """Bands per raster, in a fixed order."""
        return super().counts | {"scene": 1}

    def dtype(self, layer: str) -> str:
        """Numpy dtype of a raster."""
        return "uint16" if layer == "scene" else super().dtype(layer)

    def nodata(self, layer: str) -> int:
        """Nodata value of a raster."""
        return NOWHERE if layer == "scene" else super().nodata(layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What all pieces of work have in common."""

    maps: tuple[tuple[int, FinishedMap, Window], ...]
    """Number, map, and what it may cover of the grid, in the order in which they are laid."""
    grid: GeoBox
    """Where the mosaic lies."""
    layers: MosaicLayers
    """Its rasters."""
    hidden: frozenset[int] | None
    """Labels that give way to others; None: none does."""
    parts: Store
    """Where the pieces go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayJob:
    """Lays all scenes on one piece of the grid; leaves a TIFF for each raster."""

    chunk: Chunk
    """Which piece."""
    facts: Shared[Facts]
    """What all pieces have in common."""

    @property
    def name(self) -> str:
        """The piece's."""
        return self.chunk.name

    @property
    def place(self) -> tuple[str, str]:
        """What it is, and its window, for messages."""
        return "mosaic", str(self.chunk.core)

    def run(self, on_row: OnRow | None = None) -> list[Record]:
        """Reads, lays, writes; returns what the journal notes.

        Raises:
            GeosegError: A map cannot be read, a part not written.
        """
        began, facts, core = time.perf_counter(), self.facts.value, self.chunk.core
        limit_cache(_CACHE)
        pixels_of: Counter[str] = Counter()
        bands = {raster: (count, facts.layers.dtype(raster)) for raster, count in facts.layers.counts.items()}
        writer = PartWriter(facts.parts, self.name, core, bands)
        try:
            with closing(_OpenMaps(facts.grid)) as opened:
                for rows in core.pieces(_ROWS, core.width):
                    rasters = _laid(facts, opened, rows)
                    writer.write(rows, rasters)
                    pixels_of.update(_tally(rasters["scene"]))
                    if on_row:
                        on_row(0, rows.size)
        except BaseException as error:
            writer.abandon()
            if isinstance(error, GeosegError) or not isinstance(error, Exception):
                raise
            raise ChunkError(f"mosaic: {core} failed: {error}", "mosaic", str(core)) from error
        if on_row:
            on_row(1, 0)
        record = {
            "kind": "chunk",
            "name": self.name,
            "files": writer.close(),
            "seconds": time.perf_counter() - began,
            "counts": _NO_NET | {"pixels": core.size, "tiles": 1, "of": {str(key): n for key, n in pixels_of.items()}},
            "process": os.getpid(),
            "peak_memory": peak_memory(),
        }
        return [record]


_NO_NET = dict.fromkeys(("forward_passes", "bytes_read", "halvings", "read", "wait", "compute", "write"), 0)
"""A mosaic runs no net."""


class _OpenMaps:
    """The maps that were read lately, on the grid of the mosaic; few are open at once, however many there are."""

    def __init__(self, grid: GeoBox) -> None:
        self._grid = grid
        self._open: OrderedDict[int, tuple[RasterSource, Source]] = OrderedDict()

    def get(self, number: int, found: FinishedMap) -> Source:
        """The map of this number, open."""
        if number not in self._open:
            if len(self._open) == _OPEN:
                self._open.popitem(last=False)[1][0].close()
            source = found.open()
            self._open[number] = source, on_grid(source, self._grid)
        self._open.move_to_end(number)
        return self._open[number][1]

    def close(self) -> None:
        """Closes all."""
        for source, _ in self._open.values():
            source.close()
        self._open.clear()


def _laid(facts: Facts, opened: _OpenMaps, window: Window) -> dict[str, Pixels]:
    """The rasters (band, row, col) of a window of the grid."""
    layers = facts.layers
    overlay = Overlay(
        window.shape, nodata=layers.label_nodata, dtype=layers.label_dtype, hidden=facts.hidden, nowhere=NOWHERE
    )
    for number, found, extent in facts.maps:
        if common := extent & window:
            read, valid = opened.get(number, found).read(common)
            overlay.lay(common.within(window), number, read[0], read[1] if len(read) > 1 else None, valid)
            if overlay.is_settled:
                break
    return {raster: getattr(overlay, raster)[None] for raster in layers.counts}


def _tally(scene: Pixels) -> dict[str, int]:
    """Pixels per scene."""
    counts = np.bincount(scene[scene != NOWHERE].ravel())
    return {str(number): int(counts[number]) for number in np.flatnonzero(counts)}
