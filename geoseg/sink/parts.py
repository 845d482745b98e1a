"""Finished pieces of a run, each durable on its own: decided windows as small TIFFs, shared sums as npz.

A part is written to a local file of its own and put where the run lives (`geoseg.store`) in one step; its size and
SHA-256 go into the journal. Half a part is therefore never taken for a whole one.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.session import DummySession
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SinkError
from geoseg.store import Store
from geoseg.store.disk import Facts, creating, demand_space, describe_file, durable, sync, writing
from geoseg.types import Pixels
from geoseg.window import Window

__all__ = ["Part", "PartMosaic", "PartWriter", "PartsIn", "durable", "load_arrays", "save_arrays", "sync"]

_STRIP_ROWS = 64  # rows per TIFF strip: a few hundred kilobytes at a chunk's width
_TIFF = {"driver": "GTiff", "compress": "zstd", "zstd_level": 1, "blockysize": _STRIP_ROWS, "BIGTIFF": "IF_SAFER"}
_NOWHERE = Affine.scale(2)  # a part's place is in its plan; rasterio warns where a file has no transform at all


@contextmanager
def _placed(store: Store, name: str, needed: int, files: dict[str, Facts]) -> Iterator[Path]:
    """A local file to write to; on success it is put into the store, and described in `files`; on failure it goes."""
    folder = store.workspace()
    with creating(folder, name, needed) as temporary, _writing(folder / name, needed):
        yield temporary
        files[name] = describe_file(temporary)
        store.put(name, temporary)


def _writing(path: Path, needed: int) -> Any:
    return writing(path, needed, (OSError, RasterioError))


def _beside_many() -> rasterio.Env:
    """GDAL that looks at one file only: it would list the folder, of maybe 100,000 parts, for each that it opens.

    And rasterio would look for somebody's keys to S3, in 40 ms.
    """
    return rasterio.Env(DummySession(), GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED=False)


class _Abandoned(Exception):  # noqa: N818 - no error: it only tells `_placed` not to keep the file
    """Ends the writing of a part that is not wanted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A window of one raster, in a file of its own."""

    path: Path
    """The TIFF."""
    window: Window
    """Where it lies in the scene."""


PartsIn: TypeAlias = Callable[[Window], Iterable[Part]]
"""What finds the parts of one raster that lie in a window."""


class PartWriter:
    """Writes the rasters of one window, rows from top to bottom, into one TIFF each.

    GDAL can report success for a file whose last bytes found no space, so what was written is read back and compared
    before it is accepted.
    """

    def __init__(self, store: Store, name: str, window: Window, bands: Mapping[str, tuple[int, str]]) -> None:
        """Takes `bands`: raster name -> (number of bands, dtype). Files are named ``NAME.RASTER.tif``.

        Raises:
            SinkError: There is no space for them.
        """
        self._window = window
        self._stack = ExitStack()
        self._store, self._name, self._folder = store, name, store.workspace()
        self._described: dict[str, Facts] = {}
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
        name, needed = f"{self._name}.{raster}.tif", self._window.size * count * np.dtype(dtype).itemsize
        demand_space(self._folder / name, needed)  # libtiff tells the terminal, and only the terminal, if there is none
        temporary = self._stack.enter_context(_placed(self._store, name, needed, self._described))
        self._stack.push(lambda kind, *_: self._compare(raster, temporary) if kind is None else None)
        options = {"height": height, "width": width, "count": count, "dtype": dtype, "transform": _NOWHERE} | _TIFF
        with _beside_many():
            self._files[raster] = rasterio.open(temporary, "w", **options)
        self._stack.callback(self._files[raster].close)

    def write(self, window: Window, rasters: Mapping[str, Pixels]) -> None:
        """Takes (band, row, col) per raster for a part of the window."""
        inner = window.within(self._window)
        place = RasterioWindow(inner.col_off, inner.row_off, inner.width, inner.height)
        for raster, bands in rasters.items():
            self._written[raster].append((place, zlib.crc32(bands.tobytes())))
            with _writing(self._folder / raster, self._window.size):
                self._files[raster].write(bands, window=place)

    def close(self) -> dict[str, Facts]:
        """Compares the files and puts them where they belong; returns size and checksum by file name."""
        self._stack.close()
        return self._described

    def abandon(self) -> None:
        """Removes what was written."""
        self._stack.__exit__(_Abandoned, _Abandoned(), None)

    def _compare(self, raster: str, temporary: Path) -> None:
        with _beside_many(), rasterio.open(temporary, driver="GTiff") as file:
            for place, checksum in self._written[raster]:
                if zlib.crc32(file.read(window=place).tobytes()) != checksum:
                    raise OSError(errno.EIO, "what was read back differs from what was written")


class PartMosaic:
    """Reads windows of one raster from the parts that cover it. `read` may be called from several threads at once."""

    def __init__(self, parts: PartsIn, *, count: int, dtype: str, nodata: int) -> None:
        self._parts, self._count, self._dtype, self._nodata = parts, count, dtype, nodata

    def read(self, window: Window) -> Pixels:
        """(band, row, col) of `window`; nodata where no part lies.

        Raises:
            SinkError: A part cannot be read.
        """
        mosaic = np.full((self._count, *window.shape), self._nodata, dtype=self._dtype)
        with _beside_many():
            for part in self._parts(window):
                common = part.window & window
                mosaic[:, *common.within(window).slices] = _read_part(part, common.within(part.window))
        return mosaic


def _read_part(part: Part, inner: Window) -> Pixels:
    try:
        with rasterio.open(part.path, driver="GTiff") as file:
            pixels: Pixels = file.read(window=RasterioWindow(inner.col_off, inner.row_off, inner.width, inner.height))
    except RasterioError as error:
        raise SinkError(
            f"{part.path}: a finished part cannot be read ({error}); the same command makes it anew"
        ) from error
    return pixels


def save_arrays(store: Store, name: str, arrays: Mapping[str, Pixels]) -> dict[str, Facts]:
    """Writes arrays by name; returns size and checksum by file name.

    Raises:
        SinkError: They cannot be written.
    """
    files: dict[str, Facts] = {}
    needed = sum(array.nbytes for array in arrays.values())
    with _placed(store, name, needed, files) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return files


def load_arrays(store: Store, name: str, names: Collection[str]) -> dict[str, Pixels]:
    """Those of the named arrays that `save_arrays` wrote under `name`; the others stay where they are.

    Each array bears a checksum of its own, which is compared.
    """
    with store.open(name) as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name in names}
