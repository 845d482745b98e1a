"""Small regions given to their neighbours, before anything is traced: so no polygon has to be united with another.

Small regions that touch each other are a *clump*. Each clump settles by itself, among regions that are large enough
and as large as they were found. Its smallest region goes first (of equal ones the one whose first pixel comes first).
It goes to the neighbour with which it shares the most pixel sides; of several such to the largest, then to the one
whose first pixel comes first. It takes that one's value, and whatever else it touches of this value becomes one with
it. That goes on until every region of the clump that has a neighbour is large enough.

All of it happens on a graph of regions, measured in whole numbers, so neither chunks nor threads can change the result.
A clump settles as soon as it is seen whole: in its chunk, or when a row of chunks ends that it does not leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from geoseg.earth import PixelAreas
from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.chunks import CHUNK, in_order
from geoseg.tracing.components import add_areas
from geoseg.tracing.mapped import MappedArray
from geoseg.tracing.regions import area_units
from geoseg.tracing.register import BOTTOM, Measure, Parts, Register, Sides, facing, register_regions
from geoseg.tracing.settling import FIRST, SUM, Clumps, settle
from geoseg.types import Labels
from geoseg.window import Window

__all__ = ["sieve"]

IntArray = npt.NDArray[np.int64]

PAINTED = 4096
"""How many stretches are painted before their pages leave memory: there may be one page to each."""


def sieve(
    labels: LabelReader,
    min_area: float,
    *,
    areas: PixelAreas | None = None,
    connectivity: Literal[4, 8] = 4,
    directory: Path | None = None,
    chunk: int = CHUNK,
    workers: int = 2,
) -> LabelReader:
    """`labels` without regions smaller than `min_area`: each goes to the neighbour with the longest shared border.

    A region that has no neighbour, only pixels without a label around it, stays.

    Memory: that of the chunks at work, what `geoseg.tracing.register` holds, and about 700 bytes for each region of a
    clump that reaches the next row of chunks; nothing else grows with the raster.

    Args:
        labels: Class values.
        min_area: In m2 if there are `areas`, else in pixels.
        areas: Of the pixels.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
        directory: Where a scratch file as large as the labels is; None: where the system keeps temporary files.
        chunk: Pixels along both sides of what is looked at in one go.
        workers: Threads.

    Raises:
        GridError: `min_area` is no usable number, pixels have no area; or an argument makes no sense.
        SourceError: The labels cannot be read.
        SinkError: There is no room for the scratch file.

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
    register = register_regions(labels, measure, connectivity=connectivity, chunk=chunk, workers=workers)
    sieved = _Sieved(mapped=MappedArray(labels.shape, labels.dtype, directory), nodata=labels.nodata)
    _fill(sieved.mapped, register, below, workers)
    return sieved


