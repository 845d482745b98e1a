"""Polygons burned window by window: GDAL's raster of the whole and shapely are the second opinion."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.source.burned import UNCOVERED, burn
from geoseg.source.outline import Features, read_features
from geoseg.testing.strategies import windows
from geoseg.window import GeoBox, Window, whole

UTM = "EPSG:32633"
GRID = GeoBox((700, 600), Affine(10, 0, 500_000, 0, -10, 5_300_000), UTM)


def stars(seed: int, count: int = 12) -> list[BaseGeometry]:
    """Jagged polygons that overlap, some of them partly beyond the grid, in its CRS."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        ring = rng.uniform(0, 7000, 2) + rng.uniform(100, 1500, (9, 1)) * np.column_stack(
            [np.cos(angles), np.sin(angles)]
        )
        found.append(shapely.make_valid(shapely.Polygon(ring + np.array([500_000, 5_293_000]))))
    return found


def features(polygons: list[BaseGeometry], crs: str = UTM) -> Features:
    frame = geopandas.GeoSeries(polygons, crs=crs)
    return Features(polygons=tuple(polygons), values=(None,) * len(polygons), crs=frame.crs)


@given(seed=st.integers(0, 10**6), all_touched=st.booleans(), window=windows(whole(GRID), max_side=700))
def test_any_window_holds_what_the_whole_raster_holds(seed: int, all_touched: bool, window: Window) -> None:
    polygons, values = stars(seed), list(range(1, 13))
    source = burn(features(polygons), values, GRID, all_touched=all_touched)
    everything, valid = source.read(whole(GRID))
    expected = rasterize(
        zip(polygons, values, strict=True),
        out_shape=GRID.shape,
        fill=UNCOVERED,
        transform=GRID.transform,
        all_touched=all_touched,
        dtype="uint16",
    )
    # GDAL rounds edges that pass within 1e-10 of a centre, or a corner, its own way.
    assert (everything[0] != expected).sum() <= 3
    np.testing.assert_array_equal(valid, everything[0] != UNCOVERED)
    part, usable = source.read(window)
    np.testing.assert_array_equal(part[0], everything[0][window.slices])
    np.testing.assert_array_equal(usable, valid[window.slices])


def test_beyond_the_grid_nothing_is_valid() -> None:
    source = burn(features([shapely.box(499_000, 5_290_000, 510_000, 5_301_000)]), [4], GRID, background=0)
    pixels, valid = source.read(Window(row_off=-2, col_off=-3, height=4, width=5))
    np.testing.assert_array_equal(valid, [[False] * 5] * 2 + [[False] * 3 + [True] * 2] * 2)
    assert (pixels[0][valid] == 4).all()


def test_a_background_is_valid_everywhere_else() -> None:
    source = burn(features([shapely.box(500_000, 5_299_000, 501_000, 5_300_000)]), [4], GRID, background=7)
    pixels, valid = source.read(whole(GRID))
    assert valid.all()
    assert (pixels[0][:100, :100] == 4).all()
    assert (pixels == 4).sum() == 10_000
    assert (pixels == 7).sum() == 700 * 600 - 10_000


@pytest.mark.parametrize("suffix", ["geojson", "geojsonl", "gpkg", "parquet"])
def test_polygons_of_degrees_follow_the_projection(suffix: str, tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(
        {"kind": ["wood", None], "code": [3, 5]},
        geometry=[shapely.box(500_500, 5_294_000, 505_500, 5_299_500), shapely.box(0, 0, 9, 9)],
        crs=UTM,
    ).to_crs("EPSG:4326")
    path = tmp_path / f"polygons.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_file(path)
    found = read_features(path, "kind")
    assert found.values == ("wood", None)
    assert [int(value) for value in read_features(path, "code").values] == [3, 5]
    source = burn(found, [1, 2], GRID)
    assert source.values == (1,), "what lies elsewhere is not kept"
    pixels, _ = source.read(whole(GRID))
    rows, cols = np.nonzero(pixels[0] == 1)
    # Straight in degrees is bent in metres: by a few metres over 5 km.
    assert abs(len(rows) - 500 * 550) <= 600
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == pytest.approx((50, 599, 50, 549), abs=1)


def test_it_travels_and_is_known_by_its_polygons() -> None:
    source = burn(features(stars(1)), range(12), GRID)
    arrived = pickle.loads(pickle.dumps(source))
    assert arrived.identity() == source.identity() != burn(features(stars(2)), range(12), GRID).identity()
    np.testing.assert_array_equal(arrived.read(whole(GRID))[0], source.read(whole(GRID))[0])


def test_polygons_of_another_place_and_values_out_of_range_are_refused() -> None:
    with pytest.raises(GridError, match="none of 1 polygons"):
        burn(features([shapely.box(0, 0, 9, 9)]), [1], GRID)
    with pytest.raises(ConfigError, match="65535"):
        burn(features(stars(1)), [UNCOVERED] * 12, GRID)
    with pytest.raises(ConfigError, match="-1"):
        burn(features(stars(1)), range(12), GRID, background=-1)


@pytest.mark.parametrize("suffix", ["geojson", "geojsonl", "gpkg", "parquet"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(suffix: str, tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({'a "b"': [1], "c": ["x"]}, geometry=[shapely.box(1, 1, 2, 2)], crs="EPSG:4326")
    path = tmp_path / f"polygons.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_file(path)
    with pytest.raises(ConfigError, match=r"no column is named 'kind'; it has .*c"):
        read_features(path, "kind")
    assert read_features(path, 'a "b"').values == (1,)
    assert read_features(path).values == (None,)


def test_a_file_without_polygons_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    path.write_text(json.dumps({"type": "Point", "coordinates": [1, 2]}))
    with pytest.raises(SourceError, match="no polygon"):
        read_features(path)
