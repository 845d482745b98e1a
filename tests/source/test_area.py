"""Areas: a pixel belongs to one if its centre lies inside; rasterio and shapely are asked for a second opinion."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.features import geometry_mask
from shapely.geometry.base import BaseGeometry

from geoseg.errors import GridError, SourceError
from geoseg.source.area import TOLERANCE, Area, area_of_bbox, area_of_file
from geoseg.source.outline import read_outline
from geoseg.window import GeoBox, Window, whole

UTM = "EPSG:32633"
GRIDS = {
    "north-up": GeoBox((90, 110), Affine(10, 0, 500000, 0, -10, 5300000), UTM),
    "south-up": GeoBox((90, 110), Affine(10, 0, 500000, 0, 10, 5299100), UTM),
    "rotated": GeoBox((90, 110), Affine(8, 6, 500000, 6, -8, 5300000), UTM),
    "degrees": GeoBox((90, 110), Affine(1e-4, 0, 15, 0, -1e-4, 47.9), "EPSG:4326"),
}
WGS84 = "OGC:CRS84"


def star(seed: int, points: int, hole: bool) -> BaseGeometry:
    """A jagged polygon in pixel coordinates of a 90 x 110 grid, partly beyond it; perhaps with a hole."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radius = rng.uniform(15, 70, points)
    centre = rng.uniform(30, 70, 2)
    ring = centre + np.column_stack([radius * np.cos(angles), radius * np.sin(angles)])
    polygon = shapely.make_valid(shapely.Polygon(ring))
    return polygon.difference(shapely.Point(centre).buffer(8)) if hole else polygon


def on(grid: GeoBox, pixels: BaseGeometry) -> BaseGeometry:
    t = grid.transform
    return shapely.affinity.affine_transform(pixels, [t.a, t.b, t.d, t.e, t.c, t.f])


@given(
    name=st.sampled_from(sorted(GRIDS)),
    seed=st.integers(0, 10**6),
    points=st.integers(3, 25),
    hole=st.booleans(),
    row=st.integers(-20, 80),
    col=st.integers(-20, 100),
    height=st.integers(0, 130),
    width=st.integers(0, 150),
)
def test_covers_equals_rasterio_and_shapely_in_any_window(
    name: str, seed: int, points: int, hole: bool, row: int, col: int, height: int, width: int
) -> None:
    grid, pixels = GRIDS[name], star(seed, points, hole)
    rows, cols = np.indices(grid.shape) + 0.5
    second = shapely.contains_xy(pixels, cols, rows)
    assume(second.any())  # an area without a pixel is refused: see below
    area = Area(geometry=on(grid, pixels), crs=grid.crs.to_wkt() if grid.crs else "", geobox=grid)
    everything = area.covers(whole(grid))
    expected = geometry_mask([area.geometry], grid.shape, grid.transform, invert=True)
    assert (everything != second).sum() == 0
    assert (everything != expected).sum() <= 1  # GDAL rounds edges that pass within 1e-10 of a centre its own way
    assert not everything[~in_window(area.window, grid)].any()
    window = Window(row_off=row, col_off=col, height=height, width=width)
    inner = window & whole(grid)
    np.testing.assert_array_equal(area.covers(window)[inner.within(window).slices], everything[inner.slices])


def in_window(window: Window, grid: GeoBox) -> Any:
    inside = np.zeros(grid.shape, bool)
    inside[window.slices] = True
    return inside


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_a_bbox_of_degrees_gives_the_window_of_its_pixels(name: str) -> None:
    """The box around some pixel centres, in degrees, gives a window with every centre that lies in the box."""
    grid = GRIDS[name]
    back = Transformer.from_crs(grid.crs.proj if grid.crs else UTM, "OGC:CRS84", always_xy=True)
    cols, rows = (np.indices(grid.shape)[::-1] + 0.5).reshape(2, -1)
    t = grid.transform
    lon, lat = back.transform(t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f)
    bbox = (np.quantile(lon, 0.3), np.quantile(lat, 0.2), np.quantile(lon, 0.6), np.quantile(lat, 0.9))
    inside = ((lon > bbox[0]) & (lon < bbox[2]) & (lat > bbox[1]) & (lat < bbox[3])).reshape(grid.shape)
    window = area_of_bbox(bbox, grid)
    assert inside[window.slices].sum() == inside.sum()
    rows_in, cols_in = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert abs(window.row_off - rows_in[0]) <= 1
    assert abs(window.row_stop - 1 - rows_in[-1]) <= 1
    assert abs(window.col_off - cols_in[0]) <= 1
    assert abs(window.col_stop - 1 - cols_in[-1]) <= 1


