"""The probability of each pixel's class, from any raster that tells it, as whole numbers that can be added up."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from geoseg.errors import GridError, SourceError
from geoseg.planes import KNOWN, STEP, Planes, planes
from geoseg.protocols import LabelReader
from geoseg.scene import Scaling
from geoseg.source.grids import bounds_text, same_grid
from geoseg.source.location import Location
from geoseg.source.raster import one_band
from geoseg.window import GeoBox, Window

__all__ = ["confidence_rasters"]


def confidence_rasters(
    place: Location | str | os.PathLike[str], column: str, geobox: GeoBox
) -> Mapping[str, LabelReader]:
    """`column`, in steps of `STEP`, and `KNOWN`, which is 1 where the raster has a number; else both are 0.

    Reading them raises a SourceError where a pixel cannot be read, or is no probability.

    Args:
        place: A raster of one band of integers, scaled as it declares, or of floats.
        column: What the probabilities are called.
        geobox: The grid on which it has to lie; its CRS is assumed where the raster declares none.

    Raises:
        SourceError: It cannot be opened, or has several bands.
        GridError: It lies on another grid.
    """
    source = one_band(place, column, assume_crs=None if geobox.crs is None else geobox.crs.to_wkt())
    if not same_grid(source.geobox, geobox):
        other = bounds_text(geobox)
        raise GridError(f"{place}: {column} lies on another grid ({bounds_text(source.geobox)}) than the map ({other})")
    scaling = source.bands[0].scaling or Scaling()

    def read(window: Window) -> Planes:
        pixels, valid = source.read(window)
        steps = np.zeros(valid.shape, np.int32)
        for row, known in enumerate(valid):  # as floats, a whole chunk would be large
            shares = pixels[0, row, known] * scaling.scale + scaling.offset
            wrong = shares[~((shares >= -STEP) & (shares <= 1 + STEP))]
            if wrong.size:
                raise SourceError(f"{place}: holds {wrong[0]:g}, and a probability is 0 to 1; does it lack a scale?")
            steps[row, known] = np.rint(shares / STEP)
        return {column: steps, KNOWN: valid.astype(np.int32)}

    rows, cols = source.geobox.shape
    return planes((rows, cols), [column, KNOWN], read)
