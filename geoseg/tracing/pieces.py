"""Regions with too many vertices for one polygon, cut into pieces along a fixed lattice.

The pieces are regions like all others: labels of their own stand for the value and the piece, so whatever reads labels
needs to know nothing of it. The lattice is one of squares within squares. A region that is too large is cut along the
largest squares, a piece that is still too large along the next smaller ones, whose sides are half as long; how long the
first are follows from the number of vertices alone, so the pieces are the same whatever the chunks.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from geoseg.errors import GridError
from geoseg.protocols import LabelReader
from geoseg.tracing.chunks import CHUNK
from geoseg.tracing.corners import read_bordered
from geoseg.tracing.mapped import MappedArray
from geoseg.tracing.register import Register, register_regions
from geoseg.types import Labels
from geoseg.window import Window

__all__ = ["SplitLabels", "split"]

IntArray = npt.NDArray[np.int64]

LEAST = 16
"""Fewest vertices that a polygon may be asked to be content with."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitLabels:
    """Labels that tell the pieces of a region from each other; `decode` gives the class values back."""

    labels: LabelReader
    """The class values."""
    parts: MappedArray
    """(row, col) uint8: 0 for regions that are whole; neighbouring pieces have different numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Wider than that of the class values."""
        return _wider(self.labels.dtype)

    @property
    def nodata(self) -> int | None:
        """As of the class values."""
        return self.labels.nodata

    def read(self, window: Window) -> Labels:
        """(row, col) of a window: a number for each class value and piece; for whole regions the class value.

        Raises:
            SourceError: The labels cannot be read.
        """
        codes: Labels = self.labels.read(window).astype(self.dtype)
        codes += self.parts.read(window) * self.dtype.type(_span(self.labels.dtype))
        return codes

    def decode(self, codes: npt.NDArray[Any]) -> tuple[Labels, npt.NDArray[np.uint8]]:
        """Class values and parts of what `read` gives, of any shape; part 0 is for whole regions."""
        lowest = int(np.iinfo(self.labels.dtype).min)
        part = (codes.astype(np.int64) - lowest) // _span(self.labels.dtype)
        return (codes - part * _span(self.labels.dtype)).astype(self.labels.dtype), part.astype(np.uint8)


def _span(dtype: np.dtype[Any]) -> int:
    """How many numbers a dtype has."""
    return 1 << (8 * dtype.itemsize)


def _wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype({1: np.uint16 if dtype.kind == "u" else np.int16, 2: np.int32}.get(dtype.itemsize, np.int64))


def split(
    labels: LabelReader,
    max_vertices: int,
    *,
    connectivity: Literal[4, 8] = 4,
    directory: Path | None = None,
    chunk: int = CHUNK,
    workers: int = 2,
) -> SplitLabels:
    """`labels` in which no region's polygon has more than `max_vertices` vertices; the larger ones are in pieces.

    Vertices are those of `joints=0` of `geoseg.tracing.polygons.polygonize`, which no simplification adds to; the
    point that closes a ring is not counted again. Takes one pass over the labels, and two for each size of squares.

    Args:
        labels: Class values.
        max_vertices: At least 16.
        connectivity: Whether pixels hold together along edges (4), or at corners too (8).
        directory: Where a scratch file of one byte per pixel is; None: where the system keeps temporary files.
        chunk: Pixels along both sides of what is looked at in one go.
        workers: Threads.

    Raises:
        GridError: `max_vertices` is below 16, labels have 64 bits; or an argument makes no sense.
        SourceError: The labels cannot be read.
        SinkError: There is no room for the scratch file.

    >>> from geoseg.source.labels import ArrayLabels
    >>> grid = (np.indices((90, 90)) % 9 == 4).any(axis=0).astype(np.uint8)
    >>> divided = split(ArrayLabels(grid, 0), 200)
    >>> values, parts = divided.decode(divided.read(Window(row_off=0, col_off=0, height=90, width=90)))
    >>> bool((values == grid).all()), bool(parts[grid == 1].all()), bool(parts[grid == 0].any())
    (True, True, False)
    """
    if max_vertices < LEAST or labels.dtype.itemsize > 4:
        raise GridError(
            f"regions of at most {max_vertices} vertices, labels of {labels.dtype}: ask for {LEAST} vertices or more, "
            "and give labels of at most 32 bits"
        )
    divided = SplitLabels(labels=labels, parts=MappedArray(labels.shape, np.uint8, directory))

    def count(window: Window, padded: npt.NDArray[Any], sums: IntArray) -> None:
        _count_vertices(read_bordered(divided, window), padded, sums)

    if 0 in labels.shape:
        return divided
    side = 1 << math.ceil(math.log2(16 * math.sqrt(max_vertices)))
    while True:
        register = register_regions(divided, count, connectivity=connectivity, chunk=chunk, workers=workers)
        if register.largest <= max_vertices:
            break
        _cut(divided.parts, register, max_vertices, side, workers)
    return divided


def _cut(numbers: MappedArray, register: Register, max_vertices: int, side: int, workers: int) -> None:
    """Cuts what is too large: whole regions along squares of `side`, pieces along the next smaller squares.

    A part's number tells how often its region has been cut, and which of four neighbouring squares it lies in.
    """

    def mark(chunk: int) -> None:
        # Vertices of parts within a chunk depend on its own pixels alone, so it does not matter which chunks are cut.
        parts, window = register.look(chunk), register.chunks[chunk]
        large = parts.sums > max_vertices
        renumbered = numbers.read(window)
        _renumber(renumbered, parts.padded, large, side, window.row_off, window.col_off)
        numbers.write(window, renumbered)

    with ThreadPoolExecutor(workers, "geoseg-pieces") as threads:
        list(threads.map(mark, range(len(register.chunks))))


@numba.njit(cache=True, nogil=True)
def _renumber(parts: Any, padded: Any, cut: Any, side: int, row_off: int, col_off: int) -> None:
    """Writes the new number of each pixel of the components to be cut into `parts` (row, col)."""
    for row in range(parts.shape[0]):
        for col in range(parts.shape[1]):
            component = padded[row + 1, col + 1]
            if component > 0 and cut[component - 1]:
                level = (parts[row, col] + 3) // 4
                down, across = (row_off + row) // (side >> level), (col_off + col) // (side >> level)
                parts[row, col] = 1 + 4 * level + 2 * (down % 2) + across % 2


@numba.njit(cache=True, nogil=True)
def _count_vertices(bordered: Any, padded: Any, sums: Any) -> None:
    """Adds to the `sums` (part,) the vertices of the parts' boundaries, each for one of the pixels around it."""
    for row in range(1, bordered.shape[0] - 1):
        for col in range(1, bordered.shape[1] - 1):
            part = padded[row, col]
            if part == 0:
                continue
            value = bordered[row, col]
            for down in (-1, 1):
                for across in (-1, 1):
                    beside, beneath = bordered[row, col + across], bordered[row + down, col]
                    opposite = bordered[row + down, col + across]
                    if value not in (beside, beneath):
                        vertex = True
                    elif beside == value and beneath == value:
                        vertex = opposite != value
                    elif opposite == value:  # counted for the pixel in the middle of the three
                        vertex = False
                    elif beneath == value:  # straight; both pixels see a neighbour's end, the upper or left one counts
                        vertex = down > 0 and opposite != beside
                    else:
                        vertex = across > 0 and opposite != beneath
                    sums[part - 1] += vertex