def test_long_edges_follow_the_projection() -> None:
    """A box 9 degrees wide: its upper edge bends by kilometres in UTM, which corners alone would miss."""
    grid = GeoBox((2000, 6600), Affine(100, 0, 170000, 0, -100, 5500000), UTM)
    box = shapely.box(10.6, 48.0, 19.4, 49.2)
    area = Area(geometry=box, crs=WGS84, geobox=grid)
    cols, rows = np.meshgrid(np.arange(0, 6600, 7) + 0.5, np.arange(0, 2000, 7) + 0.5)
    lon, lat = Transformer.from_crs(UTM, WGS84, always_xy=True).transform(170000 + 100 * cols, 5500000 - 100 * rows)
    expected = shapely.contains_xy(box, lon, lat)
    got = area.covers(whole(grid))[::7, ::7]
    assert (got != expected).sum() <= 0.001 * expected.size * TOLERANCE + 2
    straight = Transformer.from_crs(WGS84, UTM, always_xy=True).transform([10.6, 19.4], [49.2, 49.2])
    assert abs(lat[got].max() - 49.2) < 0.01
    assert (5500000 - min(straight[1])) / 100 < area.window.row_off + 2000


@pytest.mark.parametrize("bbox", [(-180, -90, 180, 90), (0, 0, 180, 89), (14, 40, 20, 50)])
def test_a_box_around_everything_gives_the_whole_scene(bbox: tuple[float, float, float, float]) -> None:
    for grid in GRIDS.values():
        assert area_of_bbox(bbox, grid) == whole(grid)


def test_the_antimeridian_is_no_edge() -> None:
    fiji = GeoBox((400, 2200), Affine(100, 0, 700000, 0, -100, 8130000), "EPSG:32760")
    lon = Transformer.from_crs("EPSG:32760", WGS84, always_xy=True).transform([700000, 920000], [8110000, 8110000])[0]
    assert lon[0] > 0 > lon[1]
    both = area_of_bbox((179.5, -17.2, -179.7, -16.95), fiji)
    west = area_of_bbox((179.5, -17.2, 180, -16.95), fiji)
    east = area_of_bbox((-180, -17.2, -179.7, -16.95), fiji)
    assert both.col_off == west.col_off
    assert both.col_stop == east.col_stop
    assert abs(west.col_stop - east.col_off) <= 6  # the meridian is not quite a column
    assert area_of_bbox((179.5, -17.2, 180.3, -16.95), fiji) == both
    halves = shapely.union_all([shapely.box(179.5, -17.2, 180, -16.95), shapely.box(-180, -17.2, -179.7, -16.95)])
    one = Area(geometry=shapely.box(179.5, -17.2, 180.3, -16.95), crs=WGS84, geobox=fiji)
    two = Area(geometry=halves, crs=WGS84, geobox=fiji)
    differ = one.covers(whole(fiji)) != two.covers(whole(fiji))
    assert differ.sum() <= 2 * TOLERANCE * 1700  # both outlines, 1700 pixels long, are true to a hundredth of a pixel


def test_a_pole_inside_the_scene() -> None:
    grid = GeoBox((200, 200), Affine(1000, 0, -100000, 0, -1000, 100000), "EPSG:3995")
    to_polar = Transformer.from_crs(WGS84, "EPSG:3995", always_xy=True)
    radius = -to_polar.transform(0, 89.5)[1] / 1000
    assert area_of_bbox((-180, 89.5, 180, 90), grid).shape == pytest.approx((2 * radius, 2 * radius), abs=1)
    half = Area(geometry=shapely.box(0, 89.5, 180, 90), crs=WGS84, geobox=grid).covers(whole(grid))
    lon = Transformer.from_crs("EPSG:3995", WGS84, always_xy=True).transform([500.0, -500.0], [-20500.0, -20500.0])[0]
    assert half[120, 100] == (lon[0] > 0)
    assert half[120, 99] == (lon[1] > 0)
    assert half.sum() == pytest.approx(np.pi * radius**2 / 2, rel=0.02)


@pytest.mark.parametrize(
    "bbox", [(20, 10, 10, 20, 1), (0, 50, 1, 40), (0, 0, 0, 1), (0, -91, 1, 1), (float("nan"), 0, 1, 1), (0, 0, 400, 1)]
)
def test_what_is_no_box_is_refused(bbox: Any) -> None:
    with pytest.raises((GridError, ValueError)):
        area_of_bbox(bbox, GRIDS["degrees"])


