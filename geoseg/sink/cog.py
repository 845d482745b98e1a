"""Rasters written as cloud-optimised GeoTIFFs.

Windows gather in a raw scratch file, because a COG can only be written in one go: it keeps its overviews in front.
At the end the overviews are halved out of it, GDAL's COG driver turns both into one file, the file is read back and
compared, and only then takes its final name. Nothing in the file depends on the time or on the number of threads.
"""

from __future__ import annotations

import errno
import shutil
import sys
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from geoseg.errors import SinkError
from geoseg.protocols import Sink
from geoseg.sink.markup import add
from geoseg.sink.parts import sync
from geoseg.sink.pyramid import halve_average, halve_mode
from geoseg.sink.scratch import Scratch
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window, whole

__all__ = ["CogSink"]

BLOCK = 512
"""Side of the file's blocks, and the size that needs no further overview."""
CACHE = 64 << 20
"""Bytes that GDAL's cache may grow to while a file is made."""

WITH_OVERVIEWS = 1.34
"""Size of a raster with all its overviews, in terms of its own."""

_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}

# DEFLATE, because every reader has it. Measured on 8192 x 8192 with 2 threads, overviews left out: labels at level 6
# 0.24 s and 1.8 MB (level 1: 0.12 s, 3.5 MB; ZSTD: 0.05 s, 2.2 MB; a predictor only makes them larger); confidence at
# level 1 with the predictor 0.28 s and 34 MB (level 6: 0.58 s, 36 MB; without predictor 46 MB; ZSTD: 0.12 s, 32 MB).
_COMPRESSION = {
    "mode": {"LEVEL": 6, "PREDICTOR": "NO"},
    "average": {"LEVEL": 1, "PREDICTOR": "YES"},
}


