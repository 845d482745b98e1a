"""Label readers: a raster file, or an array, whose class values are read window by window."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.errors import GridError, SourceError
from geoseg.protocols import LabelReader
from geoseg.scene import Band
from geoseg.source.info import RasterInfo, inspect
from geoseg.source.location import Location
from geoseg.source.reader import BandFile, FileReader, stored
from geoseg.types import Labels
from geoseg.window import GeoBox, Window

__all__ = ["ArrayLabels", "RasterLabels"]


@dataclass(frozen=True, slots=True, eq=False)
class ArrayLabels:
    """An array of class values, as a label reader."""

    array: Labels
    """(row, col) integers."""
    nodata: int | None = None
    """Value that belongs to no region; None: every value is a class."""

    def __post_init__(self) -> None:
        _check_kind("an array", self.array.dtype)
        if self.array.ndim != 2:
            raise GridError(f"labels have rows and columns, not the {self.array.ndim} axes of {self.array.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, cols = self.array.shape
        return rows, cols

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the class values."""
        return self.array.dtype

    def read(self, window: Window) -> Labels:
        """Class values (row, col) of a window within the array: a view."""
        return self.array[window.slices]


class RasterLabels:
    """One band of a raster file, as a label reader; opens on the first question, and pickles as its arguments.

    What a mask or a transparency band of the file excludes reads as nodata.

    Args:
        location: A path, an http(s) or an s3 URL.
        band: Which band, counted from 1.
        nodata: Value that belongs to no region, in place of what the file declares.
        assume_crs: CRS of a file that declares none.
        unsigned: Whether S3 is asked without credentials.
    """

    def __init__(
        self,
        location: Location | str | os.PathLike[str],
        *,
        band: int = 1,
        nodata: int | None = None,
        assume_crs: str | None = None,
        unsigned: bool = False,
    ) -> None:
        self._arguments = (location, band, nodata, assume_crs, unsigned)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._arguments

    @property
    def geobox(self) -> GeoBox:
        """Shape, transform and CRS."""
        return self.info.geobox

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, cols = self.geobox.shape
        return int(rows), int(cols)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the class values."""
        return np.dtype(self._place.band.dtype)

    @cached_property
    def nodata(self) -> int | None:
        """Value that belongs to no region; None: every value is a class.

        Raises:
            GridError: A mask says what belongs to no region, and there is no value for it.
        """
        value = stored(self._place.band.nodata, self._place.band.dtype)
        if value is None and (self.info.file.mask != "none" or self.info.file.alpha is not None):
            raise GridError(f"{self.info.location}: has a mask, but no nodata value for what it hides; name one")
        return None if value is None else int(value)

    @cached_property
    def info(self) -> RasterInfo:
        """The file's header.

        Raises:
            SourceError: It cannot be opened.
            GridError: It has no place on the Earth.
        """
        location, _, _, assume_crs, unsigned = self._arguments
        return inspect(location, assume_crs=assume_crs, unsigned=unsigned)

    def read(self, window: Window) -> Labels:
        """Class values (row, col) of a window within the raster; any number of threads may read.

        Raises:
            SourceError: The pixels cannot be read.
        """
        pixels, valid = np.empty((1, *window.shape), self.dtype), np.ones(window.shape, bool)
        self._reader.read_into(window, pixels, valid)
        labels: Labels = pixels[0]
        if self.nodata is not None:
            labels[~valid] = self.nodata
        return labels

    @cached_property
    def _place(self) -> BandFile:
        _, index, nodata, _, _ = self._arguments
        if not 1 <= index <= len(self.info.bands):
            raise SourceError(f"{self.info.location}: has bands 1 to {len(self.info.bands)}, no band {index}")
        declared = self.info.bands[index - 1]
        _check_kind(str(self.info.location), np.dtype(declared.dtype))
        value = declared.nodata if nodata is None else nodata
        band = Band(name="labels", dtype=declared.dtype, nodata=value)
        return BandFile(file=self.info.file, index=index, band=band)

    @cached_property
    def _reader(self) -> FileReader:
        return FileReader([(0, self._place)], "fail", threads=1)


def _rebuild(
    location: Location | str | os.PathLike[str], band: int, nodata: int | None, assume_crs: str | None, unsigned: bool
) -> RasterLabels:
    return RasterLabels(location, band=band, nodata=nodata, assume_crs=assume_crs, unsigned=unsigned)


def _check_kind(name: str, dtype: npt.DTypeLike) -> None:
    if np.dtype(dtype).kind not in "iu":
        raise GridError(f"{name}: holds {np.dtype(dtype)}, but class values are integers")


_: tuple[type[LabelReader], ...] = (ArrayLabels, RasterLabels)
