"""Finished rasters of a run as one xarray dataset, whose blocks are read when they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.xr import xr_coords

from geoseg.source.info import inspect
from geoseg.source.open import read_window
from geoseg.types import Pixels
from geoseg.window import Window, whole

__all__ = ["open_rasters"]

_BLOCKS = 4  # blocks of the file per chunk of the array, along each axis


def open_rasters(paths: Mapping[str, Path | str]) -> xr.Dataset:
    """Rasters of one grid by name, as variables of dims (y, x), or (class, y, x) where a file has several bands.

    Stored numbers become values by the file's scale and offset, nodata becomes NaN; a raster without scale keeps its
    integers, with ``_FillValue`` in its attributes.

    Raises:
        SourceError: A file cannot be opened; later, when something is computed, that it cannot be read.
    """
    return xr.Dataset({name: _variable(path) for name, path in paths.items()})


def _variable(path: Path | str) -> xr.DataArray:
    header = inspect(str(path))
    first, extent = header.bands[0], whole(header.geobox)
    side = 512 * _BLOCKS
    rows, cols = (tuple(min(side, length - at) for at in range(0, length, side)) for length in extent.shape)
    stored = da.map_blocks(
        _read_block,
        str(path),
        chunks=((len(header.bands),), rows, cols),
        dtype=first.dtype,
        meta=np.empty(0, first.dtype),
    )
    coords = xr_coords(header.geobox)
    attrs: dict[str, Any] = {}
    if (first.scale, first.offset) != (1.0, 0.0):
        values = stored.astype("float32") * np.float32(first.scale) + np.float32(first.offset)
        stored = values if first.nodata is None else da.where(stored == first.nodata, np.float32(np.nan), values)
    elif first.nodata is not None:
        attrs["_FillValue"] = np.dtype(first.dtype).type(first.nodata)
    spatial = tuple(header.geobox.dimensions)
    if len(header.bands) == 1:
        return xr.DataArray(stored[0], coords=coords, dims=spatial, attrs=attrs)
    names = [band.description for band in header.bands]
    return xr.DataArray(stored, coords={"class": names, **coords}, dims=("class", *spatial), attrs=attrs)


def _read_block(path: str, block_info: Any = None) -> Pixels:
    (_, _), (row, row_stop), (col, col_stop) = block_info[None]["array-location"]
    return read_window(path, Window.from_bounds(row, col, row_stop, col_stop))
