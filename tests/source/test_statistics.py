"""Statistics of rasters over polygons: those of the covered pixels, wherever the raster lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.warp import transform_bounds

from geoseg.errors import ConfigError, MissingExtraError, SourceError
from geoseg.source.statistics import STATISTICS, ZonalStatistics, parse_statistics
from geoseg.tracing.polygons import polygonize
from geoseg.window import GeoBox
from tests.buckets import Bucket

pytest.importorskip("exactextract", reason="an extra: pip install 'geoseg[stats]'")

GRID = GeoBox((40, 50), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633")


def write(path: Path, values: np.ndarray[Any, Any], transform: Affine, crs: str | None, **options: Any) -> Path:
    height, width = values.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", **profile, transform=transform, crs=crs, **options) as raster:
        raster.write(values, 1)
    return path


def heights(path: Path, **options: Any) -> tuple[Path, np.ndarray[Any, Any]]:
    values = np.random.default_rng(0).integers(0, 90, GRID.shape).astype(np.int16)
    return write(path, values, GRID.transform, "EPSG:32633", **options), values


def regions() -> Any:
    labels = np.kron(np.arange(20).reshape(4, 5), np.ones((10, 10))).astype(np.uint8)
    return polygonize(labels, nodata=None, transform=GRID.transform[:6])


def test_statistics_of_regions_are_those_of_their_pixels(tmp_path: Path) -> None:
    path, values = heights(tmp_path / "height.tif")
    found = regions()
    with ZonalStatistics(str(path), STATISTICS, GRID) as zonal:
        columns = zonal.over(found.polygons)
        assert list(columns) == zonal.names == [f"height_{name}" for name in STATISTICS]
    for region in range(len(found)):
        inside = values[found.components == region + 1]
        counts = np.bincount(inside)
        expected = {
            "count": inside.size, "sum": inside.sum(), "mean": inside.mean(), "min": inside.min(), "max": inside.max(),
            "median": np.arange(*np.sort(inside)[[45, 55]] + [0, 1]), "stdev": inside.std(), "variance": inside.var(),
            "majority": np.flatnonzero(counts == counts.max()), "variety": np.unique(inside).size,
            "minority": np.flatnonzero(counts == counts[counts > 0].min()),
        }  # fmt: skip
        for name, value in expected.items():
            assert np.isclose(columns[f"height_{name}"][region], value).any(), name


def test_pixels_count_by_the_part_that_is_covered(tmp_path: Path) -> None:
    path, values = heights(tmp_path / "height.tif")
    half = shapely.box(500005, 4999985, 500015, 4999995)  # a quarter of each of four pixels
    with ZonalStatistics(str(path), ["mean", "count"], GRID) as zonal:
        found = zonal.over(np.array([half], object))
    assert found["height_mean"][0] == pytest.approx(values[:2, :2].mean())
    assert found["height_count"][0] == pytest.approx(1)


def test_nodata_scale_and_what_lies_beyond(tmp_path: Path) -> None:
    values = np.array([[10, 20], [255, 255]], np.uint8)
    path = write(tmp_path / "a.tif", values, Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633", nodata=255)
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.5,), (1.0,)
    boxes = [
        shapely.box(500000, 4999980, 500020, 5e6),
        shapely.box(500000, 4999980, 500020, 4999990),
        shapely.box(0, 0, 9, 9),
    ]
    with ZonalStatistics(str(path), ["mean", "count"], GRID) as zonal:
        found = zonal.over(np.array(boxes, object))
        assert zonal.over(np.zeros(0, object))["a_mean"].shape == (0,)
    np.testing.assert_allclose(found["a_mean"], [8.5, np.nan, np.nan])
    np.testing.assert_allclose(found["a_count"], [2, 0, 0])


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3035"])
def test_a_raster_in_another_crs_is_warped(tmp_path: Path, crs: str) -> None:
    to_raster = Transformer.from_crs("EPSG:32633", crs, always_xy=True)
    x, y = to_raster.transform([500000 - 300, 500500 + 300], [5e6 - 400 - 300, 5e6 + 300])
    (west, east), (south, north) = sorted(x), sorted(y)
    margin = (east - west) / 3
    side = 400
    transform = Affine(
        (east - west + 2 * margin) / side, 0, west - margin, 0, -(north - south + 2 * margin) / side, north + margin
    )
    cols, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    xs, ys = Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform(*(transform @ (cols, rows)))
    slope = ((xs - 500000) + 2 * (ys - 5e6)).astype(np.float32)
    path = write(tmp_path / "slope.tif", slope, transform, crs)
    found = regions()
    with ZonalStatistics(str(path), ["mean"], GRID) as zonal:
        means = zonal.over(found.polygons)["slope_mean"]
    centres = shapely.get_coordinates(shapely.centroid(found.polygons))
    np.testing.assert_allclose(means, (centres[:, 0] - 500000) + 2 * (centres[:, 1] - 5e6), atol=4)


def test_a_rotated_raster_is_warped(tmp_path: Path) -> None:
    transform = Affine.translation(499900, 5e6 + 200) @ Affine.rotation(-20) @ Affine.scale(5, -5)
    path = write(tmp_path / "flat.tif", np.full((300, 300), 7, np.uint8), transform, "EPSG:32633")
    with ZonalStatistics(str(path), ["min", "max"], GRID) as zonal:
        found = zonal.over(regions().polygons[7:8])
    assert (found["flat_min"][0], found["flat_max"][0]) == (7, 7)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857"])
def test_beyond_a_raster_there_is_nothing(tmp_path: Path, crs: str) -> None:
    west, south, east, north = transform_bounds("EPSG:32633", crs, 500000, 4999600, 500250, 5e6)
    transform = Affine((east - west) / 50, 0, west, 0, (south - north) / 80, north)
    path = write(tmp_path / "half.tif", np.full((80, 50), 5, np.uint8), transform, crs)
    boxes = [shapely.box(500000, 4999600, 500500, 5e6), shapely.box(500300, 4999700, 500500, 4999900)]
    with ZonalStatistics(str(path), ["mean", "min", "count"], GRID) as zonal:
        found = zonal.over(np.array(boxes, object))
    np.testing.assert_array_equal(found["half_mean"], [5, np.nan])
    np.testing.assert_array_equal(found["half_min"], [5, np.nan])
    assert found["half_count"][1] == 0


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857"])
def test_what_a_mask_hides_is_not_counted(tmp_path: Path, crs: str) -> None:
    west, south, east, north = transform_bounds("EPSG:32633", crs, 499000, 4999000, 501000, 5001000)
    transform = Affine((east - west) / 200, 0, west, 0, (south - north) / 200, north)
    values = np.where(np.arange(200)[:, None] < 130, 99, 5).astype(np.uint8) * np.ones((1, 200), np.uint8)
    path = write(tmp_path / "half.tif", values, transform, crs)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.where(values == 5, 255, 0).astype(np.uint8))
    with ZonalStatistics(str(path), ["max"], GRID) as zonal:
        found = zonal.over(np.array([shapely.box(500000, 4999600, 500500, 5e6)], object))
    assert found["half_max"].tolist() == [5]


def test_without_any_crs_numbers_are_places(tmp_path: Path) -> None:
    path, values = heights(tmp_path / "height.tif")
    bare = GeoBox(GRID.shape, GRID.transform, None)
    with ZonalStatistics(str(path), ["mean"], bare) as zonal:
        assert zonal.over(regions().polygons)["height_mean"][0] == pytest.approx(values[:10, :10].mean())


def test_a_raster_without_a_crs_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bare.tif", np.zeros((4, 4), np.uint8), GRID.transform, None)
    with pytest.raises(SourceError, match=r"bare.tif: has no CRS"), ZonalStatistics(str(path), ["mean"], GRID):
        pass
    with (
        pytest.raises(SourceError, match=r"missing.tif"),
        ZonalStatistics(str(tmp_path / "missing.tif"), ["mean"], GRID),
    ):
        pass


def test_a_raster_in_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
    path, values = heights(tmp_path / "height.tif", tiled=True, blockxsize=16, blockysize=16)
    bucket.put("height.tif", path.read_bytes())
    with ZonalStatistics(f"s3://{bucket.name}/height.tif", ["mean"], GRID) as zonal:
        found = zonal.over(regions().polygons)
    assert found["height_mean"][0] == pytest.approx(values[:10, :10].mean())


@pytest.mark.parametrize(
    "text", ["height.tif", "height.tif:", "height.tif:mean,size", ":mean", "s3://bucket/height.tif"]
)
def test_what_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RASTER:NAME"):
        parse_statistics(text)


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = heights(tmp_path / "height.tif")
    monkeypatch.setitem(__import__("sys").modules, "exactextract", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'geoseg\[stats\]'"),
        ZonalStatistics(str(path), ["mean"], GRID),
    ):
        pass
