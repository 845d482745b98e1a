"""Where the pixels of one grid lie on another, and their values there: the arithmetic of `geoseg.source.warp`."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import Resampling as Method
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from geoseg.source.projection import Points, ToPixels, crs_of, to_world
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window, crop_geobox, whole

__all__ = ["GridMapping", "Resampling", "as_stored", "step_aside"]

Resampling: TypeAlias = Literal["bilinear", "nearest"]

_SAMPLES = 17
"""Points along each side of a window whose places in the source say what to read."""
_TOLERANCE = 1e-6
"""Source pixels by which GDAL may approximate the projection: too little to change a stored number (rasterio fails on
0, and 1e-9 takes twice the time)."""


class GridMapping:
    """Where the pixels of a target grid lie on a source grid."""

    def __init__(self, target: GeoBox, source: GeoBox) -> None:
        self.target = target
        self.source = source
        self.target_crs = CRS.from_wkt(crs_of(target).to_wkt())
        self.source_crs = CRS.from_wkt(crs_of(source).to_wkt())
        self._to_source = ToPixels(crs_of(target), source)
        self.source_pixels = self._source_pixels_per_target_pixel()

    def __call__(self, points: Points) -> Points:
        """(Column, row) of the target grid to (column, row) of the source grid."""
        return self._to_source(to_world(points, self.target))

    def reach(self, window: Window) -> Window:
        """What to read of the source, so that the kernel of every pixel of `window` finds what it mixes."""
        cols = np.linspace(window.col_off, window.col_stop, _SAMPLES)
        rows = np.linspace(window.row_off, window.row_stop, _SAMPLES)
        lattice = np.stack(np.meshgrid(cols, rows), axis=-1)
        places = self(lattice.reshape(-1, 2)).reshape(lattice.shape)
        known = np.isfinite(places).all(axis=-1)
        if not known.any():
            return Window(row_off=0, col_off=0, height=0, width=0)
        # Between two samples the true extreme may lie beyond both, by less than they differ.
        places[~known] = places[known][0]
        step = np.maximum(np.abs(np.diff(places, axis=0)).max((0, 1)), np.abs(np.diff(places, axis=1)).max((0, 1)))
        margin = step + np.maximum(self.source_pixels, 1.0) + 2
        extent = whole(self.source)
        limit = np.array([extent.width, extent.height])
        low = np.clip(np.floor(places.min((0, 1)) - margin), 0, limit).astype(int)
        high = np.clip(np.ceil(places.max((0, 1)) + margin), 0, limit).astype(int)
        return Window.from_bounds(int(low[1]), int(low[0]), int(high[1]), int(high[0]))

    def resample(
        self, stack: npt.NDArray[Any], reach: Window, window: Window, resampling: Resampling
    ) -> npt.NDArray[Any]:
        """`stack` (band, row, col), which lies at `reach` of the source grid, on the pixels of `window`.

        Only a WarpedVRT obeys the tolerance (`rasterio.warp.reproject` of rasterio 1.4 ignores it), and it needs a
        dataset, which is made in memory.
        """
        here, there = crop_geobox(self.source, reach), crop_geobox(self.target, window)
        count, height, width = stack.shape
        shape = {"count": count, "height": height, "width": width, "dtype": stack.dtype.name, "interleave": "band"}
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", crs=self.source_crs, transform=here.transform, **shape) as plain:
                plain.write(stack)
            with (
                memory.open(driver="GTiff") as plain,
                WarpedVRT(
                    plain,
                    crs=self.target_crs,
                    transform=there.transform,
                    height=window.height,
                    width=window.width,
                    resampling=Method[resampling],
                    tolerance=_TOLERANCE,
                    **self.options,
                ) as warped,
            ):
                values: npt.NDArray[Any] = warped.read()
        return values

    @property
    def options(self) -> dict[str, str]:
        """GDAL's warp options that fix the width of the kernel, which it would else guess anew for every block."""
        return dict(zip(("XSCALE", "YSCALE"), (repr(float(1 / pixels)) for pixels in self.source_pixels), strict=True))

    def _source_pixels_per_target_pixel(self) -> Points:
        """Source columns and rows that one target pixel spans, in the middle of the target grid."""
        height, width = self.target.shape
        middle = np.array([width / 2, height / 2])
        ends = self(middle + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]]))
        span = np.hypot(ends[1] - ends[0], ends[3] - ends[2])
        return span if np.isfinite(span).all() and (span > 0).all() else np.ones(2)


def step_aside(layer: npt.NDArray[Any], nodata: float) -> None:
    """Moves values that interpolation made equal to the nodata number to the next one: they are observations."""
    hit = layer == nodata
    if not hit.any():
        return
    if np.issubdtype(layer.dtype, np.integer):
        layer[hit] += 1 if nodata < np.iinfo(layer.dtype).max else -1
    else:
        layer[hit] = np.nextafter(layer.dtype.type(nodata), layer.dtype.type(np.inf))


def as_stored(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> Pixels:
    """Interpolated values as stored numbers: rounded where they are integers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)
