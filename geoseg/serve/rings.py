"""Polygons as plain arrays of rings: read from WKB, and cut along lines, in time that grows with their corners alone.

What GEOS does with rectangles takes time that grows with parts times holes, and maps have polygons of millions of
corners. Here a line that cuts a polygon is crossed inwards and outwards in turns, and what lies between two crossings
closes the rings of both sides. Both sides get the same numbers, so a cut can be undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import shapely

from geoseg.errors import SourceError

__all__ = ["Rings", "joined", "pieces", "read_wkb"]

Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_MULTIPOLYGON = 6
_ASIDE = np.pi / 1e3  # parts of a step by which lines lie beside where a raster's polygons may have corners


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rings:
    """Closed rings of polygons; exteriors turn one way and holes the other."""

    points: Points
    """(point, xy); the last of a ring is its first."""
    ends: Numbers
    """(ring + 1,) where each begins and ends."""
    owners: Numbers
    """(ring,) which polygon each belongs to; never decreasing."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def halves(self, axis: int, at: float) -> tuple[Rings, Rings]:
        """What lies up to a line across an axis (0: x, 1: y), and what lies beyond it.

        Where corners lie on the line itself, rings may touch themselves along it.
        """
        beyond = self.points[:, axis] > at
        crossed = beyond[:-1] != beyond[1:]
        crossed[self.ends[1:-1] - 1] = False
        at_points = np.flatnonzero(crossed)
        where = _crossings(self.points, at_points, axis, at)
        ring = np.searchsorted(self.ends, at_points, side="right") - 1
        outwards = ~beyond[at_points]
        mates = np.empty(len(at_points), np.int64)
        order = np.lexsort((where[:, 1 - axis], self.owners[ring]))
        there, back = order[outwards[order]], order[~outwards[order]]
        mates[there], mates[back] = back, there
        whole, cuts = (self.points, self.ends, self.owners), (at_points, where, ring, mates)
        low, high = (_side(whole, beyond, cuts, far) for far in (False, True))
        return (
            Rings(points=low[0], ends=low[1], owners=low[2]),
            Rings(points=high[0], ends=high[1], owners=high[2]),
        )

    def within(self, box: tuple[float, float, float, float]) -> Rings:
        """What lies in a box: xmin, ymin, xmax, ymax."""
        found = self
        for axis in (0, 1):
            for at, side in ((box[axis], 1), (box[axis + 2], 0)):
                if len(found.points) and (found.bounds[axis] < at if side else found.bounds[axis + 2] > at):
                    found = found.halves(axis, at)[side]
        return found

    def polygon(self) -> Any:
        """One polygon or multipolygon of all rings; exteriors are those that turn as the largest does."""
        lengths = np.diff(self.ends)
        fit = np.flatnonzero(lengths >= 4)
        if not len(fit):
            return shapely.Polygon()
        rings = shapely.linearrings(
            np.concatenate([self.points[self.ends[ring] : self.ends[ring + 1]] for ring in fit]),
            indices=np.repeat(np.arange(len(fit)), lengths[fit]),
        )
        areas = shapely.area(shapely.polygons(rings))
        outward = shapely.is_ccw(rings) == shapely.is_ccw(rings[np.argmax(areas)])
        shells = shapely.polygons(rings[outward & (areas > 0)])
        holes = rings[~outward & (areas > 0)]
        if len(shells) == 1:
            return shapely.polygons(shapely.get_exterior_ring(shells[0]), holes if len(holes) else None)
        within = _smallest_around(shells, holes)
        whole = [
            shapely.polygons(exterior, holes[within == place]) if (within == place).any() else shell
            for place, (shell, exterior) in enumerate(zip(shells, shapely.get_exterior_ring(shells), strict=True))
        ]
        return shapely.multipolygons(whole)


def _smallest_around(shells: Any, holes: Any) -> Numbers:
    """(hole,) the smallest of the polygons that hold it; -1 where none does.

    A hole may touch the ring around it, so what is looked for lies inside of the hole; so may an island, a smaller one.
    """
    found = np.full(len(holes), -1)
    filled, sizes = shapely.polygons(holes), shapely.area(shells)
    hole, shell = shapely.STRtree(shells).query(shapely.point_on_surface(filled), predicate="within")
    around = sizes[shell] > shapely.area(filled)[hole]
    hole, shell = hole[around], shell[around]
    largest_first = np.argsort(-sizes[shell], kind="stable")
    found[hole[largest_first]] = shell[largest_first]
    return found


