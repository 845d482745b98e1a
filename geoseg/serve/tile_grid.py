"""Polygons painted on the cells of a tile and traced again: what lower zooms show, valid and gapless by construction.

A cell belongs to the polygon that its middle lies in. Outlines follow the sides of cells, so neighbours share theirs,
and nothing has to be cut, rounded or mended: the time is that of reading each corner once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.serve.rings import Rings

__all__ = ["Lattice", "Outlines", "paint", "trace"]

Numbers = npt.NDArray[np.int64]
Points = npt.NDArray[np.float64]

_NORTH, _SOUTH = 1, 2  # sides of a cell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """Where coordinates lie on a grid of cells: known at the knots of a lattice, straight between them."""

    origin: tuple[float, float]
    """x, y of the first knot."""
    step: tuple[float, float]
    """From knot to knot."""
    places: Points
    """(down, across, xy) columns and rows of the knots, in cells."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlines:
    """Closed rings of polygons in whole units, an exterior before its holes."""

    points: Numbers
    """(point, xy); the last of a ring is its first."""
    ends: Numbers
    """(ring + 1,) where each begins and ends."""
    owners: npt.NDArray[np.int64]
    """(polygon,) numbers of the polygons that are seen."""
    first_rings: Numbers
    """(polygon + 1,) where the rings of each begin and end."""


def paint(grid: npt.NDArray[np.int32], rings: Rings, numbers: Numbers, lattice: Lattice) -> None:
    """Writes the number of each polygon into the cells (row, col) whose middles it holds; later ones lie above.

    Args:
        grid: What is changed.
        rings: The polygons.
        numbers: (owner,) not 0.
        lattice: From the coordinates of `rings` to cells.
    """
    cells = _placed(rings.points, lattice.places, *lattice.origin, *lattice.step)
    _paint(grid, np.zeros(grid.shape, np.bool_), cells, rings.ends, rings.owners, numbers)


def trace(grid: npt.NDArray[np.int32]) -> Outlines:
    """The outlines of all cells (row, col) of one number; 0 is nothing. Cells that meet at a corner are not joined."""
    padded = np.pad(grid, 1)
    points, ends, groups, values = _trace(padded, _corner_count(padded))
    if not len(values):
        none = np.zeros(0, np.int64)
        return Outlines(
            points=none.reshape(0, 2), ends=np.zeros(1, np.int64), owners=none, first_rings=np.zeros(1, np.int64)
        )
    following = np.append(points[1:], points[:1], axis=0)
    turned = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]
    turned[ends[1:] - 1] = 0  # from a ring to the next
    holes = np.add.reduceat(turned, ends[:-1]) < 0
    order = np.lexsort((holes, groups, values))
    lengths = np.diff(ends)[order]
    stops = np.concatenate([[0], np.cumsum(lengths)])
    picked = np.repeat(ends[:-1][order] - stops[:-1], lengths) + np.arange(stops[-1])
    owners, first = np.unique(values[order], return_index=True)
    return Outlines(points=points[picked], ends=stops, owners=owners, first_rings=np.append(first, len(order)))


@numba.njit(cache=True, nogil=True)
def _placed(points: Any, places: Any, left: float, bottom: float, across: float, down: float) -> Points:
    """(point, xy) columns and rows of points; beyond the lattice straight on."""
    found = np.empty((len(points), 2))
    for point in range(len(points)):
        col, row = (points[point, 0] - left) / across, (points[point, 1] - bottom) / down
        i = min(max(np.int64(row), 0), places.shape[0] - 2)
        j = min(max(np.int64(col), 0), places.shape[1] - 2)
        row -= i
        col -= j
        for axis in range(2):
            upper = places[i, j, axis] * (1 - col) + places[i, j + 1, axis] * col
            lower = places[i + 1, j, axis] * (1 - col) + places[i + 1, j + 1, axis] * col
            found[point, axis] = upper * (1 - row) + lower * row
    return found


@numba.njit(cache=True, nogil=True)
def _paint(grid: Any, toggles: Any, cells: Any, ends: Any, owners: Any, numbers: Any) -> None:
    height, width = grid.shape
    reach = (np.full(height, width), np.full(height, -1))  # of each row: the first toggle and the last
    top: Any = height
    bottom: Any = 0
    for ring in range(len(owners)):
        below = np.ceil(cells[ends[ring], 1] - 0.5)  # the first row whose middles lie south of a point
        for point in range(ends[ring], ends[ring + 1] - 1):
            above, below = below, np.ceil(cells[point + 1, 1] - 0.5)
            if above == below:
                continue
            # From north to south whichever way an edge is walked: neighbours cross a row in the same place.
            upper, lower = (point, point + 1) if above < below else (point + 1, point)
            begin: Any = np.int64(max(min(above, below), 0))
            end: Any = np.int64(min(max(above, below), height))
            _toggle(toggles, cells[upper], cells[lower], begin, end, reach)
            top, bottom = min(top, begin), max(bottom, end)
        if ring + 1 == len(owners) or owners[ring + 1] != owners[ring]:
            _fill(grid, toggles, reach, top, bottom, numbers[owners[ring]])
            top, bottom = height, 0


@numba.njit(cache=True, nogil=True)
def _toggle(toggles: Any, upper: Any, lower: Any, begin: int, end: int, reach: Any) -> None:
    """Notes the first cell of some rows whose middle lies east of an edge."""
    first, last = reach
    slope = (lower[0] - upper[0]) / (lower[1] - upper[1])
    for row in range(begin, end):
        col = max(np.int64(np.ceil(upper[0] - 0.5 + (row + 0.5 - upper[1]) * slope)), 0)
        if col < toggles.shape[1]:
            toggles[row, col] ^= True
            first[row], last[row] = min(first[row], col), max(last[row], col)


