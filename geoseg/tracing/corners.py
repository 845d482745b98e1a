"""Where the boundaries of a label raster turn, meet and end: a few bits for every pixel corner.

What a corner is follows from the four pixels around it and from nothing else, so windows of any size give the same
map. It tells two neighbours that know nothing of each other where their common line begins, and which other vertices
are near it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.errors import GridError
from geoseg.tracing.chunks import CHUNK
from geoseg.tracing.mapped import MappedArray
from geoseg.types import Labels
from geoseg.window import Window

if TYPE_CHECKING:
    from geoseg.protocols import LabelReader

__all__ = ["EAST", "NODE", "OUTER", "SOUTH", "VERTEX", "Corners", "flag_at", "map_corners", "read_bordered"]

EAST, SOUTH, VERTEX, NODE, OUTER = 1, 2, 4, 8, 16
"""A boundary leaves the corner to the east, to the south; it turns or ends there; three or four lines meet there, or
pixels touch by their corners only; one of the four pixels has no label."""


SIDE = 64
"""Corners along both sides of a square that is one page of memory: whoever looks at a polygon's corners needs few."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corners:
    """The map of a raster's pixel corners."""

    shape: tuple[int, int]
    """(rows + 1, cols + 1)."""
    mapped: MappedArray
    """(row, col, 64, 64) uint8, square by square: sums of `EAST`, `SOUTH`, `VERTEX`, `NODE`, `OUTER`."""

    @property
    def pages(self) -> npt.NDArray[np.uint8]:
        """(row, col, 64, 64), for `flag_at`."""
        return self.mapped.array

    def release(self) -> None:
        """Lets go of the memory that reading has taken; nothing is lost."""
        self.mapped.release()


def map_corners(labels: LabelReader, *, directory: Path | None = None, chunk: int = CHUNK, workers: int = 2) -> Corners:
    """The corners of `labels`, in a scratch file of one byte per pixel corner.

    Args:
        labels: Of the very regions whose polygons are to be simplified.
        directory: Where the scratch file is; None: where the system keeps temporary files.
        chunk: Corners of a side that are looked at in one go.
        workers: Threads.

    Raises:
        SinkError: There is no room for the file.
        SourceError: The labels cannot be read.
    """
    rows, cols = labels.shape[0] + 1, labels.shape[1] + 1
    mapped = MappedArray((-(-rows // SIDE), -(-cols // SIDE), SIDE, SIDE), np.uint8, directory)

    def fill(window: Window) -> None:
        pixels = Window.from_bounds(window.row_off, window.col_off, window.row_stop - 1, window.col_stop - 1)
        bordered = read_bordered(labels, pixels)
        _classify(bordered, np.iinfo(bordered.dtype).min, window.row_off, window.col_off, mapped.array)
        mapped.release()

    whole = Window(row_off=0, col_off=0, height=rows, width=cols)
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(fill, whole.pieces(chunk, chunk)))
    return Corners(shape=(rows, cols), mapped=mapped)


def read_bordered(labels: LabelReader, window: Window) -> npt.NDArray[Any]:
    """Labels (row + 2, col + 2) of `window` and one pixel around it; the least number of their dtype for none.

    Raises:
        GridError: A class value has no number of its own among those of 64 bits with a sign.
        SourceError: The labels cannot be read.
    """
    scene = Window(row_off=0, col_off=0, height=labels.shape[0], width=labels.shape[1])
    around = Window.from_bounds(window.row_off - 1, window.col_off - 1, window.row_stop + 1, window.col_stop + 1)
    inside = around & scene
    dtype = np.int32 if np.dtype(labels.dtype).itemsize < 4 else np.int64
    none = np.iinfo(dtype).min
    bordered: npt.NDArray[Any] = np.full(around.shape, none, dtype)
    if inside:
        found, place = labels.read(inside), bordered[inside.within(around).slices]
        hidden = np.zeros(found.shape, np.bool_) if labels.nodata is None else found == labels.nodata
        if found.dtype.itemsize == 8:
            _check_values(found[~hidden], none)
        place[:] = found
        place[hidden] = none
    return bordered


def _check_values(values: Labels, none: int) -> None:
    beyond = (values <= none) | (values > np.iinfo(np.int64).max)
    if beyond.any():
        raise GridError(
            f"labels: hold the class value {values[beyond][0]}, but class values are above {none} and below {-none}; "
            "give the classes smaller numbers, or name the value with --nodata"
        )


@numba.njit(cache=True, nogil=True)
def flag_at(pages: Any, x: int, y: int) -> int:
    """The flags of the corner in column `x` and row `y`."""
    return int(pages[y // SIDE, x // SIDE, y % SIDE, x % SIDE])


@numba.njit(cache=True, nogil=True)
def _classify(bordered: Any, none: int, row_off: int, col_off: int, pages: Any) -> None:
    """Fills `pages` from a corner on: the corners between the pixels `bordered` (row + 1, col + 1), `none` for none."""
    for row in range(bordered.shape[0] - 1):
        for col in range(bordered.shape[1] - 1):
            a, b = bordered[row, col], bordered[row, col + 1]
            c, d = bordered[row + 1, col], bordered[row + 1, col + 1]
            north, south, west, east = a != b, c != d, a != c, b != d
            lines = north + south + west + east
            flag = EAST * east + SOUTH * south
            if lines > 0:
                if lines > 2:
                    flag += VERTEX + NODE
                elif north != south:
                    flag += VERTEX
                if none in (a, b, c, d):
                    flag += OUTER
            y, x = row_off + row, col_off + col
            pages[y // SIDE, x // SIDE, y % SIDE, x % SIDE] = flag