def test_areas_elsewhere_are_refused_with_both_bounds() -> None:
    with pytest.raises(
        GridError, match=r"\(1, 2, 3, 4\) holds no pixel of the scene \(15, 47\.\d+, 15\.0\d+, 47\.\d+\)"
    ):
        area_of_bbox((1, 2, 3, 4), GRIDS["north-up"])
    between = shapely.box(500001, 5299991, 500004, 5299994)  # inside a pixel, but not at its centre
    with pytest.raises(GridError, match="no pixel"):
        Area(geometry=between, crs=UTM, geobox=GRIDS["north-up"])
    with pytest.raises(GridError, match="assume-crs"):
        area_of_bbox((1, 2, 3, 4), GeoBox((5, 5), Affine(1, 0, 0, 0, -1, 0), None))


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "parquet"])
@pytest.mark.parametrize("crs", ["EPSG:4326", UTM, "EPSG:3035"])
def test_every_format_gives_the_same_area(tmp_path: Path, suffix: str, crs: str) -> None:
    grid = GRIDS["north-up"]
    shapes = [star(1, 9, True), star(2, 5, False)]
    frame = geopandas.GeoDataFrame({"n": [1, 2]}, geometry=[on(grid, shape) for shape in shapes], crs=UTM)
    path = tmp_path / f"area.{suffix}"
    if suffix == "parquet":
        frame.to_crs(crs).to_parquet(path)
    elif suffix == "geojson":
        path.write_text(json.dumps({**frame.to_crs("EPSG:4326").__geo_interface__}))
    else:
        frame.to_crs(crs).to_file(path, engine="pyogrio")
    expected = Area(geometry=shapely.union_all(frame.geometry.to_numpy()), crs=UTM, geobox=grid).covers(whole(grid))
    got = area_of_file(path, grid)
    assert (got.covers(whole(grid)) != expected).sum() <= 3  # chords of a reprojected outline, a hundredth of a pixel
    copy = pickle.loads(pickle.dumps(got))
    np.testing.assert_array_equal(copy.covers(whole(grid)), got.covers(whole(grid)))
    assert copy == got


def test_geojson_of_any_shape(tmp_path: Path) -> None:
    polygon = shapely.box(0, 0, 2, 1)
    geometry = shapely.geometry.mapping(polygon)
    feature = {"type": "Feature", "properties": {}, "geometry": geometry}
    empty: dict[str, Any] = {"type": "Feature", "properties": {}, "geometry": None}
    point = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [9, 9]}}
    documents: list[dict[str, Any]] = [
        geometry,
        feature,
        {"type": "FeatureCollection", "features": [empty, point, feature]},
        {"type": "GeometryCollection", "geometries": [geometry, point["geometry"]]},
        {**feature, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}},
    ]
    for index, document in enumerate(documents):
        path = tmp_path / f"{index}.json"
        path.write_text(json.dumps(document))
        outline, crs = read_outline(path)
        assert outline.equals(polygon)
        assert crs.to_epsg() == (32633 if "crs" in document else None)


def test_what_is_no_area_is_refused(tmp_path: Path) -> None:
    files = {
        "points.json": json.dumps({"type": "Point", "coordinates": [1, 2]}).encode(),
        "broken.json": b"{",
        "list.json": b"[]",
        "number.json": b"3",
        "other.json": b'{"type": "FeatureCollection"}',
        "null.json": b'{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null}]}',
        "scene.tif": b"II*\0" + bytes(60),
        "cut.parquet": b"PAR1" + bytes(60) + b"PAR1",
        "cut.gpkg": b"SQLite format 3\0" + bytes(52) + b"GPKG" + bytes(40),
        "empty.json": b"",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SourceError, match=name) as caught:
            area_of_file(path, GRIDS["degrees"])
        assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="No such file"):
        area_of_file(tmp_path / "missing.geojson", GRIDS["degrees"])
    with pytest.raises(SourceError, match="directory"):
        area_of_file(tmp_path, GRIDS["degrees"])


def test_a_geopackage_with_several_layers_is_ambiguous(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(15, 47.8, 15.1, 47.9)], crs="EPSG:4326")
    for layer in ("one", "two"):
        frame.to_file(tmp_path / "area.gpkg", layer=layer, engine="pyogrio")
    with pytest.raises(SourceError, match="2 layers"):
        area_of_file(tmp_path / "area.gpkg", GRIDS["degrees"])


@pytest.mark.parametrize("name", ["slovenia_border.geojson", "basin.geojson"])
def test_real_outlines(shared: Path, name: str) -> None:
    outline, crs = read_outline(shared / "data" / "stac_samples" / "aoi" / name)
    to_world = Transformer.from_crs(crs, "EPSG:3857", always_xy=True)
    left, bottom, right, top = to_world.transform_bounds(*outline.bounds)
    size = max(right - left, top - bottom) / 400
    grid = GeoBox(
        (int((top - bottom) / size) + 20, int((right - left) / size) + 20),
        Affine(size, 0, left - 10 * size, 0, -size, top + 10 * size),
        "EPSG:3857",
    )
    covered = area_of_file(shared / "data" / "stac_samples" / "aoi" / name, grid).covers(whole(grid))
    cols, rows = (np.indices(grid.shape)[::-1] + 0.5).reshape(2, -1)
    x, y = to_world.transform(left - 10 * size + size * cols, top + 10 * size - size * rows, direction="INVERSE")
    expected = shapely.contains_xy(outline, x, y).reshape(grid.shape)
    assert expected.sum() > 1000
    assert (covered != expected).sum() <= 5
