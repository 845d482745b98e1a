"""A register of the regions of a raster that never lies in memory as a whole: how large they are, and whom they touch.

Each chunk is labelled on its own; its components are *parts*, and parts of one region are joined across the borders of
chunks. Of small regions the register also holds their pixels, as stretches of rows, and their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.components import census, joined, label_components
from geoseg.window import Window

__all__ = ["Measure", "Register", "chunks_of", "register_regions"]

IntArray = npt.NDArray[np.int64]

Measure: TypeAlias = Callable[[Window, npt.NDArray[Any], IntArray], None]
"""Adds to the sums (part,) what the pixels of a window count for, given their parts (row + 2, col + 2) from 1 on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Register:
    """Regions, in no order that matters: their first pixels tell them apart, whatever the chunks were."""

    starts: IntArray
    """(chunk,) number of each chunk's first part."""
    region: IntArray
    """(part,) the region that it belongs to."""
    first: IntArray
    """(region,) its first pixel, as row * width + col."""
    values: IntArray
    """(region,) class value."""
    sums: IntArray
    """(region,) what was measured."""
    contacts: IntArray
    """(n, 3) a small region, a neighbour, and how many pixel sides they share; 0 if they touch by corners only."""
    stretches: npt.NDArray[np.int32]
    """(n, 3) row, first column and column beyond the last, in row-major order: all pixels of small regions."""
    owners: IntArray
    """(n,) the region of each stretch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sheet:
    """The parts of one chunk, counted from 0."""

    row: int
    first: IntArray
    values: IntArray
    sums: IntArray
    sides: list[IntArray]
    """Along top, bottom, left and right: the part of each pixel, -1 for none."""
    pairs: IntArray
    """(n, 3) two parts, and how many pixel sides they share."""
    stretches: npt.NDArray[np.int32]
    owners: npt.NDArray[np.int32]


TOP, BOTTOM, LEFT, RIGHT = range(4)


def chunks_of(labels: LabelReader, chunk: int) -> Iterable[Window]:
    """The raster in chunks, row by row."""
    rows, cols = labels.shape
    return Window(row_off=0, col_off=0, height=rows, width=cols).pieces(chunk, chunk)


def register_regions(
    labels: LabelReader,
    measure: Measure | None = None,
    *,
    connectivity: int = 4,
    below: int = 0,
    chunk: int = 2048,
    workers: int = 2,
) -> Register:
    """The regions of `labels`.

    Args:
        labels: Class values.
        measure: What is summed over the pixels of each region; None: counts them.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
        below: Regions with a smaller sum are small.
        chunk: Pixels along both sides of a chunk.
        workers: Threads.

    Raises:
        GridError: `connectivity` is neither 4 nor 8; there is no pixel to a chunk, or no thread.
        SourceError: The labels cannot be read.
    """
    if connectivity not in {4, 8} or chunk < 1 or workers < 1:
        raise GridError(
            f"chunks of {chunk} pixels on {workers} threads, {connectivity} neighbours: chunks have pixels, there is "
            "at least one thread, and pixels have 4 neighbours or 8"
        )
    corners = connectivity == 8

    def look(window: Window) -> _Sheet:
        return _sheet(labels, window, measure, corners=corners, below=below)

    with ThreadPoolExecutor(workers, "geoseg-register") as threads:
        sheets = list(threads.map(look, chunks_of(labels, chunk)))
    starts = np.cumsum([0, *(len(sheet.first) for sheet in sheets)])
    facing = _across_borders(sheets, starts, labels.shape[1], corners=corners)
    return _joined(sheets, starts, facing, below)


def _sheet(labels: LabelReader, window: Window, measure: Measure | None, *, corners: bool, below: int) -> _Sheet:
    """What is to be known of one chunk."""
    values = labels.read(window)
    padded, count = label_components(values, labels.nodata)
    sums, first = census(padded, count)
    rows, cols = np.divmod(first, window.width)
    if measure is not None:
        sums = np.zeros(count, np.int64)
        measure(window, padded, sums)
    number = padded[1:-1, 1:-1] - 1
    part_values = values[rows, cols].astype(np.int64)
    small = sums < below
    pairs = _counted(_pairs(padded, small, ((0, 1), (1, 0))), count)
    if corners:
        diagonal = _counted(_pairs(padded, np.ones(count, np.bool_), ((1, -1), (1, 1))), count)
        alike = part_values[diagonal[:, 0]] == part_values[diagonal[:, 1]]
        diagonal = diagonal[alike | small[diagonal[:, 0]] | small[diagonal[:, 1]]]
        pairs = np.concatenate([pairs, diagonal * [1, 1, 0]])
    stretches, owners = _stretches(number, small, window.row_off, window.col_off)
    return _Sheet(
        row=window.row_off,
        first=(window.row_off + rows) * labels.shape[1] + window.col_off + cols,
        values=part_values,
        sums=sums,
        sides=[number[0].copy(), number[-1].copy(), number[:, 0].copy(), number[:, -1].copy()],
        pairs=pairs,
        stretches=stretches,
        owners=owners,
    )


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
def _stretches(number: Any, small: Any, row_off: int, col_off: int) -> tuple[Any, Any]:
    """The pixels of small parts: (row, first column, column beyond the last) int32, and their parts int32."""
    count = 0
    for again in range(2):  # to count, then to note
        found = np.empty((count, 3), np.int32)
        owners = np.empty(count, np.int32)
        count = 0
        for row in range(number.shape[0]):
            for col in range(number.shape[1]):
                part = number[row, col]
                if part < 0 or not small[part]:
                    continue
                if col == 0 or number[row, col - 1] != part:
                    if again:
                        found[count, 0], found[count, 1] = row_off + row, col_off + col
                        owners[count] = part
                    count += 1
                if again:
                    found[count - 1, 2] = col_off + col + 1
    return found, owners


def _across_borders(sheets: list[_Sheet], starts: IntArray, width: int, *, corners: bool) -> IntArray:
    """(n, 3) pairs of parts, counted through, that face each other across borders of chunks, and their sides."""
    found = [np.empty((0, 3), np.int64)]
    above = np.full(width, -1)
    for _, row in groupby(zip(sheets, starts.tolist(), strict=False), key=lambda sheet: sheet[0].row):
        sides = [[np.where(side < 0, -1, side + start) for side in sheet.sides] for sheet, start in row]
        found += [_facing(west[RIGHT], east[LEFT], corners=corners) for west, east in pairwise(sides)]
        found.append(_facing(above, np.concatenate([each[TOP] for each in sides]), corners=corners))
        above = np.concatenate([each[BOTTOM] for each in sides])
    return np.concatenate(found)


def _facing(one: IntArray, other: IntArray, *, corners: bool) -> IntArray:
    """(n, 3) pairs along one border, and how many sides they share."""
    pairs = [np.column_stack([one, other, np.ones(len(one), np.int64)])]
    if corners:
        for near, far in ((one[1:], other[:-1]), (one[:-1], other[1:])):
            pairs.append(np.column_stack([near, far, np.zeros(len(near), np.int64)]))
    together = np.concatenate(pairs)
    return together[(together[:, :2] >= 0).all(axis=1)]


def _joined(sheets: list[_Sheet], starts: IntArray, facing: IntArray, below: int) -> Register:
    """Parts to regions."""

    def all_of(name: str) -> Any:
        return np.concatenate([getattr(sheet, name) for sheet in sheets])

    values, first, sums = all_of("values"), all_of("first"), all_of("sums")
    shifts = [np.array([start, start, 0]) for start in starts[:-1].tolist()]
    pairs = np.concatenate([facing, *(sheet.pairs + shift for sheet, shift in zip(sheets, shifts, strict=True))])
    alike = values[pairs[:, 0]] == values[pairs[:, 1]]
    region, count = joined(len(values), pairs[alike, :2])
    region_first, region_sums, region_values = np.full(count, np.iinfo(np.int64).max), *np.zeros((2, count), np.int64)
    np.minimum.at(region_first, region, first)
    np.add.at(region_sums, region, sums)
    region_values[region] = values
    small = region_sums < below
    stretches = all_of("stretches")
    owners = region[
        np.concatenate([sheet.owners + start for sheet, start in zip(sheets, starts.tolist(), strict=False)])
    ]
    order = np.flatnonzero(small[owners])
    order = order[np.argsort(stretches[order, 0], kind="stable")]
    return Register(
        starts=starts,
        region=region,
        first=region_first,
        values=region_values,
        sums=region_sums,
        contacts=_contacts(region, pairs[~alike], small),
        stretches=stretches[order],
        owners=owners[order],
    )


def _contacts(region: IntArray, pairs: IntArray, small: npt.NDArray[np.bool_]) -> IntArray:
    """(n, 3) from every small region to each of its neighbours, in order, sides added up."""
    one, other, sides = region[pairs[:, 0]], region[pairs[:, 1]], pairs[:, 2]
    key = np.concatenate([one * len(small) + other, other * len(small) + one])
    wanted = small[np.concatenate([one, other])]
    keys, index = np.unique(key[wanted], return_inverse=True)
    total = np.zeros(len(keys), np.int64)
    np.add.at(total, index, np.tile(sides, 2)[wanted])
    return np.column_stack([*np.divmod(keys, max(1, len(small))), total])
