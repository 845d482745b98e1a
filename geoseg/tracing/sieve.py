"""Small regions given to their neighbours, before anything is traced: so no polygon has to be united with another.

The smallest region goes first (of equal ones the one whose first pixel comes first). It goes to the neighbour with
which it shares the most pixel sides; of several such to the largest, then to the one whose first pixel comes first.
It takes that one's value, and whatever else it touches of this value becomes one with it. That goes on until every
region that has a neighbour is large enough. All of it happens on a graph of regions, measured in whole numbers, so
neither chunks nor threads can change the result.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from geoseg.earth import PixelAreas
from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.components import add_areas
from geoseg.tracing.regions import area_units
from geoseg.tracing.register import Measure, Register, register_regions
from geoseg.types import Labels
from geoseg.window import Window

__all__ = ["sieve"]

IntArray = npt.NDArray[np.int64]


def sieve(
    labels: LabelReader,
    min_area: float,
    *,
    areas: PixelAreas | None = None,
    connectivity: Literal[4, 8] = 4,
    chunk: int = 2048,
    workers: int = 2,
) -> LabelReader:
    """`labels` without regions smaller than `min_area`: each goes to the neighbour with the longest shared border.

    A region that has no neighbour, only pixels without a label around it, stays.

    Memory: about 100 bytes for each region and each part of one that a chunk's border cuts off, 60 for each pair of
    neighbours of which one is small, 40 for each row that a small region reaches into; half of it while the result is
    read. Nothing grows with the number of pixels.

    Args:
        labels: Class values.
        min_area: In m2 if there are `areas`, else in pixels.
        areas: Of the pixels.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
        chunk: Pixels along both sides of what is looked at in one go.
        workers: Threads.

    Raises:
        GridError: `min_area` is no usable number, pixels have no area; or an argument makes no sense.
        SourceError: The labels cannot be read.

    >>> from geoseg.source.labels import ArrayLabels
    >>> speckled = ArrayLabels(np.array([[1, 1, 1, 2], [1, 3, 2, 2]], np.uint8))
    >>> sieve(speckled, 2).read(Window(row_off=0, col_off=0, height=2, width=4)).tolist()
    [[1, 1, 1, 2], [1, 1, 2, 2]]
    """
    scale = 1.0 if areas is None else area_units(areas, labels.shape)
    if not (0 <= min_area < math.inf and math.isfinite(scale)):
        raise GridError(
            f"a least area of {min_area}: give a number from 0 on, in m2 on a grid with a CRS, else in pixels"
        )
    if min_area == 0 or 0 in labels.shape:
        return labels
    # What is larger than all there can be is as good as that.
    below = math.ceil(min(min_area * scale, float(np.iinfo(np.int64).max // 2)))
    measure = None if areas is None else _measure(areas, scale)
    register = register_regions(labels, measure, connectivity=connectivity, below=below, chunk=chunk, workers=workers)
    values = _absorbed(register, below)
    changed = np.flatnonzero(values[register.owners] != register.values[register.owners])
    stretches = register.stretches[changed]
    return _Sieved(
        labels=labels,
        rows=np.searchsorted(stretches[:, 0], np.arange(labels.shape[0] + 1)),
        stretches=stretches[:, 1:].copy(),
        values=values[register.owners[changed]].astype(labels.dtype),
    )


def _measure(areas: PixelAreas, scale: float) -> Measure:
    """Areas in whole units, as `geoseg.tracing.regions` sums them."""

    def measure(window: Window, padded: npt.NDArray[Any], sums: IntArray) -> None:
        nodes, lines = areas.along(window.row_off, window.row_stop)
        add_areas(padded, nodes, lines, window.col_off, scale, sums)

    return measure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sieved:
    """Labels in which stretches of rows have other values."""

    labels: LabelReader
    rows: IntArray
    """(rows + 1,) where the stretches of each row begin."""
    stretches: npt.NDArray[np.int32]
    """(n, 2) first column, and the column beyond the last."""
    values: Labels
    """(n,) the new value of each."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.labels.dtype

    @property
    def nodata(self) -> int | None:
        return self.labels.nodata

    def read(self, window: Window) -> Labels:
        painted: Labels = self.labels.read(window).copy()
        _paint(painted, self.rows[window.row_off : window.row_stop + 1], window.col_off, self.stretches, self.values)
        return painted


