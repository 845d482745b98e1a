"""The regions of a raster that never lies in memory as a whole, and what each sums up to.

Each chunk is labelled on its own. What it sees of a region is a *part*; a part that stays off the edges of its chunk is
a whole region, and nobody else needs to know of it. The register knows the others: which parts are one region, and how
large it is. So a chunk that is looked at again can tell of all its parts what their regions are.

Memory: 16 bytes for each part at an edge of its chunk, 50 while they are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.chunks import CHUNK, chunks_of, in_order
from geoseg.tracing.components import census, corner_groups, joined, label_components
from geoseg.types import Labels
from geoseg.window import Window

__all__ = ["BOTTOM", "Measure", "Parts", "Register", "Sides", "facing", "register_regions"]

IntArray = npt.NDArray[np.int64]

Measure: TypeAlias = Callable[[Window, npt.NDArray[Any], IntArray], None]
"""Adds to the sums (part,) what the pixels of a window count for, given their parts (row + 2, col + 2) from 1 on."""

Sides: TypeAlias = Sequence[npt.NDArray[Any]]
"""Of the pixels along top, bottom, left and right of a chunk: (n, k) numbers, of which the first is -1 for no label."""

TOP, BOTTOM, LEFT, RIGHT = range(4)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """What one chunk sees of the regions, part by part, counted from 0."""

    labels: Labels
    """(row, col) the class values of the chunk."""
    padded: npt.NDArray[np.int32]
    """(row + 2, col + 2) the part of each pixel, counted from 1; 0 for no label and around the chunk."""
    first: IntArray
    """(part,) the first pixel, as row * width + col of the raster."""
    values: IntArray
    """(part,) class value."""
    sums: IntArray
    """(part,) what was measured."""

    @property
    def edge(self) -> IntArray:
        """(n,) the parts that reach an edge of the chunk, in order."""
        found = np.unique(np.concatenate(self._sides))
        return np.asarray(found[found > 0] - 1, dtype=np.int64)

    @property
    def _sides(self) -> tuple[npt.NDArray[np.int32], ...]:
        inner = self.padded[1:-1, 1:-1]
        return inner[0], inner[-1], inner[:, 0], inner[:, -1]

    def along_sides(self, table: npt.NDArray[Any]) -> Sides:
        """The rows (part, k) of a table, pixel by pixel."""
        rows = np.concatenate([np.full((1, table.shape[1]), -1, table.dtype), table])
        return [rows[side] for side in self._sides]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Register:
    """The regions of `labels`; their first pixels tell them apart, whatever the chunks are."""

    labels: LabelReader
    chunks: Sequence[Window]
    largest: int
    """The largest sum of a region."""
    measure: Measure | None
    corners: bool
    starts: IntArray
    """(chunk + 1,) where the parts at the edges of each chunk begin."""
    first: IntArray
    """(part,) the first pixel of the region that it belongs to."""
    sums: IntArray
    """(part,) the sum of this region."""

    def look(self, chunk: int) -> Parts:
        """The parts of a chunk, with the first pixels and the sums of the regions that they belong to.

        Raises:
            SourceError: The labels cannot be read.
        """
        parts = _look(self.labels, self.chunks[chunk], self.measure, corners=self.corners)
        known, edge = slice(*self.starts[chunk : chunk + 2].tolist()), parts.edge
        parts.first[edge], parts.sums[edge] = self.first[known], self.sums[known]
        return parts


def register_regions(
    labels: LabelReader,
    measure: Measure | None = None,
    *,
    connectivity: int = 4,
    chunk: int = CHUNK,
    workers: int = 2,
) -> Register:
    """The regions of `labels`.

    Args:
        labels: Class values.
        measure: What is summed over the pixels of each region; None: counts them.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
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
    corners, chunks = connectivity == 8, list(chunks_of(labels, chunk, chunk))

    def see(window: Window) -> _Edge:
        return _edge_of(_look(labels, window, measure, corners=corners), window.row_off)

    edges, alike = [], [np.empty((0, 2), np.int64)]
    above, count = np.full((labels.shape[1], 2), -1), 0
    for _, row in groupby(in_order(see, chunks, workers), key=lambda edge: edge.row):
        sides = []
        for edge in row:
            for side in edge.sides:
                side[side[:, 0] >= 0, 0] += count
            sides.append(edge.sides)
            edges.append(replace(edge, sides=()))
            count += len(edge.first)
        one, other, _ = facing(sides, above, corners=corners)
        same = one[:, 1] == other[:, 1]
        alike.append(np.unique(np.column_stack([one[same, 0], other[same, 0]]), axis=0))
        above = np.concatenate([each[BOTTOM] for each in sides])
    first, sums = _totals(edges, alike)
    return Register(
        labels=labels,
        chunks=chunks,
        largest=max([*(edge.largest for edge in edges), int(sums.max(initial=0))], default=0),
        measure=measure,
        corners=corners,
        starts=np.cumsum([0, *(len(edge.first) for edge in edges)]),
        first=first,
        sums=sums,
    )


