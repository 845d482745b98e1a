"""Rasters written as cloud-optimised GeoTIFFs, in parallel, without ever holding one whole.

A COG keeps its headers and overviews in front, so nothing of it can be written before everything is known. Pieces of
the raster are compressed block by block, with the overviews that follow from them, into a spool; at the end the blocks
are copied behind the headers in the order that readers want, and only then the file takes its final name. GDAL does
the compression and encodes everything that is declared; nothing in the file depends on the time, on the number of
threads or on how the raster was cut.
"""

from __future__ import annotations

import errno
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from geoseg.errors import SinkError
from geoseg.protocols import Sink
from geoseg.sink.blocks import BLOCK, Spool, compress_blocks
from geoseg.sink.markup import legible
from geoseg.sink.parts import sync
from geoseg.sink.pyramid import halve_average, halve_mode
from geoseg.sink.scratch import Scratch, write_all
from geoseg.sink.tiff import Tag, header, integers, read_tags
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window, whole

__all__ = ["CogSink"]

WITH_OVERVIEWS = 1.34
"""Size of a raster with all its overviews, in terms of its own."""

_PIECE_BYTES = 4 << 20  # of a raster that is held as pixels at a time, by each thread
_DEPTH = 3  # levels that are made from a piece, if it may be so large
_AHEAD = 64  # pieces that wait for a thread
_LONGEST_CLASSIC = (1 << 32) - 1  # beyond, offsets need BigTIFF

_DTYPES = ("uint8", "uint16", "float32")
_PREDICTORS = {"uint8": 2, "uint16": 2, "float32": 3}
_warning_lock = threading.Lock()

_WIDTH, _HEIGHT, _SUBFILE, _OFFSETS, _SIZES = 256, 257, 254, 324, 325
_OF_EVERY_LEVEL = (258, 259, 262, 277, 284, 317, 320, 322, 323, 338, 339, 42113)  # how to decode, colours, nodata

# DEFLATE, because every reader has it. Measured on 8192 x 8192 with 2 threads, overviews left out: labels at level 6
# 0.24 s and 1.8 MB (level 1: 0.12 s, 3.5 MB; ZSTD: 0.05 s, 2.2 MB; a predictor only makes them larger); confidence at
# level 1 with the predictor 0.28 s and 34 MB (level 6: 0.58 s, 36 MB; without predictor 46 MB; ZSTD: 0.12 s, 32 MB).


