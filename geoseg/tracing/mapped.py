"""Arrays as large as a raster that live in a file and not in memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.errors import SinkError
from geoseg.window import Window

__all__ = ["MappedArray"]

STRIP = 64
"""Rows that are read or written before their pages are let go: each row of a wide raster has pages of its own."""


class MappedArray:
    """Zeros of a shape in a file without a name, which is gone with the last reference; takes any index at any time."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, directory: Path | None = None) -> None:
        """Claims the space.

        Args:
            shape: Of the array.
            dtype: Of its numbers.
            directory: Where the file is; None: where the system keeps temporary files.

        Raises:
            SinkError: There is no space for all of it, or no file can be made.
        """
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                # A hole in a mapped file that the disk cannot fill later ends the process without a word.
                os.posix_fallocate(file.fileno(), 0, size)
                self._map = mmap.mmap(file.fileno(), size)
                if hasattr(mmap, "MADV_RANDOM"):  # or the pages around each, up to 2 MB, come with it
                    self._map.madvise(mmap.MADV_RANDOM)
        except OSError as error:
            raise SinkError(f"{directory or tempfile.gettempdir()}: no room for {size} bytes: {error}") from error
        count = math.prod(shape)
        self.array: npt.NDArray[Any] = np.frombuffer(self._map, dtype, count).reshape(shape)
        """The numbers, writable."""

    def read(self, window: Window) -> npt.NDArray[Any]:
        """A copy (row, col) of a window of an array with two axes; takes no memory but its own."""
        found = np.empty(window.shape, self.array.dtype)
        for strip in _strips(window):
            found[strip.within(window).slices] = self.array[strip.slices]
            self.release()
        return found

    def write(self, window: Window, numbers: npt.NDArray[Any]) -> None:
        """Puts numbers (row, col) into a window of an array with two axes; takes no memory."""
        for strip in _strips(window):
            self.array[strip.slices] = numbers[strip.within(window).slices]
            self.release()

    def release(self) -> None:
        """Takes the file's pages out of this process; their contents stay, and come back when they are used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _strips(window: Window) -> Iterable[Window]:
    return window.pieces(STRIP, max(1, window.width))
