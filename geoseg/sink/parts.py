"""Finished pieces of a run on disk, each durable on its own: decided windows as small TIFFs, shared sums as npz.

A part is written under a temporary name, synced and renamed; its size and SHA-256 go into the journal. Half a part is
therefore never taken for a whole one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SinkError
from geoseg.types import Pixels
from geoseg.window import Window

__all__ = ["Part", "PartMosaic", "PartWriter", "describe_file", "durable", "load_arrays", "save_arrays", "writing"]

_STRIP_ROWS = 64  # rows per TIFF strip: a few hundred kilobytes at a chunk's width
_TIFF = {"driver": "GTiff", "compress": "zstd", "zstd_level": 1, "blockysize": _STRIP_ROWS, "BIGTIFF": "IF_SAFER"}
_NOWHERE = Affine.scale(2)  # a part's place is in its plan; rasterio warns where a file has no transform at all


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what goes wrong while `path` is written into one clear error.

    Args:
        path: File that is being written.
        needed: Bytes that it needs, about; 0 if unknown.

    Raises:
        SinkError: No space is left, or the file cannot be written.
    """
    try:
        yield
    except (OSError, RasterioError) as error:
        if isinstance(error, SinkError):
            raise
        free = _free_bytes(path.parent)
        if getattr(error, "errno", None) == errno.ENOSPC or free < max(needed, 1 << 20):
            raise SinkError(_no_space(path, needed)) from error
        raise SinkError(f"{path}: cannot be written ({error})") from error


def _demand_space(path: Path, needed: int) -> None:
    if _free_bytes(path.parent) < needed:
        raise SinkError(_no_space(path, needed))


def _no_space(path: Path, needed: int) -> str:
    about = f", need about {max(1, needed >> 20)} MB" if needed else ""
    return f"no space left on {path.parent}{about}; free some and run the same command again"


def _free_bytes(folder: Path) -> int:
    try:
        stats = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return stats.f_bavail * stats.f_frsize


@contextmanager
def durable(path: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary name to write to; on success it is synced and renamed to `path`, on failure it is removed.

    Raises:
        SinkError: No space is left, or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with writing(path, needed):
            yield temporary
            sync(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class _Abandoned(Exception):  # noqa: N818 - no error: it only tells `durable` not to keep the file
    """Ends the writing of a part that is not wanted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A window of one raster, in a file of its own."""

    path: Path
    """The TIFF."""
    window: Window
    """Where it lies in the scene."""


class PartWriter:
    """Writes the rasters of one window, rows from top to bottom, into one TIFF each.

    GDAL can report success for a file whose last bytes found no space, so what was written is read back and compared
    before it is accepted.
    """

    def __init__(self, folder: Path, name: str, window: Window, bands: Mapping[str, tuple[int, str]]) -> None:
        """Takes `bands`: raster name -> (number of bands, dtype). Files are named ``NAME.RASTER.tif``.

        Raises:
            SinkError: There is no space for them.
        """
        self._window = window
        self._stack = ExitStack()
        self._paths = {raster: folder / f"{name}.{raster}.tif" for raster in bands}
        self._files: dict[str, Any] = {}
        self._written: dict[str, list[tuple[RasterioWindow, int]]] = {raster: [] for raster in bands}
        try:
            for raster, (count, dtype) in bands.items():
                self._open(raster, count, dtype)
        except BaseException:
            self.abandon()
            raise

    def _open(self, raster: str, count: int, dtype: str) -> None:
        height, width = self._window.shape
        path, needed = self._paths[raster], self._window.size * count * np.dtype(dtype).itemsize
        _demand_space(path, needed)  # libtiff tells the terminal, and only the terminal, when it finds none
        temporary = self._stack.enter_context(durable(path, needed))
        self._stack.push(lambda kind, *_: self._compare(raster, temporary) if kind is None else None)
        options = {"height": height, "width": width, "count": count, "dtype": dtype, "transform": _NOWHERE} | _TIFF
        self._files[raster] = self._stack.enter_context(rasterio.open(temporary, "w", **options))

    def write(self, window: Window, rasters: Mapping[str, Pixels]) -> None:
        """Takes (band, row, col) per raster for a part of the window."""
        inner = window.within(self._window)
        place = RasterioWindow(inner.col_off, inner.row_off, inner.width, inner.height)
        for raster, bands in rasters.items():
            self._written[raster].append((place, zlib.crc32(bands.tobytes())))
            with writing(self._paths[raster], self._window.size):
                self._files[raster].write(bands, window=place)

    def close(self) -> dict[str, dict[str, Any]]:
        """Compares, syncs and renames the files; returns size and checksum by file name."""
        self._stack.close()
        return {path.name: describe_file(path) for path in self._paths.values()}

    def abandon(self) -> None:
        """Removes what was written."""
        self._stack.__exit__(_Abandoned, _Abandoned(), None)

    def _compare(self, raster: str, temporary: Path) -> None:
        with rasterio.open(temporary, driver="GTiff") as file:
            for place, checksum in self._written[raster]:
                if zlib.crc32(file.read(window=place).tobytes()) != checksum:
                    raise OSError(errno.EIO, "what was read back differs from what was written")


class PartMosaic:
    """Reads windows of one raster from the parts that cover it."""

    def __init__(self, parts: Sequence[Part], *, count: int, dtype: str, nodata: int) -> None:
        self._parts, self._count, self._dtype, self._nodata = parts, count, dtype, nodata

    def read(self, window: Window) -> Pixels:
        """(band, row, col) of `window`; nodata where no part lies."""
        mosaic = np.full((self._count, *window.shape), self._nodata, dtype=self._dtype)
        for part in self._parts:
            if common := part.window & window:
                inner = common.within(part.window)
                with rasterio.open(part.path, driver="GTiff") as file:
                    pixels = file.read(window=RasterioWindow(inner.col_off, inner.row_off, inner.width, inner.height))
                mosaic[:, *common.within(window).slices] = pixels
        return mosaic


def save_arrays(path: Path, arrays: Mapping[str, Pixels]) -> dict[str, dict[str, Any]]:
    """Writes arrays by name; returns size and checksum by file name."""
    with durable(path, sum(array.nbytes for array in arrays.values())) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return {path.name: describe_file(path)}


def load_arrays(path: Path, names: Collection[str]) -> dict[str, Pixels]:
    """Those of the named arrays that `save_arrays` wrote to `path`; the others stay on disk."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name in names}