def _measure(areas: PixelAreas, scale: float) -> Measure:
    """Areas in whole units, as `geoseg.tracing.regions` sums them."""

    def measure(window: Window, padded: npt.NDArray[Any], sums: IntArray) -> None:
        nodes, lines = areas.along(window.row_off, window.row_stop)
        add_areas(padded, nodes, lines, window.col_off, scale, sums)

    return measure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sieved:
    """Labels in a scratch file."""

    mapped: MappedArray
    """(row, col)."""
    nodata: int | None

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.mapped.array.shape
        return rows, cols

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.mapped.array.dtype

    def read(self, window: Window) -> Labels:
        return self.mapped.read(window)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    """Clumps that nobody has seen whole yet."""

    clumps: Clumps
    stretches: IntArray
    """(n, 4) row, first column, column beyond the last, and the first pixel of the region: all pixels of small ones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunk:
    """What is left of a chunk when its own clumps have settled."""

    row: int
    sides: Sides
    """(n, 3) first pixel, class value and sum of the regions."""
    waiting: _Waiting


def _fill(sieved: MappedArray, register: Register, below: int, workers: int) -> None:
    """Writes the labels (row, col) without their small regions into `sieved`."""

    def settle(chunk: int) -> _Chunk:
        window = register.chunks[chunk]
        found, labels = _settled_within(register.look(chunk), window, register.corners, below)
        sieved.write(window, labels)
        return found

    waiting = _Waiting(clumps=Clumps.none(), stretches=np.empty((0, 4), np.int64))
    above = np.full((sieved.array.shape[1], 3), -1)
    for _, row in groupby(in_order(settle, range(len(register.chunks)), workers), key=lambda chunk: chunk.row):
        chunks = list(row)
        met = _met(facing([chunk.sides for chunk in chunks], above, corners=register.corners), below)
        above = np.concatenate([chunk.sides[BOTTOM] for chunk in chunks])
        waiting = _settled_above(above, _together(waiting, met, chunks), below, sieved)
    _settled_above(above[:0], waiting, below, sieved)


def _settled_within(parts: Parts, window: Window, corners: bool, below: int) -> tuple[_Chunk, Labels]:
    """Settles the clumps of a chunk that stay off its edges: what is left, and the labels (row, col)."""
    regions = np.column_stack([parts.first, parts.values, parts.sums])
    contacts = _contacts(parts.padded, parts.sums < below, corners=corners)
    contacts[:, :2] = parts.first[contacts[:, :2]]
    verdict = settle(Clumps(regions=regions, contacts=contacts), parts.first[parts.edge], below)
    values, waits = verdict.of(parts.first)
    number = parts.padded[1:-1, 1:-1]
    value_of: npt.NDArray[Any] = np.append(0, values).astype(parts.labels.dtype)
    labels = value_of[number]
    np.copyto(labels, parts.labels, where=number == 0)
    stretches, owners = _stretches(parts.padded, waits, window.row_off, window.col_off)
    waiting = _Waiting(clumps=verdict.waiting, stretches=np.column_stack([stretches, parts.first[owners]]))
    return _Chunk(row=window.row_off, sides=parts.along_sides(regions), waiting=waiting), labels


def _met(pairs: tuple[IntArray, IntArray, IntArray], below: int) -> Clumps:
    """What small regions touch across borders of chunks."""
    one, other, sides = pairs
    wanted = (one[:, FIRST] != other[:, FIRST]) & ((one[:, SUM] < below) | (other[:, SUM] < below))
    return Clumps(
        regions=np.concatenate([one[wanted], other[wanted]]),
        contacts=np.column_stack([one[wanted, FIRST], other[wanted, FIRST], sides[wanted]]),
    )


def _together(waiting: _Waiting, met: Clumps, chunks: Sequence[_Chunk]) -> _Waiting:
    """What waited before a row of chunks, and what it brings."""
    several = [waiting, *(chunk.waiting for chunk in chunks)]
    clumps = [met, *(each.clumps for each in several)]
    return _Waiting(
        clumps=Clumps(
            regions=np.concatenate([each.regions for each in clumps]),
            contacts=np.concatenate([each.contacts for each in clumps]),
        ),
        stretches=np.concatenate([each.stretches for each in several]),
    )


def _settled_above(front: IntArray, waiting: _Waiting, below: int, sieved: MappedArray) -> _Waiting:
    """Settles, in `sieved`, the clumps that do not reach the `front` (n, 3), where what is seen ends; the others."""
    verdict = settle(waiting.clumps, front[front[:, FIRST] >= 0, FIRST], below)
    values, waits = verdict.of(waiting.stretches[:, 3])
    painted, values = waiting.stretches[~waits], values[~waits]
    for at in range(0, len(painted), PAINTED):
        _paint(sieved.array, painted[at : at + PAINTED], values[at : at + PAINTED])
        sieved.release()
    return _Waiting(clumps=verdict.waiting, stretches=waiting.stretches[waits])


def _contacts(padded: npt.NDArray[np.int32], small: npt.NDArray[np.bool_], *, corners: bool) -> IntArray:
    """(n, 3) two parts of a chunk of which one is small, and how many pixel sides they share."""
    found = _counted(_pairs(padded, small, ((0, 1), (1, 0))), len(small))
    if corners:
        diagonal = _counted(_pairs(padded, small, ((1, -1), (1, 1))), len(small))
        found = np.concatenate([found, diagonal * [1, 1, 0]])
    return found


def _counted(keys: IntArray, count: int) -> IntArray:
    """(n, 3) pairs of parts by their keys ``one * count + other``, and how often each comes."""
    found, times = np.unique(keys, return_counts=True)
    return np.column_stack([*np.divmod(found, max(1, count)), times])


@numba.njit(cache=True, nogil=True)
def _doubled(keys: Any) -> IntArray:
    """The same keys, with room for as many again."""
    larger = np.empty(2 * len(keys), np.int64)
    for at in range(len(keys)):  # a slice would take numba five seconds more to compile
        larger[at] = keys[at]
    return larger


@numba.njit(cache=True, nogil=True)
def _pairs(padded: Any, wanted: Any, steps: Any) -> IntArray:
    """Keys of the two parts wherever a pixel of one lies a step from a pixel of the other and one of them is wanted."""
    count = len(wanted)
    keys = np.empty(1024, np.int64)
    size = 0
    for row in range(1, padded.shape[0] - 1):
        for col in range(1, padded.shape[1] - 1):
            one = padded[row, col]
            for down, across in steps:
                other = padded[row + down, col + across]
                if one > 0 and other > 0 and one != other and (wanted[one - 1] or wanted[other - 1]):
                    if size == len(keys):
                        keys = _doubled(keys)
                    keys[size] = (min(one, other) - 1) * count + max(one, other) - 1
                    size += 1
    return keys[:size]


@numba.njit(cache=True, nogil=True)
def _stretches(padded: Any, wanted: Any, row_off: int, col_off: int) -> tuple[Any, Any]:
    """The pixels of parts that are wanted: (row, first column, column beyond the last) int64, and their parts."""
    count = 0
    for again in range(2):  # to count, then to note
        found = np.empty((count, 3), np.int64)
        owners = np.empty(count, np.int64)
        count = 0
        for row in range(1, padded.shape[0] - 1):
            for col in range(1, padded.shape[1] - 1):
                part = padded[row, col] - 1
                if part < 0 or not wanted[part]:
                    continue
                if padded[row, col - 1] - 1 != part:
                    if again:
                        found[count, 0], found[count, 1] = row_off + row - 1, col_off + col - 1
                        owners[count] = part
                    count += 1
                if again:
                    found[count - 1, 2] = col_off + col
    return found, owners


@numba.njit(cache=True, nogil=True)
def _paint(labels: Any, stretches: Any, values: Any) -> None:
    """Writes into `labels` (row, col) the value (n,) of each stretch (n, 4)."""
    for at in range(len(stretches)):
        for col in range(stretches[at, 1], stretches[at, 2]):
            labels[stretches[at, 0], col] = values[at]