@numba.njit(cache=True, nogil=True)
def _fill(grid: Any, toggles: Any, reach: Any, top: int, bottom: int, number: int) -> None:
    """Writes a number from every odd toggle of a row to the next, and takes the toggles away."""
    first, last = reach
    for row in range(top, bottom):
        inside = False
        for col in range(first[row], last[row] + 1):
            if toggles[row, col]:
                inside = not inside
                toggles[row, col] = False
            if inside:
                grid[row, col] = number
        if inside:
            grid[row, last[row] + 1 :] = number
        first[row], last[row] = grid.shape[1], -1


def _corner_count(grid: npt.NDArray[np.int32]) -> int:
    """How many points all outlines have at most: a corner of cells is passed by each of the four, and rings close."""
    upper, lower = grid[:-1], grid[1:]
    sides = (upper[:, 1:] != upper[:, :-1]) | (lower[:, 1:] != lower[:, :-1])
    return 5 * int(np.count_nonzero(sides)) + 16


@numba.njit(cache=True, nogil=True)
def _trace(grid: Any, most: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Points (point, xy), ends, groups (exteriors with their holes) and numbers of rings, clockwise on the screen."""
    height, width = grid.shape
    visited = np.zeros((height, width), np.uint8)  # north and south sides
    group_of = np.zeros((height, width), np.int32)  # of west sides
    marks = (visited, group_of, np.zeros((height + 1, width + 1), np.int32))
    ends, tally = np.zeros(most // 4, np.int64), np.zeros(2, np.int64)
    out = (np.empty((most, 2), np.int64), np.empty((most, 2), np.int64), ends, tally)
    groups, values = np.empty(most // 4, np.int64), np.empty(most // 4, np.int64)
    known = 0
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            value, before = grid[i, j], tally[1]
            if value == 0:
                continue
            if grid[i - 1, j] != value and not visited[i, j] & _NORTH:  # the first that is seen of an exterior
                known += 1
                _walk(grid, i, j, 1, known, marks, out)
            if grid[i + 1, j] != value and not visited[i, j] & _SOUTH:  # the first that is seen of a hole
                east = j + 1
                while grid[i, east] == value and grid[i + 1, east] != value:
                    east += 1
                _walk(grid, i + 1, east, -1, _group(grid, i, j, group_of), marks, out)
            if tally[1] > before:
                groups[before : tally[1]] = _group(grid, i, j, group_of)
                values[before : tally[1]] = value
    count, rings = tally
    return out[1][:count].copy(), ends[: rings + 1].copy(), groups[:rings].copy(), values[:rings].copy()


@numba.njit(cache=True, nogil=True)
def _group(grid: Any, i: int, j: int, group_of: Any) -> Any:
    """Of a cell: that of the west side of its run, which belongs to what began farther north, or west."""
    while grid[i, j - 1] == grid[i, j]:
        j -= 1
    return group_of[i, j]


@numba.njit(cache=True, nogil=True)
def _walk(grid: Any, i: int, j: int, across: int, group: int, marks: Any, out: Any) -> None:
    """Goes round the cells of one number, which stay on the right, from a corner on eastwards (1) or westwards (-1).

    Where it comes to a corner for the second time, what it walked in between is a ring of its own.
    """
    place = marks[2]  # where in the walk a corner is that it may come to again
    walk, value = out[0], grid[i, j] if across == 1 else grid[i - 1, j - 1]
    row, col, down, length, first = i, j, 0, 0, across
    while True:
        if place[row, col]:
            begin = place[row, col] - 1
            _emit(begin, length, place, out)
            length = begin
            if row == i and col == j and across == first:
                return
        walk[length, 0], walk[length, 1] = col - 1, row - 1
        length += 1
        if length == 1 or grid[row - 1, col - 1] == grid[row, col] or grid[row - 1, col] == grid[row, col - 1]:
            place[row, col] = length
        turn = 0
        while turn == 0:
            _mark(marks, row, col, down, across, group)
            row, col = row + down, col + across
            if grid[row + (down + across - 1 >> 1), col + (across - down - 1 >> 1)] != value:
                turn = 1
            elif grid[row + (down - across - 1 >> 1), col + (down + across - 1 >> 1)] == value:
                turn = -1
        down, across = turn * across, -turn * down


@numba.njit(cache=True, nogil=True)
def _mark(marks: Any, row: int, col: int, down: int, across: int, group: int) -> None:
    """Notes the side of a cell that a step from a corner goes along."""
    visited, group_of, _ = marks
    if across == 1:
        visited[row, col] |= _NORTH
    elif across == -1:
        visited[row - 1, col - 1] |= _SOUTH
    elif down == -1:
        group_of[row - 1, col] = group


@numba.njit(cache=True, nogil=True)
def _emit(begin: int, end: int, place: Any, out: Any) -> None:
    """Adds a ring, a part of the walk, and forgets its corners."""
    walk, points, ends, tally = out
    count = tally[0]
    for at in range(begin, end):
        points[count] = walk[at]
        count += 1
        place[walk[at, 1] + 1, walk[at, 0] + 1] = 0
    points[count] = walk[begin]
    tally[0] = count + 1
    tally[1] += 1
    ends[tally[1]] = tally[0]
