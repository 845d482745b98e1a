"""Means of an index over regions, read where regions are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.indices import named, parse
from geoseg.polygons import Regions
from geoseg.prepare import evaluated, scaling_of
from geoseg.protocols import Source
from geoseg.scene import DATES, Scaling
from geoseg.window import Window

__all__ = ["index_means"]

_PIECE = 1024
"""Side of the windows that are read at once, in pixels."""

FloatArray = npt.NDArray[np.float64]


def index_means(
    pair: Source, crop: Window, regions: Regions, *, index: str = "NDVI", assumed: Scaling | None = None
) -> Mapping[str, npt.NDArray[Any]]:
    """(n,) mean of an index over each region, by date: ``ndvi_before``, ``ndvi_after``; NaN where nothing is usable.

    Only windows that hold a region are read.

    Args:
        pair: Reads the bands of the index of both dates, as a `geoseg.source.pair.PairSource`.
        crop: Where the regions' raster lies in it.
        regions: From `geoseg.polygons.polygonize`.
        index: Name of a spectral index.
        assumed: Scaling of integer bands that declare none.

    Raises:
        SourceError: A window cannot be read.
    """
    formula, count = parse(named(index)), len(regions) + 1
    numbers = {name: at for at, name in enumerate(pair.bands.names)}
    sums, seen = {date: np.zeros(count) for date in DATES}, np.zeros(count, np.int64)
    for piece in crop.pieces(_PIECE, _PIECE):
        components = regions.components[piece.within(crop).slices]
        if not components.any():
            continue
        pixels, valid = pair.read(piece)
        of = np.where(valid, components, 0).ravel()
        seen += np.bincount(of, minlength=count)
        for date in DATES:
            bands = {name: numbers[f"{date}.{name}"] for name in formula.names}
            stored = {name: (pixels[at], scaling_of(pair.bands[at], assumed)) for name, at in bands.items()}
            sums[date] += np.bincount(of, evaluated(formula, stored).ravel(), minlength=count)
    means = {date: np.divide(total, seen, out=np.full(count, np.nan), where=seen > 0) for date, total in sums.items()}
    return {f"{index.lower()}_{date}": np.round(mean[1:], 5) for date, mean in means.items()}
