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
    box = np.array([grid.shape[0], grid.shape[1], -1, -1])  # of the toggles: first row and column, last row and column
    for ring in range(len(owners)):
        for point in range(ends[ring], ends[ring + 1] - 1):
            # From north to south whichever way an edge is walked: neighbours cross a row in the same place.
            if cells[point, 1] <= cells[point + 1, 1]:
                _toggle(toggles, cells[point], cells[point + 1], box)
            else:
                _toggle(toggles, cells[point + 1], cells[point], box)
        if ring + 1 == len(owners) or owners[ring + 1] != owners[ring]:
            _fill(grid, toggles, box, numbers[owners[ring]])
            box[0], box[1], box[2], box[3] = grid.shape[0], grid.shape[1], -1, -1


@numba.njit(cache=True, nogil=True)
def _toggle(toggles: Any, upper: Any, lower: Any, box: Any) -> None:
    """Notes the first cell of each row whose middle lies east of an edge."""
    height, width = toggles.shape
    begin: Any = max(np.int64(np.ceil(upper[1] - 0.5)), 0)
    end: Any = min(np.int64(np.ceil(lower[1] - 0.5)), height)
    for row in range(begin, end):
        part = (row + 0.5 - upper[1]) / (lower[1] - upper[1])
        col = max(np.int64(np.ceil(upper[0] + part * (lower[0] - upper[0]) - 0.5)), 0)
        if col < width:
            toggles[row, col] ^= True
            box[0], box[1], box[2], box[3] = min(box[0], row), min(box[1], col), max(box[2], row), max(box[3], col)


@numba.njit(cache=True, nogil=True)
def _fill(grid: Any, toggles: Any, box: Any, number: int) -> None:
    """Writes a number from every odd toggle of a row to the next, and takes the toggles away."""
    for row in range(box[0], box[2] + 1):
        inside = False
        for col in range(box[1], grid.shape[1]):
            if toggles[row, col]:
                inside = not inside
                toggles[row, col] = False
            if inside:
                grid[row, col] = number
            elif col >= box[3]:
                break


def _corner_count(grid: npt.NDArray[np.int32]) -> int:
    """How many points all outlines have at most: a corner of cells is passed by each of the four, and rings close."""
    upper, lower = grid[:-1], grid[1:]
    sides = (upper[:, 1:] != upper[:, :-1]) | (lower[:, 1:] != lower[:, :-1])
    return 5 * int(np.count_nonzero(sides)) + 16


@numba.njit(cache=True, nogil=True)
def _trace(grid: Any, most: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Points (point, xy), ends, groups (exteriors with their holes) and numbers of rings, clockwise on the screen."""
    height, width = grid.shape
    visited = np.zeros((height, width), np.bool_)  # north sides
    group_of = np.zeros((height, width), np.int32)  # of west sides
    marks = (visited, group_of, np.zeros((height + 1, width + 1), np.int32))
    ends, tally = np.zeros(most // 4, np.int64), np.zeros(2, np.int64)
    out = (np.empty((most, 2), np.int64), np.empty((most, 2), np.int64), ends, tally)
    groups, values = np.empty(most // 4, np.int64), np.empty(most // 4, np.int64)
    known = 0
    for i in range(1, height - 1):
        for j in range(1, width - 1):
            if grid[i, j] == 0 or grid[i - 1, j] == grid[i, j] or visited[i, j]:
                continue
            west = j
            while grid[i, west - 1] == grid[i, j]:
                west -= 1
            group = group_of[i, west]
            if group == 0:
                known += 1
                group = known
            before = tally[1]
            _walk(grid, i, j, group, marks, out)
            groups[before : tally[1]] = group
            values[before : tally[1]] = grid[i, j]
    count, rings = tally
    return out[1][:count].copy(), ends[: rings + 1].copy(), groups[:rings].copy(), values[:rings].copy()


@numba.njit(cache=True, nogil=True)
def _walk(grid: Any, i: int, j: int, group: int, marks: Any, out: Any) -> None:
    """Goes round the cells of one number, which stay on the right, from the north-west corner of a cell.

    Where it comes to a corner for the second time, what it walked in between is a ring of its own.
    """
    visited, group_of, place = marks  # the last: where in the walk a corner is that it may come to again
    walk, value = out[0], grid[i, j]
    row, col, down, across, length = i, j, 0, 1, 0
    while True:
        if place[row, col]:
            begin = place[row, col] - 1
            _emit(begin, length, place, out)
            length = begin
            if row == i and col == j and across == 1:
                return
        walk[length, 0], walk[length, 1] = col - 1, row - 1
        length += 1
        if length == 1 or grid[row - 1, col - 1] == grid[row, col] or grid[row - 1, col] == grid[row, col - 1]:
            place[row, col] = length
        turn = 0
        while turn == 0:
            if across == 1:
                visited[row, col] = True
            elif down == -1:
                group_of[row - 1, col] = group
            row, col = row + down, col + across
            if grid[row + (down + across - 1) // 2, col + (across - down - 1) // 2] != value:
                turn = 1
            elif grid[row + (down - across - 1) // 2, col + (down + across - 1) // 2] == value:
                turn = -1
        down, across = turn * across, -turn * down


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
