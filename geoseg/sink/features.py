"""Tables of features: what is known about each region of a map, batch by batch, with its polygon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from geoseg.scene import DATES, Scaling, Scene
from geoseg.spec import ClassInfo, ModelSpec
from geoseg.tracing.lengths import PixelLengths
from geoseg.tracing.regions import RegionBatch
from geoseg.window import GeoBox

__all__ = ["Mean", "change_frames", "joined_frames", "region_frames"]

Columns = dict[str, Any]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A column of means over the pixels of each region, from exact sums of what a raster stores."""

    column: str
    """Its name."""
    of: str
    """Name of the sum, in `RegionBatch.sums`."""
    scaling: Scaling = field(default_factory=Scaling)
    """From stored numbers to what the column holds."""
    counted: str = ""
    """Name of the sum that counts the usable pixels, among the same; all pixels are where it is empty."""

    def over(self, regions: RegionBatch) -> npt.NDArray[np.float64]:
        """(n,) means to five decimals; NaN where no pixel is usable."""
        pixels = regions.sums[self.counted] if self.counted else regions.pixels
        means = np.divide(regions.sums[self.of], pixels, out=np.full(len(pixels), np.nan), where=pixels > 0)
        return np.asarray(np.round(means * self.scaling.scale + self.scaling.offset, 5))


def region_frames(
    regions: Iterable[RegionBatch],
    *,
    geobox: GeoBox,
    classes: Sequence[ClassInfo],
    means: Sequence[Mean] = (),
    more: Callable[[geopandas.GeoDataFrame, RegionBatch], Mapping[str, Numbers]] | None = None,
    scene: str = "",
    datetime: datetime | None = None,
    model: str = "",
) -> Iterator[geopandas.GeoDataFrame]:
    """One frame per batch of regions, and one without rows where there is no batch, as `write_features` takes them.

    Columns: first (of `RegionBatch`: the order of the features), class_id, class_name, area_m2 and perimeter_m (on the
    ellipsoid; NaN without a CRS), those of `means` and `more`, scene, datetime (UTC; empty where None), model, geometry
    in the CRS of `geobox`.

    Args:
        regions: Batches in any order, their polygons in the CRS of `geobox`.
        geobox: The grid that they are from.
        classes: Names of the values.
        means: What to make of the batches' sums.
        more: Gives further columns of a batch; it is called with the columns so far.
        scene: The scene's id.
        datetime: Time of acquisition, with a time zone.
        model: The model's name.
    """
    names = {info.value: info.name for info in classes}
    lengths = PixelLengths(geobox)
    for batch in _or_none(regions, means):
        columns = {"first": np.asarray(batch.first, np.int64), **_classes(batch.values, names)}
        frame = _measured(columns, batch.areas, _located(batch.polygons, geobox), lengths)
        _append(frame, {mean.column: mean.over(batch) for mean in means})
        _append(frame, {} if more is None else more(frame, batch))
        yield _finished(frame, {"scene": scene, "datetime": datetime, "model": model})


def change_frames(
    regions: Iterable[RegionBatch],
    *,
    geobox: GeoBox,
    spec: ModelSpec,
    pair: Scene[Any],
    probability: Mean | None = None,
    means: Sequence[Mean] = (),
    more: Callable[[geopandas.GeoDataFrame, RegionBatch], Mapping[str, Numbers]] | None = None,
) -> Iterator[geopandas.GeoDataFrame]:
    """Frames as `region_frames` makes them, of regions of one kind of change each.

    Columns: first, class_id, class_name, from_class and to_class (where the model maps both dates), area_m2,
    perimeter_m, probability_mean, before and after (UTC; empty where not known), those of `means` and `more`,
    scene, model, geometry.

    Args:
        regions: Batches in any order, of labels as `spec.written` lists them, without what did not change.
        geobox: The grid that they are from.
        spec: The model's card.
        pair: Both dates.
        probability: What to make of the sums of the probability of change; None: the column is empty.
        means: What to make of the batches' other sums.
        more: Gives further columns of a batch; it is called with the columns so far.
    """
    lengths = PixelLengths(geobox)
    for batch in _or_none(regions, means if probability is None else [probability, *means]):
        columns = {"first": np.asarray(batch.first, np.int64), **_changes(batch.values, spec)}
        frame = _measured(columns, batch.areas, _located(batch.polygons, geobox), lengths)
        sure = np.full(len(frame), np.nan) if probability is None else probability.over(batch)
        _append(frame, {"probability_mean": sure, **_dates(pair, len(frame))})
        _append(frame, {mean.column: mean.over(batch) for mean in means})
        _append(frame, {} if more is None else more(frame, batch))
        yield _finished(frame, {"scene": pair.id, "model": spec.name})


