"""A raster's compressed blocks: made from its pixels in memory, spooled in any order, copied out row by row."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.io import MemoryFile

from geoseg.sink.scratch import write_all
from geoseg.sink.tiff import read_tags
from geoseg.types import Pixels

__all__ = ["BLOCK", "Spool", "compress_blocks"]

BLOCK = 512
"""Side of a block in pixels."""

TILE_OFFSETS, TILE_SIZES = 324, 325
"""TIFF's tags for where blocks are and how long."""

_FRAME = 8  # bytes around each block in the finished file: its size before, its last four bytes again behind
_AT_ONCE = 64  # blocks that are copied together
_NOWHERE = Affine.scale(2)  # rasterio warns where a file has no transform at all


def compress_blocks(pixels: Pixels, options: Mapping[str, Any], fill: float) -> list[list[bytes]]:
    """The compressed blocks, rows of columns, of pixels (band, row, col); GDAL does the work, without the GIL.

    Args:
        pixels: Their first pixel is the first of a block.
        options: How GDAL shall compress.
        fill: What stands beyond the last row and column, where the last blocks reach beyond them.
    """
    count, height, width = pixels.shape
    rows, cols = -(-height // BLOCK), -(-width // BLOCK)
    if (rows * BLOCK, cols * BLOCK) != (height, width):
        padding = ((0, 0), (0, rows * BLOCK - height), (0, cols * BLOCK - width))
        pixels = np.pad(pixels, padding, constant_values=fill)
    profile = {"count": count, "dtype": pixels.dtype, "height": rows * BLOCK, "width": cols * BLOCK} | dict(options)
    with MemoryFile() as memory:
        with memory.open(transform=_NOWHERE, **profile) as file:
            file.write(pixels)
        content = memory.getbuffer()
        tags = read_tags(content)
        places = zip(tags[TILE_OFFSETS].numbers.tolist(), tags[TILE_SIZES].numbers.tolist(), strict=True)
        blocks = [bytes(content[at : at + size]) for at, size in places]
    return [blocks[row * cols : (row + 1) * cols] for row in range(rows)]


class Spool:
    """Compressed blocks of several levels in one file, in the order in which they come. `put` is thread-safe."""

    def __init__(self, path: Path, grids: Sequence[tuple[int, int]]) -> None:
        """Takes the (rows, columns) of blocks of each level.

        Raises:
            OSError: The file cannot be created.
        """
        self._path, self._end, self._lock = path, 0, threading.Lock()
        self._places = [np.zeros(grid, np.int64) for grid in grids]
        self._sizes = [np.zeros(grid, np.int64) for grid in grids]
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def put(self, level: int, row: int, col: int, blocks: Sequence[Sequence[bytes]]) -> None:
        """Stores rows of blocks, the first of them at `row` and `col` of a level.

        Raises:
            OSError: The disk refuses.
        """
        sizes = np.array([[len(block) for block in line] for line in blocks], np.int64)
        with self._lock:
            at, self._end = self._end, self._end + int(sizes.sum())
        write_all(self._file, b"".join(block for line in blocks for block in line), at)
        area = slice(row, row + sizes.shape[0]), slice(col, col + sizes.shape[1])
        self._sizes[level][area] = sizes
        self._places[level][area] = at + (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)

    @property
    def framed_bytes(self) -> int:
        """Size of all blocks in the finished file."""
        return self._end + _FRAME * sum(sizes.size for sizes in self._sizes)

    def index(self, start: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Per level, offsets and sizes of its blocks, row by row, once they stand framed from `start` on."""
        found = []
        for sizes in reversed(self._sizes):  # the coarsest level first, as a reader wants it
            flat = sizes.ravel()
            ends = start + np.cumsum(flat + _FRAME)
            found.append((ends - flat - _FRAME // 2, flat))
            start = int(ends[-1])
        return found[::-1]

    def framed(self) -> Iterator[bytes]:
        """The blocks as they stand in the finished file: the coarsest level first, each level row by row."""
        for places, sizes in zip(reversed(self._places), reversed(self._sizes), strict=True):
            for start in range(0, sizes.size, _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                pairs = zip(places.ravel()[some].tolist(), sizes.ravel()[some].tolist(), strict=True)
                yield b"".join(self._framed(at, size) for at, size in pairs)

    def _framed(self, at: int, size: int) -> bytes:
        block = os.pread(self._file, size, at)
        if len(block) != size or not size:
            raise OSError(f"{self._path} was cut short")
        return b"".join((struct.pack("<I", size), block, block[-4:]))

    def close(self) -> None:
        """Closes and deletes the file."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)
