"""Reads the bands that one raster contributes: open handles, patience with servers, bad blocks by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from geoseg.errors import SourceError
from geoseg.scene import Band
from geoseg.source import remote
from geoseg.source.info import RasterFile
from geoseg.source.open import environment, open_raster, reason, recheck
from geoseg.types import Pixels, Valid
from geoseg.window import Window

__all__ = ["BandFile", "FileReader", "OnBadBlock"]

OnBadBlock: TypeAlias = Literal["fail", "nodata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFile:
    """Where one band is stored."""

    file: RasterFile
    """The raster."""
    index: int
    """The band in it, counted from 1."""
    band: Band
    """Name, dtype, scaling and nodata; its nodata counts, not the file's."""


class FileReader:
    """Reads bands of one raster into their places of a larger array; any number of threads may do so at once.

    Handles stay open for the next read, in whatever thread, with the header and the blocks that GDAL holds for them.
    Where a read fails its handle is closed, for what it holds may be wrong.

    Args:
        places: Position in the array, and where the band is stored: all in one file.
        on_bad_block: Whether a block that cannot be decoded is an error, or filled and counted.
        threads: How many threads decode the blocks of one read.
    """

    def __init__(self, places: Sequence[tuple[int, BandFile]], on_bad_block: OnBadBlock, threads: int) -> None:
        self.file = places[0][1].file
        self.bad: set[tuple[int, int]] = set()
        self._bands = tuple((position, each.band) for position, each in places)
        self._runs = tuple(_runs([(position, each.index) for position, each in places]))
        self._alpha = None if any(each.index == self.file.alpha for _, each in places) else self.file.alpha
        self._on_bad_block = on_bad_block
        self._threads = threads
        self._idle: list[Any] = []  # open handles that nobody reads from

    def read_into(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """Fills its planes of `pixels` (band, row, col), and takes from `valid` what is not usable in them.

        Raises:
            SourceError: The raster cannot be read, or is no longer what it was.
        """
        try:
            self._patiently(window, pixels, valid)
        except RasterioError:
            self._decode_alone()
            self._by_blocks(window, pixels, valid)
        for position, band in self._bands:
            _judge(band, pixels[position], valid)

    def thin_into(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """As `read_into`, at the nearest pixels of a smaller array; from an overview where there is a fitting one.

        Raises:
            SourceError: The raster cannot be read, or is no longer what it was; of bad blocks none is named.
        """
        try:
            self._patiently(window, pixels, valid)
        except RasterioError as error:
            self._decode_alone()
            location = self.file.examined.location
            raise SourceError(f"{location}: cannot be read: {reason(error, location)}") from None
        for position, band in self._bands:
            _judge(band, pixels[position], valid)

    def close(self) -> None:
        """Closes the handles that nobody reads from."""
        while (dataset := self._taken()) is not None:
            dataset.close()

    def _taken(self) -> Any:
        """An idle handle, taken from the list, or None."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @contextmanager
    def _dataset(self) -> Iterator[Any]:
        """A handle for one read."""
        dataset = self._taken() or open_raster(self.file.examined, threads=self._threads)
        try:
            yield dataset
        except BaseException:
            dataset.close()
            raise
        self._idle.append(dataset)

    def _decode_alone(self) -> None:
        """From now on one thread decodes: of a bad block, GDAL's decoding threads leave garbage in the cache."""
        self._threads = 1
        self.close()

    def _patiently(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        if self.file.examined.location.kind == "path":
            self._fill(window, pixels, valid)
        else:
            remote.patiently(lambda: self._fill(window, pixels, valid), self._recover)

    def _recover(self) -> None:
        """Drops every handle, and with them all that GDAL cached; raises where the server has bad news."""
        self.close()
        recheck(self.file.examined)

    def _fill(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """Decodes straight into the array that was asked for, thinned where it is smaller, and applies masks."""
        place = ((window.row_off, window.row_stop), (window.col_off, window.col_stop))
        shape = valid.shape
        with self._dataset() as dataset, environment(self.file.examined):
            for position, indexes in self._runs:
                dataset.read(indexes, window=place, out=pixels[position : position + len(indexes)])
            if self.file.mask == "dataset":
                valid &= dataset.read_masks(1, window=place, out_shape=shape) != 0
            elif self.file.mask == "band":
                wanted = [index for _, indexes in self._runs for index in indexes]
                masks = dataset.read_masks(wanted, window=place, out_shape=(len(wanted), *shape))
                valid &= (masks != 0).all(axis=0)
            if self._alpha is not None:
                valid &= dataset.read(self._alpha, window=place, out_shape=shape) != 0
        if self.file.examined.unbound:
            recheck(self.file.examined)

    def _by_blocks(self, window: Window, pixels: Pixels, valid: Valid) -> None:
        """Reads block by block, so that what cannot be decoded has a name, and costs no more than itself."""
        with self._dataset() as dataset:
            rows, cols = dataset.block_shapes[0]
        for block in _blocks(window, rows, cols):
            part = block & window
            slices = part.within(window).slices
            target = pixels[:, slices[0], slices[1]]
            try:
                self._fill_checked(block, part, target, valid[slices])
            except RasterioError as error:
                self._bad_block(block, rows, cols, error)
                for position, band in self._bands:
                    number = stored(band.nodata, band.dtype)
                    target[position] = 0 if number is None else number
                valid[slices] = False

    def _fill_checked(self, block: Window, part: Window, pixels: Pixels, valid: Valid) -> None:
        """A remote block counts as bad only where its bytes can be fetched whole, and still cannot be decoded."""
        try:
            self._fill(part, pixels, valid)
        except RasterioError:
            if self.file.examined.location.kind == "path":
                raise
            self._recover()
            for offset, size in self._stored_at(block):
                remote.ask(self.file.examined.location, offset, size, unsigned=self.file.examined.unsigned, attempts=2)
            self._fill(part, pixels, valid)

    def _stored_at(self, block: Window) -> set[tuple[int, int]]:
        """(offset, bytes) of a block in the file, for each band that is read; nothing where GDAL does not tell."""
        name = f"{block.col_off // block.width}_{block.row_off // block.height}"
        found = set()
        with self._dataset() as dataset:
            for index in (index for _, indexes in self._runs for index in indexes):
                offset, size = (
                    dataset.get_tag_item(f"BLOCK_{what}_{name}", "TIFF", bidx=index) for what in ("OFFSET", "SIZE")
                )
                if offset and size:
                    found.add((int(offset), int(size)))
        return found

    def _bad_block(self, block: Window, rows: int, cols: int, error: RasterioError) -> None:
        row, col = block.row_off // rows, block.col_off // cols
        self.bad.add((row, col))
        location = self.file.examined.location
        if self._on_bad_block == "fail":
            raise SourceError(
                f"{location}: block {row}, {col} ({block}) cannot be read: {reason(error, location)}; mend the file, "
                "or fill such blocks with --on-bad-block nodata"
            ) from None


def _runs(pairs: list[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """(position, file's bands) for each stretch of neighbouring positions, so that one call reads all of them."""
    start, indexes = pairs[0][0], [pairs[0][1]]
    for position, index in pairs[1:]:
        if position != start + len(indexes):
            yield start, indexes
            start, indexes = position, []
        indexes.append(index)
    yield start, indexes


def _blocks(window: Window, rows: int, cols: int) -> Iterator[Window]:
    """The storage blocks that touch `window`, whole."""
    for row in range(window.row_off // rows * rows, window.row_stop, rows):
        for col in range(window.col_off // cols * cols, window.col_stop, cols):
            yield Window(row_off=row, col_off=col, height=rows, width=cols)


def stored(nodata: float | None, dtype: str) -> npt.NDArray[Any] | None:
    """The nodata value as a number of `dtype` (an array of no axes); None where no pixel of that dtype can equal it."""
    if nodata is None:
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(nodata).astype(kind)
    limits = np.iinfo(kind)
    fits = float(nodata).is_integer() and limits.min <= nodata <= limits.max
    return np.asarray(int(nodata)).astype(kind) if fits else None


def _judge(band: Band, plane: npt.NDArray[Any], valid: Valid) -> None:
    """Takes from `valid` where the band's stored number is nodata, NaN or infinite."""
    if plane.dtype.kind == "f" and np.dtype(band.dtype).kind == "f":
        valid &= np.isfinite(plane)
    number = stored(band.nodata, band.dtype)
    if number is not None:
        valid &= plane != number