def joined_frames(frames: Iterable[geopandas.GeoDataFrame]) -> geopandas.GeoDataFrame:
    """All rows of one frame or more, in the order of ``first``, with ``id`` from 1 in its place."""
    whole = pd.concat(list(frames), ignore_index=True).sort_values("first", ignore_index=True)
    whole.insert(0, "id", np.arange(1, len(whole) + 1))
    return whole.drop(columns="first")


def _or_none(regions: Iterable[RegionBatch], means: Sequence[Mean]) -> Iterator[RegionBatch]:
    """The batches that hold a region, or one that holds none: its frame names the columns."""
    empty = True
    for batch in regions:
        if len(batch.values):
            empty = False
            yield batch
    if empty:
        none = np.zeros(0, np.int64)
        sums = {name: none for mean in means for name in (mean.of, mean.counted)}
        polygons, areas = np.zeros(0, object), np.zeros(0)
        yield RegionBatch(
            first=none, values=none.astype(np.uint8), pixels=none, polygons=polygons, areas=areas, sums=sums
        )


def _located(polygons: Numbers, geobox: GeoBox) -> geopandas.GeoSeries:
    """Polygons with their CRS."""
    return geopandas.GeoSeries(polygons, crs=geobox.crs.to_wkt() if geobox.crs else None)


def _classes(values: Numbers, names: Mapping[int, str]) -> Columns:
    words = _looked_up(values, lambda value: names.get(value, str(value)))
    ids = values.astype(np.int32 if np.can_cast(values.dtype, np.int32) else np.int64)
    return {"class_id": ids, "class_name": words}


def _changes(values: Numbers, spec: ModelSpec) -> Columns:
    columns = _classes(values, {info.value: info.name for info in spec.written.classes})
    if transitions := spec.transitions:
        columns |= {
            "from_class": _looked_up(values, lambda value: transitions[value][0].name),
            "to_class": _looked_up(values, lambda value: transitions[value][1].name),
        }
    return columns


def _dates(pair: Scene[Any], count: int) -> Columns:
    return {name: _times(date.datetime, count) for name, date in zip(DATES, pair.dates, strict=True)}


def _measured(
    columns: Columns, areas: npt.NDArray[np.float64], shapes: geopandas.GeoSeries, lengths: PixelLengths
) -> geopandas.GeoDataFrame:
    """A frame of `columns` with area, perimeter and geometry."""
    polygons = np.asarray(shapes.array)
    around = lengths.perimeters(shapely.get_coordinates(polygons), shapely.get_num_coordinates(polygons))
    return geopandas.GeoDataFrame({**columns, "area_m2": areas, "perimeter_m": around}, geometry=shapes)


def _append(frame: geopandas.GeoDataFrame, columns: Mapping[str, Any]) -> None:
    for name, values in columns.items():
        frame[name] = values


def _finished(frame: geopandas.GeoDataFrame, fields: Mapping[str, str | datetime | None]) -> geopandas.GeoDataFrame:
    """`frame` with a constant column for each field, and its geometry last."""
    for name, value in fields.items():
        frame[name] = (
            _words([value]).take(np.zeros(len(frame), np.int64))
            if isinstance(value, str)
            else _times(value, len(frame))
        )
    return frame[[*(name for name in frame.columns if name != "geometry"), "geometry"]]


def _looked_up(values: Numbers, name: Callable[[int], str]) -> Any:
    """A word for each value (n,); of each value the name is asked for once."""
    known, place = np.unique(values, return_inverse=True)
    return _words(name(int(value)) for value in known).take(place)


def _words(words: Iterable[str]) -> Any:
    return pd.array(list(words), dtype="str")


def _times(moment: datetime | None, count: int) -> Any:
    return pd.Series([pd.Timestamp(moment) if moment else pd.NaT] * count, dtype="datetime64[ms, UTC]")
