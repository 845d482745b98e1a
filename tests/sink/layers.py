"""Layers of features for tests: regions of a small raster, in batches as they might come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
from affine import Affine

from geoseg.earth import longest_line, pixel_areas
from geoseg.scene import Scaling
from geoseg.sink.features import Mean, region_frames
from geoseg.spec import ClassInfo
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import RegionBatch
from geoseg.types import Labels
from geoseg.window import GeoBox

UTM = GeoBox((60, 80), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633")
ANTIMERIDIAN = GeoBox((60, 80), Affine(300, 0, 630000, 0, -300, 7.2e6), "EPSG:32660")
FROM_THE_WEST = GeoBox((60, 80), Affine(300, 0, 346000, 0, -300, 7.2e6), "EPSG:32601")
SOUTH_UP = GeoBox((60, 80), Affine(10, 0, 500000, 0, 10, 5e6), "EPSG:32733")
POLE = GeoBox((60, 60), Affine(1000, 0, -30000, 0, -1000, 30000), "EPSG:3031")
ARCTIC = GeoBox((60, 60), Affine(1000, 0, -20000, 0, -1000, 40000), "EPSG:3413")
CLASSES = (ClassInfo(value=0, name="water"), ClassInfo(value=1, name="Wüste"), ClassInfo(value=2, name='a "b"\t\\'))
TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def patches(shape: tuple[int, int], side: int = 6, seed: int = 0) -> Labels:
    """(row, col) squares of `side` pixels of classes 0 to 2, and a corner of nodata, 255."""
    rng = np.random.default_rng(seed)
    height, width = shape
    squares = rng.integers(0, 3, (height // side + 1, width // side + 1))
    labels = np.kron(squares, np.ones((side, side), int))[:height, :width].astype(np.uint8)
    labels[: side + 1, : side + 3] = 255
    return labels


def whole_batch(labels: Labels, geobox: GeoBox, nodata: int | None, **rasters: npt.NDArray[Any]) -> RegionBatch:
    """All regions of an array at once, found in one piece, with sums of `rasters`."""
    regions = polygonize(labels, nodata=nodata, transform=geobox.transform[:6], joints=longest_line(geobox))
    areas = np.zeros(len(regions) + 1)
    for rows, squares in pixel_areas(geobox):
        areas += np.bincount(regions.components[rows].ravel(), squares.ravel(), minlength=len(areas))
    sums = {name: np.rint(regions.mean_of(raster) * regions.pixels) for name, raster in rasters.items()}
    return RegionBatch(
        first=np.arange(len(regions)),
        values=regions.values,
        pixels=regions.pixels,
        polygons=regions.polygons,
        areas=np.round(areas[1:], 4),
        sums={name: total.astype(np.int64) for name, total in sums.items()},
    )


def make_features(
    labels: Labels,
    *,
    geobox: GeoBox,
    nodata: int | None,
    classes: Sequence[ClassInfo],
    confidence: npt.NDArray[Any] | None = None,
    **fields: Any,
) -> geopandas.GeoDataFrame:
    """One row per region of `labels`, with the columns that a map's polygons have."""
    rasters = {} if confidence is None else {"confidence": confidence}
    mean = Mean(column="confidence_mean", of="confidence", scaling=Scaling(scale=0.004))
    (frame,) = region_frames(
        [whole_batch(labels, geobox, nodata, **rasters)],
        geobox=geobox,
        classes=classes,
        means=[] if confidence is None else [mean],
        more=lambda frame, _: {} if "confidence_mean" in frame else {"confidence_mean": np.full(len(frame), np.nan)},
        **fields,
    )
    return frame.drop(columns="first")


def features(geobox: GeoBox = UTM, *, confident: bool = True, taken: datetime | None = TAKEN) -> geopandas.GeoDataFrame:
    """The regions of `patches` on `geobox`."""
    labels = patches((int(geobox.shape[0]), int(geobox.shape[1])))
    confidence = np.where(labels == 255, 255, 100 + labels) if confident else None
    known: dict[str, Any] = {"scene": "S2A", "datetime": taken, "model": "cover"}
    return make_features(labels, geobox=geobox, nodata=255, classes=CLASSES, confidence=confidence, **known)


def nothing(geobox: GeoBox = UTM) -> geopandas.GeoDataFrame:
    """A frame without rows."""
    return make_features(np.full(geobox.shape, 255, np.uint8), geobox=geobox, nodata=255, classes=CLASSES)


def shuffled(frame: geopandas.GeoDataFrame, seed: int, size: int = 7) -> Iterator[geopandas.GeoDataFrame]:
    """The rows of `frame` in frames of `size`, in any order, with the column ``first`` that tells the right one."""
    marked = frame.assign(first=np.arange(len(frame), dtype=np.int64) * 3 + 1)
    marked = marked.iloc[np.random.default_rng(seed).permutation(len(marked))]
    for start in range(0, max(1, len(marked)), size):
        yield marked.iloc[start : start + size]