def facing(row: Sequence[Sides], above: IntArray, *, corners: bool) -> tuple[IntArray, IntArray, IntArray]:
    """What faces each other across the borders of a row of chunks, and across the one to the row above.

    Args:
        row: The sides of the chunks, from west to east.
        above: (col, k) along the bottom of the row above.
        corners: Whether pixels that touch at their corners only face each other too.

    Returns:
        The numbers (n, k) of one pixel and of the other, which both have labels; (n,) the sides they share, 0 or 1.
    """
    borders = [(above, np.concatenate([sides[TOP] for sides in row]))]
    borders += [(west[RIGHT], east[LEFT]) for west, east in pairwise(row)]
    pairs = [(one, other, 1) for one, other in borders]
    if corners:
        pairs += [(one[1:], other[:-1], 0) for one, other in borders]
        pairs += [(one[:-1], other[1:], 0) for one, other in borders]
    ones, others = (np.concatenate([pair[at] for pair in pairs]) for at in (0, 1))
    shared = np.concatenate([np.full(len(one), sides) for one, _, sides in pairs])
    labelled = (ones[:, 0] >= 0) & (others[:, 0] >= 0)
    return ones[labelled], others[labelled], shared[labelled]


def _look(labels: LabelReader, window: Window, measure: Measure | None, *, corners: bool) -> Parts:
    """The parts of a chunk, as it sees them."""
    seen = labels.read(window)
    padded, count = label_components(seen, labels.nodata)
    sums, first = census(padded, count)
    rows, cols = np.divmod(first, window.width)
    if measure is not None:
        sums = np.zeros(count, np.int64)
        measure(window, padded, sums)
    parts = Parts(
        labels=seen,
        padded=padded,
        first=(window.row_off + rows) * labels.shape[1] + window.col_off + cols,
        values=seen[rows, cols].astype(np.int64),
        sums=sums,
    )
    return _held_at_corners(parts) if corners else parts


def _held_at_corners(parts: Parts) -> Parts:
    """The same; parts of one value that touch at corners are one."""
    leaders, group = np.unique(corner_groups(parts.padded, parts.values), return_inverse=True)
    sums = np.zeros(len(leaders), np.int64)
    np.add.at(sums, group, parts.sums)
    number = np.append(0, group + 1).astype(np.int32)
    return replace(
        parts, padded=number[parts.padded], first=parts.first[leaders], values=parts.values[leaders], sums=sums
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Edge:
    """What is to be kept of a chunk: the parts that reach its edges, counted from 0."""

    row: int
    first: IntArray
    sums: IntArray
    sides: Sides
    """(n, 2) part and class value."""
    largest: int
    """The largest sum of the chunk's other parts."""


def _edge_of(parts: Parts, row: int) -> _Edge:
    edge = parts.edge
    number = np.full(len(parts.first), -1)
    number[edge] = np.arange(len(edge))
    return _Edge(
        row=row,
        first=parts.first[edge],
        sums=parts.sums[edge],
        sides=parts.along_sides(np.column_stack([number, parts.values])),
        largest=int(parts.sums[number < 0].max(initial=0)),
    )


def _totals(edges: Sequence[_Edge], alike: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
    """(part,) the first pixel of the region that each part belongs to, and its sum."""
    parts_first, parts_sums = (
        np.concatenate([np.empty(0, np.int64), *(getattr(edge, name) for edge in edges)]) for name in ("first", "sums")
    )
    region, count = joined(len(parts_first), *alike)
    first, sums = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(first, region, parts_first)
    np.add.at(sums, region, parts_sums)
    return first[region], sums[region]