@numba.njit(cache=True, nogil=True)
def _paint(labels: Any, rows: Any, col_off: int, stretches: Any, values: Any) -> None:
    """Writes into `labels` (row, col) what its part of the stretches has."""
    for row in range(labels.shape[0]):
        for at in range(rows[row], rows[row + 1]):
            for col in range(max(stretches[at, 0] - col_off, 0), min(stretches[at, 1] - col_off, labels.shape[1])):
                labels[row, col] = values[at]


def _absorbed(register: Register, below: int) -> IntArray:
    """(region,) the value that each region ends with."""
    neighbours = np.searchsorted(register.contacts[:, 0], np.arange(len(register.first) + 1))
    values, parent = register.values.copy(), np.arange(len(register.first))
    _absorb(parent, values, register.first.copy(), register.sums.copy(), neighbours, register.contacts[:, 1:], below)
    return values[parent]


@numba.njit(cache=True, nogil=True)
def _absorb(parent: Any, values: Any, first: Any, sums: Any, neighbours: Any, contacts: Any, below: int) -> None:
    """Merges regions until all that have a neighbour are large enough; `parent` ends as the region that each is in.

    `neighbours` tells where the `contacts` (neighbour, sides) of each region begin; only small ones have any, and only
    they are asked for any. What a region has taken in follows it in a chain, so lists are never copied.
    """
    following = np.full(len(parent), -1, np.int64)
    last = np.arange(len(parent))
    border = np.full(len(parent), -1, np.int64)
    near = np.empty(len(parent), np.int64)
    heap = [(sums[region], first[region], region) for region in range(len(parent)) if sums[region] < below]
    heapq.heapify(heap)
    while heap:
        size, _, region = heapq.heappop(heap)
        if parent[region] != region or sums[region] != size:
            continue
        found = _look_around(region, parent, following, neighbours, contacts, border, near)
        best = _choice(near[:found], border, sums, first)
        if best < 0:
            continue
        value = values[best]
        for at in range(found):
            other = near[at]
            if values[other] == value:
                parent[other] = region
                following[last[region]] = other
                last[region] = last[other]
                sums[region] += sums[other]
                first[region] = min(first[region], first[other])
        values[region] = value
        if sums[region] < below:
            heapq.heappush(heap, (sums[region], first[region], region))
    for region in range(len(parent)):
        parent[region] = _root(parent, region)


@numba.njit(cache=True, nogil=True)
def _look_around(
    region: int, parent: Any, following: Any, neighbours: Any, contacts: Any, border: Any, near: Any
) -> int:
    """Lists the neighbours of a region in `near`, and the sides that it shares with them in `border`; how many."""
    found = 0
    member = region
    while member >= 0:
        for at in range(neighbours[member], neighbours[member + 1]):
            other = _root(parent, contacts[at, 0])
            if other == region:
                continue
            if border[other] < 0:
                near[found] = other
                found += 1
                border[other] = 0
            border[other] += contacts[at, 1]
        member = following[member]
    return found


@numba.njit(cache=True, nogil=True)
def _choice(near: Any, border: Any, sums: Any, first: Any) -> int:
    """Which of the regions around a small one it goes to, -1 for none; forgets what `border` has of them."""
    best, most, largest = -1, 0, 0
    for other in near:
        sides, size = border[other], sums[other]
        border[other] = -1
        if sides > most or (sides == most > 0 and (size > largest or (size == largest and first[other] < first[best]))):
            best, most, largest = other, sides, size
    return best


@numba.njit(cache=True, nogil=True)
def _root(parent: Any, region: int) -> int:
    """The region that holds `region` by now; shortens the way for those who ask next."""
    while parent[region] != region:
        parent[region] = parent[parent[region]]
        region = parent[region]
    return region
