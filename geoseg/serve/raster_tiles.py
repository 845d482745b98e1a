"""Tiles of finished rasters as pictures, by rio-tiler; the rasters themselves are opened where all are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from morecantile import Tile
from rasterio.errors import RasterioError
from rio_tiler.io import Reader
from rio_tiler.models import ImageData

from geoseg.errors import SourceError
from geoseg.finished_map import find_map
from geoseg.picture import metres_per_column
from geoseg.serve.opened import Opened, fingerprint
from geoseg.serve.runs import FinishedRun
from geoseg.serve.vector_tiles import DEEPEST, TilePlace
from geoseg.source.open import Examined, environment, examine, open_raster, reason
from geoseg.spec import ClassInfo

__all__ = ["CLASSES", "SHADES", "SIDE", "TileRaster", "open_tiles"]

SIDE = 256
"""Pixels along the side of a tile."""
CLASSES = ("labels", "change")
"""Rasters of class values, shown in the colours of their classes."""
SHADES = ("confidence", "change_probability", "uncertainty")
"""Rasters of numbers from 0 to 1, shown from black to white."""

_IDLE = 4  # open handles of one raster that nobody reads from
_OPENED: Opened[TileRaster] = Opened(most=32)


@dataclass(kw_only=True, eq=False)
class TileRaster:
    """One version of a raster of a finished run; any number of threads may ask for tiles."""

    examined: Examined
    """The file."""
    classes: tuple[ClassInfo, ...]
    """Of its values; none of one that shows shades."""
    latitude: float
    """Of its middle."""
    _idle: list[Any] = field(default_factory=list)

    @cached_property
    def zooms(self) -> tuple[int, int]:
        """Zoom at which the raster is about a tile, and the one at which its pixels are about the tile's."""
        with self._dataset() as dataset:
            shape = dataset.shape
            metres = metres_per_column(dataset.transform, dataset.crs, shape)
        world = TilePlace(z=0, x=0, y=0).metres(SIDE) * math.cos(math.radians(self.latitude))
        last = min(max(round(math.log2(world / metres)), 0), DEEPEST) if metres > 0 else 0
        return max(0, last - max(0, math.ceil(math.log2(max(shape) / SIDE)))), last

    def png(self, tile: TilePlace) -> bytes:
        """A picture of `SIDE` x `SIDE` pixels, transparent where there is no data; nothing where there is none at all.

        The nearest pixels are shown, of an overview at lower zooms.

        Raises:
            SourceError: The raster cannot be read.
        """
        with self._dataset() as dataset:
            reader = Reader(None, dataset=dataset)
            bounds = reader.tms.xy_bounds(Tile(x=tile.x, y=tile.y, z=tile.z))
            mercator = reader.tms.rasterio_crs
            try:
                seen = reader.part(
                    bounds, dst_crs=mercator, bounds_crs=mercator, width=SIDE, height=SIDE, max_size=None, indexes=1
                )
            except RasterioError as error:
                place = self.examined.location
                raise SourceError(f"{place}: cannot be read: {reason(error, place)}; make the run anew") from None
            if not seen.mask.any():
                return b""
            if self.classes:
                return bytes(seen.render(colormap=self._colors, zlevel=1))
            shares = np.clip(seen.array.data * np.float32(seen.scales[0]) + np.float32(seen.offsets[0]), 0, 1)
            shades = np.ma.MaskedArray(np.rint(shares * 255).astype(np.uint8), seen.array.mask)
            return bytes(ImageData(shades).render(zlevel=1))

    @cached_property
    def _colors(self) -> dict[int, tuple[int, int, int, int]]:
        colors = {each.value: bytes.fromhex(each.color.removeprefix("#")) for each in self.classes}
        return {value: (red, green, blue, 255) for value, (red, green, blue) in colors.items()}

    @contextmanager
    def _dataset(self) -> Iterator[Any]:
        """A handle that no other thread uses meanwhile."""
        try:
            dataset = self._idle.pop()
        except IndexError:
            dataset = open_raster(self.examined)
        with environment(self.examined):
            try:
                yield dataset
            except BaseException:
                dataset.close()
                raise
        if len(self._idle) < _IDLE:
            self._idle.append(dataset)
        else:
            dataset.close()


def open_tiles(run: FinishedRun, layer: str) -> TileRaster:
    """A raster of a finished run, kept open for the next tile.

    Raises:
        SourceError: It is gone, or cannot be read.
    """
    path = run.folder / f"{layer}.tif"
    try:
        version = fingerprint(path)
    except OSError as error:
        raise SourceError(f"{path}: is gone ({error.strerror}); make the run anew") from error
    return _OPENED.get((str(path), version), lambda: _examined(run, path, layer))


def _examined(run: FinishedRun, path: Path, layer: str) -> TileRaster:
    classes = find_map(run.folder).classes if layer in CLASSES else ()
    _, south, _, north = run.item["bbox"]
    return TileRaster(examined=examine(path), classes=classes, latitude=(south + north) / 2)