@dataclass(eq=False)
class CogSink:
    """One raster, written as a COG: a `geoseg.protocols.Sink`. `write` may be called from several threads at once.

    Whoever can read any window of the finished raster calls `pull` in place of `write` and `close`: that takes no
    scratch space for its pixels.
    """

    path: Path
    """Final name of the file."""
    geobox: GeoBox = field(kw_only=True)
    """Shape, transform and CRS of the raster; the CRS may be missing."""
    dtype: str = field(kw_only=True)
    """``uint8``, ``uint16`` or ``float32``."""
    nodata: float | None = field(kw_only=True)
    """Number of every pixel that is never written, declared in the file; None: 0, and not declared."""
    count: int = field(default=1, kw_only=True)
    """Number of bands."""
    names: tuple[str, ...] = field(default=("label",), kw_only=True)
    """Description of each band."""
    resampling: Literal["mode", "average"] = field(default="mode", kw_only=True)
    """How overviews are made: ``mode`` for classes, ``average`` for quantities; nodata has no say in either."""
    scale: float | None = field(default=None, kw_only=True)
    """``value = stored * scale + offset``, declared in the file."""
    offset: float | None = field(default=None, kw_only=True)
    """See `scale`."""
    colors: Mapping[int, str] | None = field(default=None, kw_only=True)
    """RRGGBB of stored values; for one band of integers."""
    tags: Mapping[str, str] | None = field(default=None, kw_only=True)
    """Metadata of the file; for the same bytes every time, nothing that changes from run to run."""
    workdir: Path = field(kw_only=True)
    """Existing folder on the same file system, for what is unfinished."""
    threads: int = field(default=1, kw_only=True)
    """Threads that compress, where `pull` is given none."""

    def __post_init__(self) -> None:
        self.path, self.workdir, self.names = Path(self.path), Path(self.workdir), tuple(self.names)
        if self.dtype not in _DTYPES:
            raise SinkError(f"{self.path}: cannot write {self.dtype}, only {', '.join(_DTYPES)}")
        if len(self.names) != self.count:
            raise SinkError(f"{self.path}: {len(self.names)} band names for {self.count} bands")
        self._base: Scratch | None = None
        self._open = True
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CogSink, **{item.name: getattr(self, item.name) for item in fields(self)}), ()

    def write(self, window: Window, array: Pixels) -> None:
        """Takes (band, row, col) for `window`; in any order, and twice is harmless.

        Raises:
            SinkError: The array does not fit window, bands or dtype, or the disk is full.
        """
        if array.shape != (self.count, *window.shape) or array.dtype != self.dtype:
            raise SinkError(
                f"{self.path}: got {array.dtype} {array.shape}, need {self.dtype} {(self.count, *window.shape)}"
            )
        if window not in whole(self.geobox):
            raise SinkError(f"{self.path}: {window} lies outside the raster ({whole(self.geobox)})")
        try:
            self._scratch().write(window, array)
        except SinkError:
            raise
        except OSError as error:
            raise self._explain(error) from error

    def close(self) -> list[Path]:
        """Finishes the file, moves it to its final name in one step, returns that name.

        Raises:
            SinkError: The file cannot be written.
        """
        try:
            return self.pull(self._scratch().read)
        except OSError as error:
            raise error if isinstance(error, SinkError) else self._explain(error) from error

    def pull(self, read: Callable[[Window], Pixels], pool: Executor | None = None) -> list[Path]:
        """Makes the file of what `read` gives, moves it to its final name in one step, returns that name.

        Args:
            read: (band, row, col) of a window of the raster; called in several threads at once, once for each pixel.
            pool: Threads that read and compress; None: as many as `threads`, of its own.

        Raises:
            SinkError: The file cannot be written.
        """
        unfinished = self._temporary(".tif")
        try:
            with (
                ThreadPoolExecutor(self.threads, "geoseg-cog") if pool is None else nullcontext(pool) as threads,
                closing(Spool(self._temporary(".blocks"), self._grids)) as spool,
            ):
                self._gather(read, 0, spool, threads)
                self._copy_out(spool, unfinished)
            unfinished.replace(self.path)
            sync(self.path.parent)
        except SinkError:
            raise
        except (OSError, RasterioError, CPLE_BaseError) as error:
            raise self._explain(error) from error
        finally:
            unfinished.unlink(missing_ok=True)
            self.discard()
        return [self.path]

    def discard(self) -> None:
        """Gives up what was written and removes its temporary file; the sink takes nothing more."""
        with self._lock:
            self._open = False
            if self._base is not None:
                self._base.remove()
                self._base = None

    @cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of the raster and its overviews, each half the one before, until one block holds it."""
        shapes = [whole(self.geobox).shape]
        # Validators read an overview's factor off its width: one pixel cannot be halved.
        while max(shapes[-1]) > BLOCK and shapes[-1][1] > 1:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        return shapes

    @property
    def _grids(self) -> list[tuple[int, int]]:
        """Rows and columns of blocks of each level."""
        return [(-(-rows // BLOCK), -(-cols // BLOCK)) for rows, cols in self._shapes]

    def _temporary(self, suffix: str) -> Path:
        return self.workdir / f"{self.path.stem}.unfinished{suffix}"

    def _scratch(self) -> Scratch:
        with self._lock:
            if not self._open:
                raise SinkError(f"{self.path} was finished or given up already: make a new sink to write it again")
            if self._base is None:
                self._base = self._new_scratch(0)
            return self._base

    def _new_scratch(self, level: int) -> Scratch:
        shape = (self.count, *self._shapes[level])
        return Scratch(self._temporary(f".{level}"), shape, self.dtype, self.nodata or 0)

    def _gather(self, read: Callable[[Window], Pixels], first: int, spool: Spool, pool: Executor) -> None:
        """Spools the blocks of level `first`, which `read` gives, and of all that are coarser.

        A piece holds whole blocks of the next few levels too; what remains of it then is a fraction of its pixels, and
        goes through a scratch file into the next round.
        """
        block_bytes = BLOCK * BLOCK * self.count * np.dtype(self.dtype).itemsize
        depth = next(
            depth for depth in range(_DEPTH, 0, -1) if depth == 1 or block_bytes << 2 * (depth - 1) <= _PIECE_BYTES
        )
        side, stop = BLOCK << (depth - 1), min(first + depth, len(self._shapes))
        rows, cols = self._shapes[first]
        pieces = Window(row_off=0, col_off=0, height=rows, width=cols).pieces(side, 2 * side)
        if stop == len(self._shapes):
            _each(pool, partial(self._spool_piece, read, range(first, stop), spool, None), pieces)
            return
        rest = self._new_scratch(stop)
        try:
            _each(pool, partial(self._spool_piece, read, range(first, stop), spool, rest), pieces)
            self._gather(rest.read, stop, spool, pool)
        finally:
            rest.remove()

    def _spool_piece(
        self,
        read: Callable[[Window], Pixels],
        levels: range,
        spool: Spool,
        rest: Scratch | None,
        piece: Window,
    ) -> None:
        """Spools the blocks of a piece of level ``levels[0]`` at all `levels`; the level after them goes to `rest`."""
        halve = halve_mode if self.resampling == "mode" else halve_average
        pixels, row, col = read(piece), piece.row_off, piece.col_off
        for level in levels:
            spool.put(level, row // BLOCK, col // BLOCK, compress_blocks(pixels, self._profile, self.nodata or 0))
            if level + 1 < len(self._shapes):
                pixels, row, col = halve(pixels, self.nodata), row // 2, col // 2
        if rest is not None:
            rest.write(Window.from_bounds(row, col, row + pixels.shape[1], col + pixels.shape[2]), pixels)

    def _copy_out(self, spool: Spool, target: Path) -> None:
        """Writes headers and blocks, and waits until the disk has them."""
        declared = self._declared()
        # Headers of a length that depends on offsets' size alone: zeros measure it.
        big = len(self._header(declared, spool, 0, big=False)) + spool.framed_bytes > _LONGEST_CLASSIC
        start = len(self._header(declared, spool, 0, big=big))
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(file, self._header(declared, spool, start, big=big), 0)
            for blocks in spool.framed():
                write_all(file, blocks, start)
                start += len(blocks)
            os.fsync(file)
        finally:
            os.close(file)

    def _header(self, declared: Mapping[int, Tag], spool: Spool, start: int, *, big: bool) -> bytes:
        """Everything before the blocks, which begin at `start`."""
        images = []
        for level, ((rows, cols), (places, sizes)) in enumerate(zip(self._shapes, spool.index(start), strict=True)):
            own = {_HEIGHT: integers([rows]), _WIDTH: integers([cols])}
            own |= {_OFFSETS: integers(places, 16 if big else 4), _SIZES: integers(sizes)}
            if level:
                own[_SUBFILE] = integers([1])
            images.append({key: tag for key, tag in declared.items() if not level or key in _OF_EVERY_LEVEL} | own)
        return header(images, big=big)

    def _declared(self) -> dict[int, Tag]:
        """The tags of the full raster, as GDAL writes them into a file of one block."""
        crs = None if self.geobox.crs is None else self.geobox.crs.to_wkt()
        profile = self._profile | {"height": BLOCK, "width": BLOCK, "count": self.count, "dtype": self.dtype}
        profile |= {"crs": crs, "transform": self.geobox.transform, "nodata": self.nodata, "sparse_ok": True}
        with MemoryFile() as memory, _warning_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # who has no place on the Earth knows it
            with memory.open(**profile) as file:
                file.descriptions = tuple(legible(name) for name in self.names)
                if self.scale is not None or self.offset is not None:
                    file.scales = (1.0 if self.scale is None else self.scale,) * self.count
                    file.offsets = (self.offset or 0.0,) * self.count
                if self.colors:
                    file.write_colormap(1, {value: _rgba(color) for value, color in self.colors.items()})
                file.update_tags(**{legible(key): legible(text) for key, text in sorted((self.tags or {}).items())})
            return read_tags(memory.getbuffer())

    @property
    def _profile(self) -> dict[str, Any]:
        """How GDAL lays out and compresses blocks."""
        compression = (
            {"zlevel": 6} if self.resampling == "mode" else {"zlevel": 1, "predictor": _PREDICTORS[self.dtype]}
        )
        return {
            "driver": "GTiff",
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "compress": "deflate",
            "interleave": "pixel",
            "photometric": "minisblack",
            "endianness": "little",
            "bigtiff": "no",
        } | compression

    def _explain(self, error: Exception) -> SinkError:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            most = 3 * WITH_OVERVIEWS * whole(self.geobox).size * self.count * np.dtype(self.dtype).itemsize / 1e6
            return SinkError(
                f"no space left on {self.workdir}: {self.path.name} needs up to {most:.0f} MB while it is made; "
                "free some space and run the same command again"
            )
        return SinkError(f"{self.path} cannot be written: {error}")


def _rgba(color: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(color)
    return red, green, blue, 255


def _each(pool: Executor, job: Callable[[Window], None], pieces: Iterable[Window]) -> None:
    """Does the job for every piece, few of them waiting at a time; when one fails, none is still at work."""
    waiting: deque[Future[None]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(job, piece))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


_: type[Sink] = CogSink
