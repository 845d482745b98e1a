"""Regions of a label raster that never lies in memory as a whole: chunk by chunk, and yet as if in one piece.

Each chunk is labelled and traced with the pixels around it in view. What lies within it is complete at once; what
reaches beyond it waits for its neighbours (`geoseg.tracing.joining`), and leaves when it does not reach the next row
of chunks.
Where a vertex is, and how a boundary goes on, is decided by the pixels around it alone, so no border of a chunk can be
seen in the result: the same regions for every size of chunk, to the last bit.

Memory: 14 bytes per pixel of the chunks at work, 16 per column, and 8 per vertex of the regions that reach the next row
of chunks; about 60 per vertex of what leaves at once, while its polygons are put together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.earth import PixelAreas
from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.chunks import CHUNK, chunks_of, in_order
from geoseg.tracing.components import add_areas, add_up, census, corner_groups, label_components
from geoseg.tracing.corners import read_bordered
from geoseg.tracing.joining import Beyond, Joiner, Parts, Rings, Runs
from geoseg.tracing.polygons import PIXELS
from geoseg.tracing.rings import assemble, entries, look_beyond, trace
from geoseg.types import Labels
from geoseg.window import Window

__all__ = ["RegionBatch", "area_units", "trace_regions"]

IntArray = npt.NDArray[np.int64]
Geometries = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionBatch:
    """Some regions of a label raster, in no order."""

    first: IntArray
    """(n,) the region's first pixel, as row * width + col: what tells it from all others, however it was found."""
    values: Labels
    """(n,) class value."""
    pixels: IntArray
    """(n,) number of pixels."""
    polygons: npt.NDArray[np.object_]
    """(n,) shapely polygons, valid, exteriors counter-clockwise; multipolygons for what holds together at corners."""
    areas: npt.NDArray[np.float64]
    """(n,) square metres on the ellipsoid; NaN where nobody asked."""
    sums: Mapping[str, IntArray]
    """Name of a raster -> (n,) sum of its stored numbers over the region's pixels."""
    parts: npt.NDArray[np.uint8] | None = None
    """(n,) which piece of a region that `geoseg.tracing.pieces` cut, 0 for whole ones; None where none may be."""

    def __len__(self) -> int:
        return len(self.first)


def trace_regions(
    labels: LabelReader,
    *,
    transform: Sequence[float] = PIXELS,
    connectivity: Literal[4, 8] = 4,
    joints: int | None = None,
    chunk: int | tuple[int, int] = CHUNK,
    workers: int = 2,
    areas: PixelAreas | None = None,
    rasters: Mapping[str, LabelReader] | None = None,
    shown: Callable[[IntArray], npt.NDArray[np.bool_]] | None = None,
    redraw: Callable[[Geometries], Geometries] | None = None,
) -> Iterator[RegionBatch]:
    """The regions of `labels`, batch after batch: what `geoseg.tracing.polygons.polygonize` finds, however found.

    Args:
        labels: Class values.
        transform: As for `polygonize`.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
        joints: As for `polygonize`.
        chunk: Pixels along both sides of a chunk, or its rows and columns.
        workers: How many threads label and trace chunks.
        areas: Gives the area of each region.
        rasters: Rasters of integers on the same grid, to be added up over each region.
        shown: Says of class values (n,) whether their regions are wanted; others are only neighbours of those that are.
        redraw: What becomes of polygons (n,) as soon as they are put together; on any thread.

    Raises:
        GridError: A raster differs from the labels in shape, or holds no integers; a class value has no number of its
            own among those of 64 bits with a sign; an argument makes no sense.
        SourceError: A raster cannot be read.

    >>> from geoseg.source.labels import ArrayLabels
    >>> batches = list(trace_regions(ArrayLabels(np.array([[1, 1], [1, 2]], np.uint8)), chunk=1))
    >>> sorted((int(first), region.wkt) for batch in batches for first, region in zip(batch.first, batch.polygons))
    [(0, 'POLYGON ((0 0, 2 0, 2 1, 1 1, 1 2, 0 2, 0 0))'), (3, 'POLYGON ((1 1, 2 1, 2 2, 1 2, 1 1))')]
    """
    rows, cols = (chunk, chunk) if isinstance(chunk, int) else chunk
    if min(rows, cols, workers) < 1 or connectivity not in {4, 8}:
        raise GridError(
            f"chunks of {rows} x {cols} pixels on {workers} threads, {connectivity} neighbours: chunks have pixels, "
            "there is at least one thread, and pixels have 4 neighbours or 8"
        )
    _check(labels, rasters or {})
    tracer = _Tracer(
        labels=labels,
        transform=tuple(map(float, transform[:6])),
        corners=connectivity == 8,
        joints=-1 if joints is None else joints,
        areas=areas,
        scale=1.0 if areas is None else area_units(areas, labels.shape),
        rasters=rasters or {},
        shown=shown,
        redraw=redraw,
    )
    return _swept(tracer, rows, cols, workers)