def joined(parts: Sequence[Rings]) -> Rings:
    """All rings of several, whose owners follow one another."""
    steps = np.cumsum([0, *(len(part.points) for part in parts)])
    ends = [part.ends[1:] + step for part, step in zip(parts, steps, strict=False)]
    return Rings(
        points=np.concatenate([part.points for part in parts] or [np.empty((0, 2))]),
        ends=np.concatenate([np.zeros(1, np.int64), *ends]),
        owners=np.concatenate([part.owners for part in parts] or [np.empty(0, np.int64)]),
    )


def pieces(rings: Rings, size: int) -> Iterator[Rings]:
    """The rings of polygons, cut along a lattice into pieces of about `size` points each."""
    left, bottom, right, top = rings.bounds
    count = max(1, round((len(rings.points) / size) ** 0.5))
    steps = (np.arange(1, count) + _ASIDE) / count
    yield from _cells(rings, left + (right - left) * steps, bottom + (top - bottom) * steps)


def _cells(rings: Rings, xs: Points, ys: Points) -> Iterator[Rings]:
    """What lies between lines; the middle one cuts first, so most points are looked at few times."""
    if not len(rings.points):
        return
    if not len(xs) and not len(ys):
        yield rings
        return
    axis = int(len(ys) > len(xs))
    lines = ys if axis else xs
    middle = len(lines) // 2
    for half, some in zip(rings.halves(axis, lines[middle]), (lines[:middle], lines[middle + 1 :]), strict=True):
        yield from _cells(half, *((xs, some) if axis else (some, ys)))


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


def _crossings(points: Points, edges: Numbers, axis: int, at: float) -> Points:
    """(edge, xy) where edges cross a line; the same to the last bit whichever way an edge is walked."""
    start, stop = points[edges], points[edges + 1]
    swapped = start[:, axis] > stop[:, axis]
    start[swapped], stop[swapped] = stop[swapped], start[swapped]
    part = (at - start[:, axis]) / (stop[:, axis] - start[:, axis])
    where = start + part[:, None] * (stop - start)
    where[:, axis] = at
    return where


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


@numba.njit(cache=True, nogil=True)
def _side(whole: Any, beyond: Any, cuts: Any, far: bool) -> tuple[Points, Numbers, Numbers]:
    """The rings of one side of a line; each run of points is followed by the one that begins where the cut leads."""
    points, ends, owners = whole
    edges, _, of, _ = cuts
    done = np.zeros(len(edges), np.bool_)
    drawn = np.empty((len(points) + 3 * len(edges), 2))
    stops = np.zeros(len(owners) + len(edges) + 1, np.int64)
    whose = np.empty(len(owners) + len(edges), np.int64)
    at = ring = cut = 0
    for source in range(len(owners)):
        low, high = ends[source], ends[source + 1]
        if (cut == len(of) or of[cut] != source) and high > low and beyond[low] == far:
            drawn[at : at + high - low] = points[low:high]
            at += high - low
            whose[ring] = owners[source]
            ring += 1
            stops[ring] = at
        while cut < len(of) and of[cut] == source:
            if not done[cut] and beyond[edges[cut] + 1] == far:
                at = _round(whole, beyond, cuts, cut, done, drawn, at)
                whose[ring] = owners[source]
                ring += 1
                stops[ring] = at
            cut += 1
    return drawn[:at].copy(), stops[: ring + 1].copy(), whose[:ring].copy()


@numba.njit(cache=True, nogil=True)
def _round(whole: Any, beyond: Any, cuts: Any, first: int, done: Any, drawn: Any, at: int) -> int:
    """Draws one ring: in over the line, along the polygon, out again, along the line, until it is where it began."""
    points, ends, _ = whole
    edges, where, of, mates = cuts
    cut, start = first, at
    while not done[cut]:
        done[cut] = True
        drawn[at] = where[cut]
        at += 1
        low, last = ends[of[cut]], ends[of[cut] + 1] - 1
        far, point = beyond[edges[cut] + 1], edges[cut] + 1
        while True:
            if point == last:
                point = low
            if beyond[point] != far:
                break
            drawn[at] = points[point]
            at += 1
            point += 1
        out = np.searchsorted(edges, point - 1 if point > low else last - 1)
        drawn[at] = where[out]
        at += 1
        cut = mates[out]
    drawn[at] = drawn[start]
    return at + 1
