"""A raster on disk that takes windows in any order and knows no format: plain numbers, band after band, row after row.

GDAL reports a full disk late or not at all (measured with GDAL 3.10: a GeoTIFF written to a full disk closes without
an error and reads back wrong). Here every byte goes through ``pwrite``, which tells, and all the space is claimed
before the first window. Nothing is cached or mapped, so memory does not grow with the raster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.window import Window

__all__ = ["Scratch", "write_all"]

_PIECE = 1 << 20
"""Bytes held in memory at a time."""


def _raw(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def write_all(file: int, data: bytes | memoryview, at: int) -> None:
    """Writes all of `data` at a position: on a disk that is nearly full, less may be written than asked for.

    Raises:
        OSError: The disk refuses.
    """
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


class Scratch:
    """A raw raster file of (band, row, col). `write` and `read` may be called from several threads at once."""

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: npt.DTypeLike, fill: float) -> None:
        """Creates `path`, or empties it, and fills it.

        Args:
            path: The file.
            shape: (bands, rows, columns).
            dtype: Numpy dtype of the numbers; they are stored in this machine's byte order.
            fill: Number of every pixel that is never written.

        Raises:
            OSError: The file cannot be created, or there is no space for all of it.
        """
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            self._fill(fill)
        except BaseException:
            self.remove()
            raise

    def _fill(self, fill: float) -> None:
        piece = np.full(_PIECE // self.dtype.itemsize, fill, self.dtype).tobytes()
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        for start in range(0, size, len(piece)):
            write_all(self._file, memoryview(piece)[: size - start], start)

    def _runs(self, window: Window) -> Iterator[tuple[int, int, slice]]:
        """(offset in the file, band, rows of the window) of each stretch of a window that is contiguous on disk."""
        bands, rows, cols = self.shape
        step = max(1, window.height) if window.width == cols else 1
        for band in range(bands):
            for row in range(0, window.height, step):
                at = (band * rows + window.row_off + row) * cols + window.col_off
                yield at * self.dtype.itemsize, band, slice(row, row + step)

    def write(self, window: Window, array: npt.NDArray[Any]) -> None:
        """Stores (band, row, col) at `window`, which lies within the raster.

        Raises:
            OSError: The disk refuses.
        """
        array = np.ascontiguousarray(array, self.dtype)
        for at, band, rows in self._runs(window):
            write_all(self._file, _raw(array[band, rows]), at)

    def read(self, window: Window) -> npt.NDArray[Any]:
        """(band, row, col) of `window`, which lies within the raster.

        Raises:
            OSError: The file cannot be read, or is shorter than it was made.
        """
        array = np.empty((self.shape[0], *window.shape), self.dtype)
        for at, band, rows in self._runs(window):
            data = _raw(array[band, rows])
            if os.preadv(self._file, [data], at) != len(data):
                raise OSError(f"{self.path} was cut short")
        return array

    def remove(self) -> None:
        """Closes and deletes the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)
