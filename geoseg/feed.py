"""The rows of a chunk, read once, ahead of the net, and reflected where tiles reach beyond the scene.

Tile row by tile row only the rows that no earlier tile row had are read: first `tile` rows, then `stride` rows each.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.grid import Chunk
from geoseg.protocols import Source, Wanted
from geoseg.types import Pixels, Valid
from geoseg.window import Window

__all__ = ["Strip", "read_ahead", "reflect"]

_ENDED = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The rows that one more tile row needs, as wide as the chunk's extent."""

    pixels: Pixels
    """Stored numbers (band, row, col); beyond the scene's edge reflected."""
    valid: Valid
    """Usable pixels (row, col), reflected alike: what is not gets the fill value."""
    inside: Valid
    """Pixels (row, col) that get a label: usable, in the scene, in the crop and wanted."""
    bytes_read: int
    """Size of the stored numbers that the source gave."""
    seconds: float
    """Time that the source took."""


def reflect(index: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    """Indices folded back into ``[0, length)`` by reflection about the first and last, repeated as often as needed.

    >>> reflect(np.arange(-2, 6), 3).tolist()
    [2, 1, 0, 1, 2, 1, 0, 1]
    """
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = index % period
    return np.minimum(folded, period - folded)


class _Reader:
    """Reads strips of one chunk in order; holds the last one's scene rows, which the scene's lower edge reflects."""

    def __init__(self, source: Source, chunk: Chunk, wanted: Wanted | None) -> None:
        grid, extent = chunk.grid, chunk.extent
        self._source, self._chunk, self._wanted = source, chunk, wanted
        self._scene_rows = grid.height
        self._all_cols = np.arange(extent.col_off, extent.col_stop)
        self._cols = reflect(self._all_cols, grid.width)
        self._held: tuple[int, Pixels, Valid] | None = None

    def strip(self, start: int, stop: int) -> Strip:
        """Rows [start, stop) of the extent, counted in the scene and perhaps beyond its edge."""
        began = time.perf_counter()
        rows = reflect(np.arange(start, stop), self._scene_rows)
        first, pixels, valid, fresh = self._rows(int(rows.min()), int(rows.max()) + 1)
        seconds = time.perf_counter() - began
        pick_cols = self._cols - self._cols.min()
        pixels, valid = (_picked(array, rows - first, pick_cols) for array in (pixels, valid))
        inside = valid & self._writable(start, stop)
        return Strip(pixels=pixels, valid=valid, inside=inside, bytes_read=fresh, seconds=seconds)

    def _rows(self, first: int, stop: int) -> tuple[int, Pixels, Valid, int]:
        """Scene rows [first, stop): those that the last strip held from memory, the others from the source."""
        cols = int(self._cols.min()), int(self._cols.max()) + 1
        held_first, held_stop = first, first
        if self._held is not None:
            held_first, held_stop = self._held[0], self._held[0] + self._held[1].shape[1]
        start = held_stop if held_first <= first < held_stop else first
        pixels, valid = self._source.read(Window.from_bounds(start, cols[0], stop, cols[1]))
        fresh = pixels.nbytes
        if start > first and self._held is not None:
            keep = slice(first - held_first, None)
            pixels = np.concatenate([self._held[1][:, keep], pixels], axis=1)
            valid = np.concatenate([self._held[2][keep], valid])
        self._held = first, pixels, valid
        return first, pixels, valid, fresh

    def _writable(self, start: int, stop: int) -> Valid:
        extent = Window.from_bounds(start, int(self._all_cols[0]), stop, int(self._all_cols[-1]) + 1)
        target = extent & self._chunk.crop
        writable = np.zeros(extent.shape, dtype=bool)
        if target:
            writable[target.within(extent).slices] = True if self._wanted is None else self._wanted(target)
        return writable


def _picked(array: npt.NDArray[Any], rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """``array[..., rows, cols]`` of indices that mostly count upwards: only what is reflected is gathered."""
    if _run(rows) < len(rows):
        array = array[..., rows, :]
    elif len(rows) < array.shape[-2]:
        array = array[..., rows[0] : rows[-1] + 1, :]
    run = _run(cols)
    straight = array[..., cols[0] : cols[0] + run]
    if run == len(cols):
        return straight
    picked = np.empty((*array.shape[:-1], len(cols)), dtype=array.dtype)
    picked[..., :run] = straight
    picked[..., run:] = array[..., cols[run:]]
    return picked


def _run(index: npt.NDArray[np.intp]) -> int:
    """Length of the stretch at the beginning that counts upwards one by one."""
    breaks = np.flatnonzero(np.diff(index) != 1)
    return int(breaks[0]) + 1 if len(breaks) else len(index)


def _strips(source: Source, chunk: Chunk, wanted: Wanted | None) -> Iterator[Strip]:
    reader, grid = _Reader(source, chunk, wanted), chunk.grid
    start = chunk.extent.row_off
    for tile_row in range(*chunk.tile_rows):
        stop = tile_row * grid.stride + grid.tile
        yield reader.strip(start, stop)
        start = stop


def read_ahead(source: Source, chunk: Chunk, wanted: Wanted | None = None, *, depth: int = 1) -> Generator[Strip]:
    """Strips of a chunk, one per tile row, read by a thread that stays at most `depth` + 1 strips ahead.

    Closing the iterator early ends the thread after the read that is under way.

    Raises:
        SourceError: As the source raised it.
    """
    strips: queue.Queue[Strip | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: Strip | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                strips.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for strip in _strips(source, chunk, wanted):
                if not offer(strip):
                    return
            offer(_ENDED)
        except BaseException as error:  # noqa: BLE001 - the consumer raises it in its own thread
            offer(error)

    thread = threading.Thread(target=work, name="geoseg-reader", daemon=True)
    thread.start()
    try:
        while (item := strips.get()) is not _ENDED:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
