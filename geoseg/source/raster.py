"""`RasterSource`: the bands of one or several rasters on one grid, read window by window."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from geoseg.errors import GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import Band, BandSet
from geoseg.source.bands import declare_band
from geoseg.source.info import RasterFile, RasterInfo, inspect
from geoseg.source.location import Location
from geoseg.source.open import now
from geoseg.source.reader import BandFile, FileReader, OnBadBlock
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

__all__ = ["BandFile", "OnBadBlock", "RasterSource", "join_rasters", "one_band"]

_FILES_AT_ONCE = 4
"""Remote files that one read waits for at the same time."""


def join_rasters(choices: Sequence[tuple[RasterInfo, int, Band]], *, on_bad_block: OnBadBlock = "fail") -> RasterSource:
    """The source of bands (raster, index counted from 1, band) that lie on one grid, in the order given.

    Local files are decoded by two threads. Not so remote ones: where GDAL's decoding threads miss a range that a server
    failed to send, they leave zeros and raise nothing.

    Raises:
        GridError: They do not.
    """
    first = choices[0][0]
    for info, _, band in choices:
        if info.geobox != first.geobox:
            raise GridError(
                f"{info.location}: {band.name} ({describe_grid(info.geobox)}) does not lie on the grid of "
                f"{first.location} ({describe_grid(first.geobox)}); name one with --resolution"
            )
    return RasterSource(
        files=tuple(BandFile(file=info.file, index=index, band=band) for info, index, band in choices),
        geobox=first.geobox,
        block=(max(info.block[0] for info, _, _ in choices), max(info.block[1] for info, _, _ in choices)),
        on_bad_block=on_bad_block,
        threads=2 if all(info.file.examined.location.kind == "path" for info, _, _ in choices) else 1,
    )


def one_band(place: Location | str | os.PathLike[str], name: str, *, assume_crs: str | None = None) -> RasterSource:
    """The only band of a raster, but for one of transparency, under the name `name`.

    Raises:
        SourceError: It cannot be opened, or has several.
        GridError: It has no place on the Earth.
    """
    info = inspect(place, assume_crs=assume_crs)
    bands = [band.index for band in info.bands if band.index != info.file.alpha]
    if len(bands) != 1:
        raise SourceError(f"{info.location}: holds {len(bands)} bands; a map of classes or confidence has one")
    return join_rasters([(info, bands[0], declare_band(info, bands[0], name))])


def describe_grid(geobox: GeoBox) -> str:
    """Size, pixel, corner and CRS of a grid, for messages."""
    rows, cols = geobox.shape
    t = geobox.transform
    crs = geobox.crs.to_epsg() if geobox.crs else None
    pixel = f"{np.hypot(t.a, t.d):g} x {np.hypot(t.b, t.e):g}"
    return f"{rows} x {cols} pixels of {pixel} from {t.c:.10g}, {t.f:.10g} in {f'EPSG:{crs}' if crs else 'its own CRS'}"


class RasterSource:
    """Bands of rasters on one grid; opens on the first read, and pickles as its arguments.

    Args:
        files: Where each band is stored, in reading order.
        geobox: The grid of all of them.
        block: (rows, cols) of their storage blocks.
        on_bad_block: Whether a block that cannot be decoded is an error, or filled and counted.
        threads: How many threads decode the blocks of one read.
    """

    def __init__(
        self,
        *,
        files: tuple[BandFile, ...],
        geobox: GeoBox,
        block: tuple[int, int],
        on_bad_block: OnBadBlock = "fail",
        threads: int = 1,
    ) -> None:
        self._arguments = (files, geobox, block, on_bad_block, threads)
        self._bands = BandSet(tuple(each.band for each in files))
        self._dtype = np.result_type(*(np.dtype(each.band.dtype) for each in files))
        by_file: dict[RasterFile, list[tuple[int, BandFile]]] = {}
        for position, each in enumerate(files):
            by_file.setdefault(each.file, []).append((position, each))
        self._readers = tuple(FileReader(places, on_bad_block, threads) for places in by_file.values())
        self._local = all(file.examined.location.kind == "path" for file in by_file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RasterSource) and self._arguments == other._arguments

    def __hash__(self) -> int:
        return hash(self._arguments)

    def __dask_tokenize__(self) -> tuple[str, ...]:
        files, geobox, *rest = self._arguments
        return (type(self).__name__, repr(files), repr((geobox.shape, geobox.transform, str(geobox.crs))), repr(rest))

    @property
    def geobox(self) -> GeoBox:
        """Shape, transform and CRS."""
        return self._arguments[1]

    @property
    def bands(self) -> BandSet:
        """What `read` returns along its first axis."""
        return self._bands

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the storage blocks."""
        return self._arguments[2]

    @property
    def bad_blocks(self) -> int:
        """Blocks that were filled because they cannot be decoded, each counted once in this process."""
        return sum(len(reader.bad) for reader in self._readers)

    def identity(self) -> Mapping[str, str]:
        """Location (no query) -> fingerprint, asked for anew: compare it with an earlier answer.

        Raises:
            SourceError: An input is gone, or its server does not answer.
        """
        return {name: mark for reader in self._readers for name, mark in now(reader.file.examined).items()}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col); beyond the edge 0 and False.

        Raises:
            SourceError: A block cannot be read, or an input is no longer what it was.
        """
        inside = window & whole(self.geobox)
        full = inside == window
        pixels = (np.empty if full else np.zeros)((len(self._bands), *window.shape), self._dtype)
        valid = np.full(window.shape, full)
        if inside:
            rows, cols = inside.within(window).slices
            try:
                self._read_all(inside, pixels[:, rows, cols], valid[rows, cols])
            except SourceError as error:
                error.__context__ = None  # GDAL's own error names the query of a URL, and does not pickle
                raise
        return pixels, valid

    def thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Valid]:
        """Stored numbers (band, *shape) and usable pixels (`shape`): the nearest of a `window` within the scene.

        Overviews are read where there are fitting ones, so a small shape costs little.

        Raises:
            SourceError: A file cannot be read, or is no longer what it was.
        """
        pixels, valid = np.empty((len(self._bands), *shape), self._dtype), np.ones(shape, bool)
        for reader in self._readers:
            reader.thin_into(window, pixels, valid)
        return pixels, valid

    def _read_all(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """All files, one after the other; remote ones side by side, for most of their time is waiting."""
        valid[:] = True
        if len(self._readers) == 1 or self._local:
            for reader in self._readers:
                reader.read_into(window, pixels, valid)
            return

        def read(reader: FileReader) -> Valid:
            usable = np.ones(valid.shape, bool)
            reader.read_into(window, pixels, usable)
            return usable

        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="geoseg-file") as threads:
            for usable in threads.map(read, self._readers):
                valid &= usable

    def close(self) -> None:
        """Closes what is open; a later read opens it again."""
        for reader in self._readers:
            reader.close()


def _rebuild(
    files: tuple[BandFile, ...], geobox: GeoBox, block: tuple[int, int], on_bad_block: OnBadBlock, threads: int
) -> RasterSource:
    return RasterSource(files=files, geobox=geobox, block=block, on_bad_block=on_bad_block, threads=threads)


_: type[Source] = RasterSource
