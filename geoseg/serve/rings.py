"""Polygons as plain arrays of rings, cut along lines in time that grows with their corners alone.

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

__all__ = ["Rings", "joined", "pieces"]

Points = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Shapes = npt.NDArray[np.object_]

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
        x, y = np.ascontiguousarray(self.points.T)  # far faster to look through
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

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

    def some(self, rings: Numbers) -> Rings:
        """Some of the rings, in that order."""
        lengths = np.diff(self.ends)[rings]
        stops = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        picked = np.repeat(self.ends[rings] - stops[:-1], lengths) + np.arange(stops[-1])
        return Rings(points=self.points[picked], ends=stops, owners=self.owners[rings])

    def polygons(self, count: int) -> Shapes:
        """(owner,) a polygon or multipolygon of each of `count` owners, empty where nothing is left.

        Exteriors are those that turn as the largest ring of an owner does.
        """
        sizes = self._sizes()
        order = np.lexsort((-np.abs(sizes), self.owners))
        order = order[sizes[order] != 0]
        owners, first = np.unique(self.owners[order], return_index=True)
        found = np.full(count, shapely.Polygon(), dtype=object)
        if not len(owners):
            return found
        turns = np.repeat(np.sign(sizes[order[first]]), np.diff(first, append=len(order)))
        hole = np.sign(sizes[order]) != turns
        order = order[np.lexsort((hole, self.owners[order]))]
        shells = np.add.reduceat(~hole, first, dtype=np.int64)
        alone = np.repeat(shells == 1, np.diff(first, append=len(order)))
        found[owners[shells == 1]] = self._shapes(order[alone])
        for place in np.flatnonzero(shells > 1).tolist():
            own = order[first[place] :][: np.diff(first, append=len(order))[place]]
            found[owners[place]] = self._several(own[: shells[place]], own[shells[place] :])
        return found

    def _sizes(self) -> Points:
        """(ring,) twice the area, and on which side it lies; 0 for what has none."""
        if not len(self.owners):
            return np.zeros(0)
        base = np.repeat(self.ends[:-1], np.diff(self.ends))
        x, y = (self.points - self.points[base]).T
        turned = x[:-1] * y[1:] - x[1:] * y[:-1]
        turned[self.ends[1:-1] - 1] = 0  # from a ring to the next
        sizes = np.add.reduceat(np.append(turned, [0, 0]), self.ends[:-1])
        return np.where(np.diff(self.ends) >= 4, sizes, 0)

    def _shapes(self, rings: Numbers) -> Shapes:
        """Polygons of one exterior each, which comes before its holes, by owner."""
        some = self.some(rings)
        exteriors = np.flatnonzero(np.diff(some.owners, prepend=-1))
        offsets = some.ends, np.append(exteriors, len(rings))
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, some.points, offsets), dtype=object)

    def _several(self, exteriors: Numbers, interiors: Numbers) -> Any:
        """A multipolygon."""
        alone = Rings(points=self.points, ends=self.ends, owners=np.arange(len(self.owners)))
        shells, holes = (alone._shapes(rings) for rings in (exteriors, interiors))
        within = _smallest_around(shells, holes)
        rings = [shapely.get_exterior_ring(some) for some in (shells, holes)]
        whole = [
            shapely.polygons(exterior, rings[1][within == place]) if (within == place).any() else shells[place]
            for place, exterior in enumerate(rings[0])
        ]
        return shapely.multipolygons(whole)


def _smallest_around(shells: Shapes, holes: Shapes) -> Numbers:
    """(hole,) the smallest of the polygons that hold it; -1 where none does.

    A hole may touch the ring around it, so what is looked for lies inside of the hole; so may an island, a smaller one.
    """
    found = np.full(len(holes), -1)
    sizes = shapely.area(shells)
    hole, shell = shapely.STRtree(shells).query(shapely.point_on_surface(holes), predicate="within")
    around = sizes[shell] > shapely.area(holes)[hole]
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
