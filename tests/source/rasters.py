"""Small rasters on disk, and sources of all their bands, for the tests of reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from geoseg.source.bands import declare_band
from geoseg.source.info import RasterInfo, inspect
from geoseg.source.raster import OnBadBlock, RasterSource, join_rasters

PLACE = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_000.0)


def write(path: Path, pixels: npt.NDArray[Any], *, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """A GeoTIFF of `pixels` (band, row, col); blocks of 16 x 16, unless `profile` says otherwise."""
    count, height, width = pixels.shape
    layout = {"tiled": True, "blockxsize": 16, "blockysize": 16, "crs": "EPSG:32633", "transform": PLACE, **profile}
    layout = {key: value for key, value in layout.items() if value is not None}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype, **layout
    ) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
    return path


def ramp(count: int = 4, height: int = 50, width: int = 70, dtype: str = "uint16") -> npt.NDArray[Any]:
    """Pixels that all differ, as far as the dtype allows; none is 0."""
    return (np.arange(count * height * width) % 60_000 + 1).reshape(count, height, width).astype(dtype)


def source_of(
    location: str | Path, *, assume_crs: str | None = None, on_bad_block: OnBadBlock = "fail"
) -> RasterSource:
    """All bands of a raster, by number."""
    return whole_source(inspect(location, assume_crs=assume_crs), on_bad_block)


def whole_source(info: RasterInfo, on_bad_block: OnBadBlock = "fail") -> RasterSource:
    """All bands of `info` but a transparency band, by number."""
    wanted = [band.index for band in info.bands if band.index != info.file.alpha]
    choices = [(info, index, declare_band(info, index, str(index))) for index in wanted]
    return join_rasters(choices, on_bad_block=on_bad_block)