def _check(labels: LabelReader, rasters: Mapping[str, LabelReader]) -> None:
    for name, raster in {"labels": labels, **rasters}.items():
        if np.dtype(raster.dtype).kind not in "iu":
            raise GridError(f"{name}: holds {raster.dtype}, but only integers can be told apart and summed exactly")
        if tuple(raster.shape) != tuple(labels.shape):
            raise GridError(
                f"{name}: {raster.shape} pixels do not cover labels of {labels.shape}; bring it onto their grid"
            )


def area_units(areas: PixelAreas, shape: tuple[int, int]) -> float:
    """How many units of area a square metre has, where sums are whole numbers of units; NaN where pixels have no area.

    So many that the whole raster just fits an int64; a power of two, so that units become metres without rounding.

    Args:
        areas: Areas of the pixels.
        shape: (rows, cols) of the raster.
    """
    most = areas.largest * max(1, shape[0] * shape[1])
    return 2.0 ** (62 - math.ceil(math.log2(most))) if most > 0 else math.nan


def _swept(tracer: _Tracer, rows: int, cols: int, workers: int) -> Iterator[RegionBatch]:
    joiner = Joiner(tracer.labels.shape[1], tracer.columns, corners=tracer.corners)
    traced = in_order(tracer.trace, chunks_of(tracer.labels, rows, cols), workers)
    for _, row in groupby(traced, key=lambda found: found.row):
        beyond = []
        for chunk in row:
            yield chunk.within
            beyond.append(chunk.beyond)
        yield tracer.batch(*joiner.add(beyond))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Traced:
    """One chunk."""

    row: int
    within: RegionBatch
    """The regions that do not reach beyond it."""
    beyond: Beyond


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tracer:
    """Traces one chunk; on any thread."""

    labels: LabelReader
    transform: tuple[float, ...]
    corners: bool
    joints: int
    areas: PixelAreas | None
    scale: float
    """Units of area per square metre; NaN where pixels have no area."""
    rasters: Mapping[str, LabelReader]
    shown: Callable[[IntArray], npt.NDArray[np.bool_]] | None
    redraw: Callable[[Geometries], Geometries] | None

    @property
    def columns(self) -> int:
        """How many sums there are: pixels, area, one for each raster."""
        return 2 + len(self.rasters)

    def trace(self, window: Window) -> _Traced:
        """The regions of one chunk."""
        values = read_bordered(self.labels, window)
        padded, count = label_components(values[1:-1, 1:-1], int(np.iinfo(values.dtype).min))
        sides = look_beyond(padded, values, count, corners=self.corners)
        parts = self._parts(window, padded, count, values)
        place = (window.row_off, window.col_off, self.labels.shape[1] + 1, self.joints)
        vertices, runs = trace(padded, values, entries(padded, values, place), place)
        open_groups = np.zeros(count, np.bool_)
        open_groups[parts.group[np.concatenate(sides)[np.concatenate(sides) > 0] - 1]] = True
        wanted = self._wanted(parts.values)
        is_open, is_whole = open_groups[parts.group] & wanted, ~open_groups[parts.group] & wanted
        number = np.where(wanted, np.where(is_open, np.cumsum(is_open), np.cumsum(is_whole)) - 1, -1)
        sizes, owner = np.diff(runs[:, 3], prepend=0), runs[:, 2] - 1
        inner, outer = is_whole[owner], is_open[owner]
        rings = Rings(
            vertices=vertices, starts=runs[inner, 3] - sizes[inner], sizes=sizes[inner], owner=number[owner[inner]]
        )
        held = Runs(
            vertices=vertices[np.repeat(outer, sizes)],
            sizes=sizes[outer],
            owner=number[owner[outer]],
            keys=runs[outer, :2],
        )
        along = np.append(-1, number)
        return _Traced(
            row=window.row_off,
            within=self.batch(parts.take(is_whole), rings),
            beyond=Beyond(parts=parts.take(is_open), runs=held, sides=[along[side] for side in sides]),
        )

    def _wanted(self, values: IntArray) -> npt.NDArray[np.bool_]:
        return np.ones(len(values), np.bool_) if self.shown is None else self.shown(values)

    def batch(self, parts: Parts, rings: Rings) -> RegionBatch:
        """Complete regions."""
        polygons = assemble(rings.vertices, rings.starts, rings.sizes, rings.owner, len(parts), self.transform)
        if self.corners:
            parts, polygons = _gathered(parts, polygons)
        return RegionBatch(
            first=parts.first,
            values=parts.values.astype(self.labels.dtype),
            pixels=parts.sums[:, 0],
            polygons=polygons if self.redraw is None else self.redraw(polygons),
            areas=parts.sums[:, 1] / self.scale if self.areas else np.full(len(parts), np.nan),
            sums={name: parts.sums[:, 2 + at] for at, name in enumerate(self.rasters)},
        )

    def _parts(self, window: Window, padded: Any, count: int, values: Any) -> Parts:
        pixels, first = census(padded, count)
        rows, cols = first // window.width, first % window.width
        found = values[1 + rows, 1 + cols].astype(np.int64)
        sums = np.zeros((count, self.columns), np.int64)
        sums[:, 0] = pixels
        if self.areas is not None and math.isfinite(self.scale):
            cols_at, lines = self.areas.along(window.row_off, window.row_stop)
            add_areas(padded, cols_at, lines, window.col_off, self.scale, sums[:, 1])
        for at, raster in enumerate(self.rasters.values() if self._wanted(found).any() else ()):
            add_up(padded, raster.read(window), sums[:, 2 + at])
        return Parts(
            values=found,
            first=(window.row_off + rows) * self.labels.shape[1] + window.col_off + cols,
            group=corner_groups(padded, found) if self.corners else np.arange(count),
            sums=sums,
        )


def _gathered(parts: Parts, polygons: npt.NDArray[np.object_]) -> tuple[Parts, npt.NDArray[np.object_]]:
    """Parts that hold together at corners as one: their sums, and multipolygons, parts in the order of first pixels."""
    order = np.lexsort((parts.first, parts.group))
    groups, starts, counts = np.unique(parts.group[order], return_index=True, return_counts=True)
    leaders = order[starts]
    several = np.repeat(counts > 1, counts)
    regions = polygons[leaders]
    regions[counts > 1] = shapely.multipolygons(
        polygons[order][several], indices=np.repeat(np.cumsum(counts > 1) - 1, counts)[several]
    )
    gathered = Parts(
        values=parts.values[leaders],
        first=parts.first[leaders],
        group=np.arange(len(groups)),
        sums=np.add.reduceat(parts.sums[order], starts, axis=0) if len(order) else parts.sums,
    )
    return gathered, regions
