"""Regions of a map: cells in metres, and polygons by a column."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.evaluation.regions import NOWHERE, GridRegions, PolygonRegions, regions_by
from geoseg.testing.strategies import windows
from geoseg.window import GeoBox, Window, whole

GRID = GeoBox.from_bbox((500_000, 5_299_000, 501_100, 5_300_000), "EPSG:32633", resolution=10)


@given(side=st.integers(10, 3000), window=windows(whole(GRID)))
def test_cells_hold_the_pixels_whose_centres_they_hold(side: int, window: Window) -> None:
    regions = regions_by(side, GRID)
    assert isinstance(regions, GridRegions)
    rows, cols = np.indices(GRID.shape)
    down, across = ((each * 10 + 5) // side for each in (rows, cols))
    numbers = regions.read(whole(GRID))
    np.testing.assert_array_equal(np.divmod(numbers, regions.across), [down, across])
    np.testing.assert_array_equal(regions.read(window), numbers[window.slices])
    assert regions.name(int(numbers[-1, -1])) == f"row {down.max()}, column {across.max()}"


def test_cells_of_a_grid_in_degrees_are_measured_on_the_ground() -> None:
    grid = GeoBox.from_bbox((15, 59.9, 15.2, 60.1), "EPSG:4326", resolution=0.001)
    regions = regions_by("5000", grid)
    assert isinstance(regions, GridRegions)
    assert regions.rows == pytest.approx(5000 / 111.4, rel=2e-3)
    assert regions.cols == pytest.approx(5000 / 55.8, rel=2e-3)


def test_feet_are_no_metres() -> None:
    grid = GeoBox.from_bbox((0, 0, 5000, 5000), "EPSG:2263", resolution=10)  # US survey feet
    regions = regions_by(304.8, grid)
    assert isinstance(regions, GridRegions)
    assert regions.rows == pytest.approx(100, rel=1e-5)


def test_polygons_with_one_value_are_one_region(tmp_path: Path) -> None:
    path = tmp_path / "districts.gpkg"
    boxes = [(0, 0, 200, 1000), (200, 0, 400, 1000), (700, 0, 1100, 500)]
    geopandas.GeoDataFrame(
        {"name": ["west", "mid", "west"]},
        geometry=[shapely.box(500_000 + x0, 5_299_000 + y0, 500_000 + x1, 5_299_000 + y1) for x0, y0, x1, y1 in boxes],
        crs="EPSG:32633",
    ).to_file(path)
    regions = regions_by(f"{path}:name", GRID)
    assert isinstance(regions, PolygonRegions)
    numbers = regions.read(whole(GRID))
    assert {regions.name(number): int((numbers == number).sum()) for number in (0, 1)} == {
        "west": 20 * 100 + 40 * 50,
        "mid": 20 * 100,
    }
    assert (numbers == NOWHERE).sum() == 110 * 100 - 6000


@pytest.mark.parametrize(
    ("by", "error", "text"),
    [
        ("districts", ConfigError, "FILE:COLUMN"),
        ("5", ConfigError, "at least a pixel"),
        ("nan", ConfigError, "at least a pixel"),
        ("missing.geojson:name", SourceError, "missing.geojson"),
    ],
)
def test_what_is_no_region_is_refused(by: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        regions_by(by, GRID)


def test_regions_of_another_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "far.geojson"
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(1, 1, 2, 2)], crs="EPSG:4326").to_file(path)
    with pytest.raises(GridError, match="none of 1 polygons"):
        regions_by(f"{path}:name", GRID)