@dataclass(eq=False)
class CogSink:
    """One raster, written as a COG: a `geoseg.protocols.Sink`. `write` may be called from several threads at once."""

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
    """Threads that compress."""

    def __post_init__(self) -> None:
        self.path, self.workdir, self.names = Path(self.path), Path(self.workdir), tuple(self.names)
        if self.dtype not in _GDAL_TYPES:
            raise SinkError(f"{self.path}: cannot write {self.dtype}, only {', '.join(_GDAL_TYPES)}")
        if len(self.names) != self.count:
            raise SinkError(f"{self.path}: {len(self.names)} band names for {self.count} bands")
        self._base: Scratch | None = None
        self._open = True
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(CogSink, **{item.name: getattr(self, item.name) for item in fields(self)}), ()

    @property
    def _raw_bytes(self) -> int:
        return whole(self.geobox).size * self.count * np.dtype(self.dtype).itemsize

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
            SinkError: The file cannot be written, or what was written does not read back the same.
        """
        levels: list[Scratch] = []
        built = self._temporary(".tif")
        try:
            levels.append(self._scratch())
            # Validators read an overview's factor off its width: one pixel cannot be halved.
            while max(levels[-1].shape[1:]) > BLOCK and levels[-1].shape[2] > 1:
                self._add_level(levels)
            self._build(levels, built)
            self._compare(levels, built)
            sync(built)
            built.replace(self.path)
            sync(self.path.parent)
        except SinkError:
            raise
        except (OSError, RasterioError, CPLE_BaseError) as error:
            raise self._explain(error) from error
        finally:
            built.unlink(missing_ok=True)
            for level in levels[1:]:
                level.remove()
            self.discard()
        return [self.path]

    def discard(self) -> None:
        """Gives up what was written and removes its temporary file; the sink takes nothing more."""
        with self._lock:
            self._open = False
            if self._base is not None:
                self._base.remove()
                self._base = None

    def _temporary(self, suffix: str) -> Path:
        return self.workdir / f"{self.path.stem}.unfinished{suffix}"

    def _scratch(self) -> Scratch:
        with self._lock:
            if not self._open:
                raise SinkError(f"{self.path} was finished or given up already: make a new sink to write it again")
            if self._base is None:
                shape = (self.count, *whole(self.geobox).shape)
                self._base = Scratch(self._temporary(".0"), shape, self.dtype, self.nodata or 0)
            return self._base

    def _add_level(self, levels: list[Scratch]) -> None:
        """Appends the next overview, half the size of the last of `levels`."""
        full, halve = levels[-1], halve_mode if self.resampling == "mode" else halve_average
        bands, rows, cols = full.shape
        shape = (bands, -(-rows // 2), -(-cols // 2))
        levels.append(Scratch(self._temporary(f".{len(levels)}"), shape, self.dtype, self.nodata or 0))
        for piece in full.pieces(2):
            values = halve(full.read(piece), self.nodata)
            row, col = piece.row_off // 2, piece.col_off // 2
            levels[-1].write(Window.from_bounds(row, col, row + values.shape[1], col + values.shape[2]), values)

    def _build(self, levels: list[Scratch], built: Path) -> None:
        """Writes the COG `built` from the scratch files."""
        self._check_space(levels[0])
        descriptions = [level.path.with_suffix(f"{level.path.suffix}.vrt") for level in levels]
        try:
            for level, description in zip(levels, descriptions, strict=True):
                overviews = descriptions[1:] if level is levels[0] else []
                description.write_bytes(ET.tostring(self._describe(level, overviews)))
            with _gdal(levels[0]):
                rasterio.shutil.copy(
                    descriptions[0],
                    built,
                    driver="COG",
                    BLOCKSIZE=BLOCK,
                    COMPRESS="DEFLATE",
                    OVERVIEWS="FORCE_USE_EXISTING",
                    BIGTIFF="IF_SAFER",
                    NUM_THREADS=self.threads,
                    **_COMPRESSION[self.resampling],
                )
        finally:
            for description in descriptions:
                description.unlink(missing_ok=True)

    def _describe(self, level: Scratch, overviews: list[Path]) -> ET.Element:
        """A VRT of the raw file `level` with everything that the COG shall declare."""
        _, rows, cols = level.shape
        root = ET.Element("VRTDataset", rasterXSize=str(cols), rasterYSize=str(rows))
        if self.geobox.crs is not None:
            add(root, "SRS", self.geobox.crs.to_wkt())
        add(root, "GeoTransform", ", ".join(repr(float(number)) for number in self.geobox.transform.to_gdal()))
        metadata = add(root, "Metadata")
        for key, value in sorted((self.tags or {}).items()):
            add(metadata, "MDI", value, key=key)
        size = level.dtype.itemsize
        for index, name in enumerate(self.names):
            kind = {"dataType": _GDAL_TYPES[self.dtype], "subClass": "VRTRawRasterBand"}
            band = add(root, "VRTRasterBand", band=index + 1, **kind)
            self._describe_band(band, name)
            add(band, "SourceFilename", level.path.name, relativetoVRT="1")
            add(band, "ImageOffset", str(index * rows * cols * size))
            add(band, "PixelOffset", str(size))
            add(band, "LineOffset", str(cols * size))
            add(band, "ByteOrder", "LSB" if sys.byteorder == "little" else "MSB")
            for overview in overviews:
                item = add(band, "Overview")
                add(item, "SourceFilename", overview.name, relativeToVRT="1")
                add(item, "SourceBand", str(index + 1))
        return root

    def _describe_band(self, band: ET.Element, name: str) -> None:
        """Adds what a reader needs to understand the band's numbers."""
        add(band, "Description", name)
        if self.nodata is not None:
            add(band, "NoDataValue", repr(float(self.nodata)))
        if self.scale is not None or self.offset is not None:
            add(band, "Offset", repr(float(self.offset or 0.0)))
            add(band, "Scale", repr(float(1.0 if self.scale is None else self.scale)))
        if self.colors:
            add(band, "ColorInterp", "Palette")
            table = add(band, "ColorTable")
            for value in range(max(self.colors) + 1):
                red, green, blue = bytes.fromhex(self.colors.get(value, "000000"))
                add(table, "Entry", c1=red, c2=green, c3=blue, c4=255)

    def _compare(self, levels: list[Scratch], built: Path) -> None:
        """Reads every block of the finished file back: only this tells that a disk was not full on the way."""
        for index, level in enumerate(levels):
            kwargs = {} if index == 0 else {"overview_level": index - 1}
            with _gdal(level), rasterio.open(built, driver="GTiff", **kwargs) as dataset:
                for piece in level.pieces(BLOCK):
                    place = RasterioWindow(piece.col_off, piece.row_off, piece.width, piece.height)
                    found, expected = dataset.read(window=place), level.read(piece)
                    if not np.array_equal(found.view(np.uint8), expected.view(np.uint8)):  # bits: NaN equals NaN
                        raise OSError(f"{piece} of level {index} does not read back as it was written")

    def _check_space(self, base: Scratch) -> None:
        """Refuses before GDAL, which is loud and late, runs into a full disk."""
        if not self._is_scarce():
            return
        need = 65536
        for piece in base.pieces(BLOCK):
            pixels = base.read(piece)
            if self.resampling == "average" and pixels.dtype.kind == "u":
                pixels = np.diff(pixels, axis=-1, prepend=pixels.dtype.type(0))  # the predictor
            need += int(len(zlib.compress(pixels.tobytes(), 1)) * WITH_OVERVIEWS)
        if need > shutil.disk_usage(self.workdir).free:
            raise self._no_space(need)

    def _is_scarce(self) -> bool:
        """Whether the finished file would not fit if nothing could be compressed."""
        return shutil.disk_usage(self.workdir).free < WITH_OVERVIEWS * self._raw_bytes + 65536

    def _explain(self, error: Exception) -> SinkError:
        code = error.errno if isinstance(error, OSError) else None
        # GDAL's errors tell nothing: where one meets scarce space, that is why.
        if code in (errno.ENOSPC, errno.EDQUOT) or (code is None and self._is_scarce()):
            return self._no_space(int(WITH_OVERVIEWS * self._raw_bytes))
        return SinkError(f"{self.path} cannot be written: {error}")

    def _no_space(self, need: int) -> SinkError:
        """The error of a full disk, where the finished file takes `need` bytes beside the scratch files."""
        most = (need + WITH_OVERVIEWS * self._raw_bytes) / 1e6
        return SinkError(
            f"no space left on {self.workdir}: {self.path.name} needs about {most:.0f} MB while it is made; "
            "free some space and run the same command again"
        )


def _gdal(level: Scratch) -> rasterio.Env:
    """GDAL that leaves no auxiliary files behind, with a cache just large enough to read `level` once.

    Blocks are cut from a raw file's rows, so the cache should hold the rows of one row of blocks. Where that is too
    much, GDAL reads each block's part of each row from the disk by itself: a quarter slower, in no memory at all.
    """
    bands, _, cols = level.shape
    need = BLOCK * bands * cols * level.dtype.itemsize
    return rasterio.Env(
        GDAL_CACHEMAX=min(CACHE, (4 << 20) + need), GDAL_ONE_BIG_READ=need > CACHE, GDAL_PAM_ENABLED=False
    )


_: type[Sink] = CogSink
