"""A source in memory that notes what is asked of it, and writers of small rasters."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from geoseg.scene import Band, BandSet
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole


class ArraySource:
    """Arrays on a grid, read as the contract says; `reads` lists the windows that were asked for."""

    def __init__(
        self, values: npt.NDArray[Any], geobox: GeoBox, valid: Valid | None = None, names: tuple[str, ...] | None = None
    ) -> None:
        self.values, self.geobox = values, geobox
        self.valid = np.ones(geobox.shape, bool) if valid is None else valid
        self.names = names or tuple(f"band{index}" for index in range(len(values)))
        self.reads: list[Window] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.values, self.geobox, self.valid, self.names)

    @property
    def bands(self) -> BandSet:
        return BandSet(tuple(Band(name=name, dtype=str(self.values.dtype)) for name in self.names))

    @property
    def block(self) -> tuple[int, int]:
        return 64, 64

    def identity(self) -> Mapping[str, str]:
        return {"memory": "/".join(self.names)}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        with self._lock:
            self.reads.append(window)
        pixels = np.full((len(self.values), *window.shape), 77, self.values.dtype)
        valid = np.zeros(window.shape, bool)
        inner = window & whole(self.geobox)
        place = inner.within(window).slices
        pixels[:, *place] = self.values[:, *inner.slices]
        valid[place] = self.valid[inner.slices]
        return pixels, valid


def write_raster(path: Path, values: npt.NDArray[Any], geobox: GeoBox, **extra: Any) -> Path:
    """A tiled GeoTIFF; `descriptions`, `scales`, `offsets` and `tags` as rasterio has them, the rest goes to GDAL."""
    late = {key: extra.pop(key) for key in ("descriptions", "scales", "offsets", "tags") if key in extra}
    count, height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=values.dtype,
        crs=None if geobox.crs is None else str(geobox.crs),
        transform=geobox.transform,
        **extra,
    ) as dataset:
        dataset.write(values)
        if "tags" in late:
            dataset.update_tags(**late.pop("tags"))
        for key, value in late.items():
            setattr(dataset, key, value)
    return path
