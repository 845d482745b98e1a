"""Frames of regions, batch by batch: the same rows as of the whole raster, for maps and for change."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine

from geoseg.earth import PixelAreas, longest_line
from geoseg.scene import BandSet, Scaling, Scene
from geoseg.sink.features import Mean, change_frames, joined_frames, region_frames
from geoseg.source.labels import ArrayLabels
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.tracing.regions import RegionBatch, trace_regions
from geoseg.types import Labels
from geoseg.window import GeoBox
from tests.sink.layers import CLASSES, POLE, SOUTH_UP, TAKEN, UTM, features, patches, whole_batch

SPEC = ModelSpec(
    name="cover",
    bands=("red",),
    channels=(Channel(name="red"),),
    classes=tuple(ClassInfo(value=value, name=f"c{value}") for value in range(3)),
    dates=2,
    maps=2,
    task="change-detection",
)


def regions(geobox: GeoBox, labels: Labels, *, chunk: int = 13, **rasters: Any) -> Any:
    return trace_regions(
        ArrayLabels(labels, 255),
        joints=longest_line(geobox),
        chunk=chunk,
        areas=PixelAreas(geobox),
        rasters={name: ArrayLabels(values) for name, values in rasters.items()},
        transform=geobox.transform[:6],
    )


def frames(geobox: GeoBox, *, chunk: int = 13) -> list[geopandas.GeoDataFrame]:
    labels = patches((int(geobox.shape[0]), int(geobox.shape[1])))
    confidence = np.where(labels == 255, 255, 100 + labels).astype(np.uint8)
    batches = regions(geobox, labels, chunk=chunk, confidence=confidence)
    mean = Mean(column="confidence_mean", of="confidence", scaling=Scaling(scale=0.004))
    options: dict[str, Any] = {"scene": "S2A", "datetime": TAKEN, "model": "cover"}
    return list(region_frames(batches, geobox=geobox, classes=CLASSES, means=[mean], **options))


@pytest.mark.parametrize("geobox", [UTM, SOUTH_UP, POLE], ids=["UTM", "south up", "pole"])
def test_batches_are_the_rows_of_the_whole(geobox: GeoBox) -> None:
    found = frames(geobox)
    assert len(found) > 1
    whole, expected = joined_frames(found), features(geobox)
    assert list(whole.columns) == ["id", *expected.columns]
    assert whole["id"].tolist() == list(range(1, len(expected) + 1))
    assert whole.crs == expected.crs
    for name in expected.columns.drop(["geometry", "area_m2"]):
        assert whole[name].equals(expected[name]), name
    np.testing.assert_allclose(whole["area_m2"], expected["area_m2"], rtol=1e-6)
    assert shapely.equals(whole.geometry.array, expected.geometry.array).all()
    up = geobox.transform.determinant < 0 or geobox is SOUTH_UP
    assert all(shape.exterior.is_ccw for shape in whole.geometry) == up


def test_rows_are_the_same_for_every_chunk() -> None:
    whole = joined_frames(frames(UTM, chunk=100))
    for chunk in (7, 30):
        assert joined_frames(frames(UTM, chunk=chunk)).equals(whole)


def test_nothing_is_one_frame_without_rows() -> None:
    (found,) = region_frames(
        regions(UTM, np.full(UTM.shape, 255, np.uint8)), geobox=UTM, classes=CLASSES,
        means=[Mean(column="confidence_mean", of="confidence", counted="seen")],
    )  # fmt: skip
    assert len(found) == 0
    assert {**found.dtypes.astype(str)} == {**frames(UTM)[0].dtypes.astype(str)}
    assert joined_frames([found]).crs == found.crs


def batch(**sums: list[int]) -> RegionBatch:
    squares = shapely.box(np.array([500000.0, 500020]), 4999990, np.array([500010.0, 500030]), 5e6)
    return RegionBatch(
        first=np.array([0, 2]), values=np.array([1, 7], np.uint8), pixels=np.array([4, 1]), polygons=squares,
        areas=np.array([400.0, 100.0]), sums={name: np.array(values) for name, values in sums.items()},
    )  # fmt: skip


def test_means_are_over_what_is_usable() -> None:
    given = batch(height=[30, 0], seen=[3, 0])
    scaling = Scaling(scale=0.5, offset=-1.0)
    np.testing.assert_array_equal(Mean(column="h", of="height", counted="seen").over(given), [10, np.nan])
    np.testing.assert_array_equal(Mean(column="h", of="height").over(given), [7.5, 0])
    np.testing.assert_array_equal(Mean(column="h", of="height", scaling=scaling).over(given), [2.75, -1])


@pytest.mark.parametrize(
    ("dtype", "column"),
    [(np.uint16, "int32"), (np.int32, "int32"), (np.uint32, "int64"), (np.int64, "int64"), (np.uint64, "int64")],
)
def test_every_class_has_its_own_id(dtype: Any, column: str) -> None:
    values = [np.iinfo(dtype).min, min(np.iinfo(dtype).max, np.iinfo(np.int64).max)]
    given = replace(batch(), values=np.array(values, dtype))
    (found,) = region_frames([given], geobox=UTM, classes=[ClassInfo(value=values[1], name="last")])
    assert (found["class_id"].tolist(), found["class_id"].dtype) == (values, column)
    assert found["class_name"].tolist() == [str(values[0]), "last"]


def test_more_columns_stand_before_the_fields_of_the_scene() -> None:
    def more(frame: geopandas.GeoDataFrame, regions: RegionBatch) -> dict[str, Any]:
        assert len(frame) == len(regions)
        return {"width_m": frame.geometry.length / 4}

    (found,) = region_frames([batch()], geobox=UTM, classes=CLASSES, more=more)
    assert list(found.columns) == [
        "first", "class_id", "class_name", "area_m2", "perimeter_m", "width_m", "scene", "datetime", "model",
        "geometry",
    ]  # fmt: skip
    assert found["width_m"].tolist() == [10, 10]
    assert found["class_name"].tolist() == ["Wüste", "7"]  # what has no name is called by its number


def test_change_has_the_columns_of_change() -> None:
    days = [Scene(id=name, source=None, geobox=UTM, bands=BandSet(()), datetime=taken) for name, taken in
            (("a", datetime(2024, 1, 2, tzinfo=UTC)), ("b", None))]  # fmt: skip
    pair = Scene(id="a-b", source=None, geobox=UTM, bands=BandSet(()), dates=tuple(days))
    change = patches((60, 80), seed=3)
    change[change < 255] = np.array([0, 2, 6])[change[change < 255]]
    sure = (change % 200).astype(np.uint8)
    ours: dict[str, Any] = {
        "geobox": UTM,
        "spec": SPEC,
        "pair": pair,
        "means": [Mean(column="ndvi_before", of="sure", scaling=Scaling(scale=0.1))],
        "probability": Mean(column="probability_mean", of="sure", scaling=Scaling(scale=0.004)),
    }
    only_changed = np.where(change == 0, 255, change).astype(np.uint8)
    whole = whole_batch(only_changed, UTM, 255, sure=sure)
    (expected,) = change_frames([whole], **ours)
    found = joined_frames(change_frames(regions(UTM, only_changed, sure=sure), **ours))
    assert list(found.columns) == [
        "id", "class_id", "class_name", "from_class", "to_class", "area_m2", "perimeter_m", "probability_mean",
        "before", "after", "ndvi_before", "scene", "model", "geometry",
    ]  # fmt: skip
    for name in expected.columns.drop(["first", "geometry", "area_m2"]):
        assert found[name].equals(expected[name]), name
    np.testing.assert_allclose(found["probability_mean"], found["class_id"] * 0.004, atol=1e-5)
    assert (found["before"] == days[0].datetime).all()
    assert found["after"].isna().all()
    assert set(found["from_class"]) == {"c0", "c1"}
    (empty,) = change_frames([], geobox=UTM, spec=SPEC, pair=pair)
    assert set(expected.columns) - {"ndvi_before"} == set(empty.columns)


def test_a_turned_grid_keeps_its_lengths_and_directions() -> None:
    turned = GeoBox((10, 10), Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10), "EPSG:32633")
    found = joined_frames(region_frames(regions(turned, np.ones((10, 10), np.uint8)), geobox=turned, classes=()))
    assert shapely.equals_exact(
        shapely.normalize(found.geometry[0]), shapely.normalize(_corners(turned)), tolerance=1e-6
    )
    assert found.geometry[0].exterior.is_ccw
    assert found["perimeter_m"][0] == pytest.approx(400, rel=1e-3)


def _corners(geobox: GeoBox) -> Any:
    return shapely.Polygon([geobox.transform @ at for at in ((0, 0), (10, 0), (10, 10), (0, 10))])
