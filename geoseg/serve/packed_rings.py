"""Rings as they are kept: read from WKB, and packed into a quarter of their bytes without a digit lost.

Corners of polygons lie on the columns and rows of a raster, so an axis has few values, and two bytes say which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.errors import SourceError
from geoseg.serve.rings import Rings

__all__ = ["PackedRings", "pack", "read_wkb"]

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MULTIPOLYGON = 6
_MOST_VALUES = 1 << 16  # of an axis; where corners lie anywhere, coordinates stay as they are


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Axis:
    """The coordinates of points along one axis."""

    values: Floats
    """Each once; those of all points where `codes` is None."""
    codes: npt.NDArray[np.uint16] | None
    """(point,) which of the values."""

    def read(self, starts: Numbers, stops: Numbers, found: Floats) -> None:
        """Writes the coordinates of some runs of points, one run after the other."""
        if self.codes is not None:
            _decode(self.codes, self.values, starts, stops, found)
        elif len(starts):
            found[:] = np.concatenate([self.values[low:high] for low, high in zip(starts, stops, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedRings:
    """Closed rings of polygons, any of which can be had alone."""

    axes: tuple[_Axis, _Axis]
    """x and y."""
    ends: npt.NDArray[np.int32]
    """(ring + 1,) where each begins and ends."""
    first_rings: npt.NDArray[np.int32]
    """(polygon + 1,) where the rings of each begin and end."""

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        own = self.ends.nbytes + self.first_rings.nbytes
        parts = (axis.values.nbytes + (0 if axis.codes is None else axis.codes.nbytes) for axis in self.axes)
        return own + sum(parts)

    def rings(self, polygons: Numbers) -> Rings:
        """The rings of some polygons, to the last bit as they were; owners count in the order of `polygons`."""
        first, last = self.first_rings[polygons].astype(np.int64), self.first_rings[polygons + 1].astype(np.int64)
        starts, stops = self.ends[first].astype(np.int64), self.ends[last].astype(np.int64)
        points = np.empty((int((stops - starts).sum()), 2))
        for number, axis in enumerate(self.axes):
            axis.read(starts, stops, points[:, number])
        counts = last - first
        rings = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        lengths = self.ends[rings + 1] - self.ends[rings]
        return Rings(
            points=points,
            ends=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            owners=np.repeat(np.arange(len(polygons)), counts),
        )


def pack(rings: Rings, count: int) -> PackedRings:
    """The rings of `count` polygons, the owners, packed.

    >>> square = Rings(points=np.array([[0, 0], [0, .1], [.1, .1], [.1, 0], [0, 0]]),
    ...     ends=np.array([0, 5]), owners=np.array([1]))
    >>> pack(square, 2).rings(np.array([0, 1])).points[2].tolist()
    [0.1, 0.1]
    """
    return PackedRings(
        axes=(_axis(rings.points[:, 0]), _axis(rings.points[:, 1])),
        ends=rings.ends.astype(np.int32),
        first_rings=np.searchsorted(rings.owners, np.arange(count + 1)).astype(np.int32),
    )


def read_wkb(wkb: Any, rows: Numbers) -> Rings:
    """Polygons and multipolygons, their owners counted in the order of `rows`.

    Args:
        wkb: (n,) a pyarrow.BinaryArray of little-endian WKB in two dimensions, as geoseg writes it.
        rows: Which of them.

    Raises:
        SourceError: A polygon is not what such a file holds.
    """
    _, offsets, body = wkb.buffers()
    starts = np.frombuffer(offsets, np.int32)[wkb.offset : wkb.offset + len(wkb) + 1]
    coded = np.frombuffer(body, np.uint8) if body is not None else np.empty(0, np.uint8)
    ring_count, point_count = _counted(coded, starts, rows)
    if ring_count < 0:
        raise SourceError(f"polygon {point_count + 1} of a row group is damaged; geoseg vectorize writes the file anew")
    points = np.empty((point_count, 2))
    ends, owners = np.zeros(ring_count + 1, np.int64), np.empty(ring_count, np.int64)
    _read(coded, starts, rows, points.reshape(-1).view(np.uint8), ends, owners)
    return Rings(points=points, ends=ends, owners=owners)


def _axis(coordinates: Floats) -> _Axis:
    plain = np.ascontiguousarray(coordinates)
    codes, values = np.empty(len(plain), np.uint16), np.empty(_MOST_VALUES)
    count = _number(plain.view(np.int64), codes, values.view(np.int64))
    return _Axis(values=plain, codes=None) if count < 0 else _Axis(values=values[:count].copy(), codes=codes)


@numba.njit(cache=True, nogil=True)
def _number(words: Any, codes: Any, values: Any) -> int:
    """Gives each value the next number where it first occurs; how many there are, or -1 for too many."""
    mask = 2 * len(values) - 1
    slots = np.full(mask + 1, -1, np.int32)
    count = 0
    for point in range(len(words)):
        word = words[point]
        slot = ((word * 0x9E3779B97F4A7C1) >> 40) & mask
        while slots[slot] >= 0 and values[slots[slot]] != word:
            slot = (slot + 1) & mask
        if slots[slot] < 0:
            if count == len(values):
                return -1
            slots[slot] = count
            values[count] = word
            count += 1
        codes[point] = slots[slot]
    return count


@numba.njit(cache=True, nogil=True)
def _decode(codes: Any, values: Any, starts: Any, stops: Any, found: Any) -> None:
    at = 0
    for run in range(len(starts)):
        for point in range(starts[run], stops[run]):
            found[at] = values[codes[point]]
            at += 1


@numba.njit(cache=True, nogil=True)
def _word(coded: Any, at: Any) -> Any:
    """A whole number of 32 bits, the lowest byte first."""
    found = np.int64(0)
    for byte in range(4):
        found |= np.int64(coded[at + byte]) << (8 * byte)
    return found


@numba.njit(cache=True, nogil=True)
def _parts(coded: Any, at: Any) -> Any:
    """Polygons of a geometry, and where the first begins."""
    if _word(coded, at + 1) == _MULTIPOLYGON:
        return _word(coded, at + 5), at + 9
    return np.int64(1), at


@numba.njit(cache=True, nogil=True)
def _counted(coded: Any, starts: Any, rows: Any) -> tuple[int, int]:
    """Rings and points of some geometries; -1 and the row of one whose counts lead out of its bytes."""
    rings = points = 0
    for row in rows:
        stop = np.int64(starts[row + 1])
        if np.int64(starts[row]) + 9 > stop:
            return -1, row
        parts, at = _parts(coded, np.int64(starts[row]))
        for _ in range(parts):
            if at + 9 > stop:
                return -1, row
            count = _word(coded, at + 5)
            at += 9
            rings += count
            for _ in range(count):
                if at + 4 > stop or at + 4 + 16 * _word(coded, at) > stop:
                    return -1, row
                length = _word(coded, at)
                points += length
                at += 4 + 16 * length
    return rings, points


@numba.njit(cache=True, nogil=True)
def _read(coded: Any, starts: Any, rows: Any, points: Any, ends: Any, owners: Any) -> None:
    """Copies the coordinates of some geometries, byte by byte, to where numbers may stand."""
    ring = 0
    for owner in range(len(rows)):
        parts, at = _parts(coded, np.int64(starts[rows[owner]]))
        for _ in range(parts):
            count = _word(coded, at + 5)
            at += 9
            for _ in range(count):
                size = 16 * _word(coded, at)
                low = 16 * ends[ring]
                points[low : low + size] = coded[at + 4 : at + 4 + size]
                at += 4 + size
                ends[ring + 1] = ends[ring] + size // 16
                owners[ring] = owner
                ring += 1
