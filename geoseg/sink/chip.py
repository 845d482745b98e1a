"""Training samples on disk: a square of a scene as GeoTIFF, and its labels as another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError

from geoseg.scene import BandSet, Scaling
from geoseg.sink.parts import durable
from geoseg.store.disk import writing
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox

__all__ = ["write_chip", "write_chip_labels"]

_LAYOUT = {"driver": "GTiff", "compress": "deflate", "interleave": "band"}


def write_chip(path: Path, pixels: Pixels, valid: Valid, *, geobox: GeoBox, bands: BandSet) -> None:
    """Writes stored numbers with names and scaling of their bands; where not valid, an internal mask says so.

    Args:
        path: The GeoTIFF; it appears whole or not at all.
        pixels: (band, row, col) stored numbers.
        valid: (row, col), True = usable.
        geobox: Where they lie.
        bands: What they are.

    Raises:
        SinkError: It cannot be written.
    """
    scalings = [band.scaling or Scaling() for band in bands]
    with (
        durable(path, pixels.nbytes) as draft,
        _writing(path),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(draft, "w", **_profile(pixels, geobox)) as file,
    ):
        file.write(pixels)
        file.descriptions = bands.names
        file.scales = [scaling.scale for scaling in scalings]
        file.offsets = [scaling.offset for scaling in scalings]
        if not valid.all():
            file.write_mask(valid)


def write_chip_labels(path: Path, labels: npt.NDArray[np.uint8], *, geobox: GeoBox, nodata: int) -> None:
    """Writes class numbers (row, col); `nodata` is none.

    Raises:
        SinkError: It cannot be written.
    """
    profile = _profile(labels[None], geobox)
    with (
        durable(path, labels.nbytes) as draft,
        _writing(path),
        rasterio.open(draft, "w", **profile, nodata=nodata) as file,
    ):
        file.write(labels[None])
        file.descriptions = ("label",)


def _writing(path: Path) -> Any:
    return writing(path, 0, (OSError, RasterioError))


def _profile(pixels: Pixels, geobox: GeoBox) -> dict[str, Any]:
    count, height, width = pixels.shape
    place = {"crs": str(geobox.crs), "transform": geobox.transform}
    return {"count": count, "height": height, "width": width, "dtype": pixels.dtype, **place, **_LAYOUT}
