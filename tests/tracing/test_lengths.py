"""Perimeters on the ellipsoid: what a geodesic measures along the same lines, in any CRS."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.tracing.lengths import PixelLengths
from geoseg.window import GeoBox

GRIDS = {
    "UTM": GeoBox((900, 700), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633"),
    "rotated": GeoBox((300, 300), Affine(30, 10, 500000, 10, -30, 5e6), "EPSG:32633"),
    "south up": GeoBox((300, 200), Affine(10, 0, 500000, 0, 10, 5e6), "EPSG:32733"),
    "across longitude 180": GeoBox((300, 400), Affine(300, 0, 600000, 0, -300, 7.2e6), "EPSG:32660"),
    "around a pole": GeoBox((600, 600), Affine(1000, 0, -300000, 0, -1000, 300000), "EPSG:3031"),
    "a continent": GeoBox((3000, 3000), Affine(1000, 0, 2.5e6, 0, -1000, 5e6), "EPSG:3035"),
    "the world": GeoBox((1800, 3600), Affine(0.1, 0, -180, 0, -0.1, 90), "EPSG:4326"),
    "degrees, rotated": GeoBox((200, 200), Affine(0.001, 0.0002, 10, 0.0002, -0.001, 50), "EPSG:4326"),
    "feet": GeoBox((200, 200), Affine(30, 0, 1e6, 0, -30, 2e5), "EPSG:2263"),
}


def geodesic(grid: GeoBox, polygon: shapely.Polygon) -> float:
    """Metres around `polygon`, its lines cut so finely that each piece is as good as a geodesic."""
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt() if grid.crs else "")
    to_lonlat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    fine = shapely.segmentize(polygon, polygon.length / 1500)
    rings = [np.array(ring.coords) for ring in (fine.exterior, *fine.interiors)]
    geod = crs.get_geod()
    assert geod is not None
    return float(np.sum([geod.line_length(*to_lonlat.transform(*ring.T)) for ring in rings]))


def placed(grid: GeoBox, rings: list[list[tuple[int, int]]]) -> shapely.Polygon:
    exterior, *holes = [[grid.transform @ at for at in ring] for ring in rings]
    return shapely.Polygon(exterior, holes)


def perimeters(grid: GeoBox, polygons: list[shapely.Polygon]) -> np.ndarray:
    shapes = np.array(polygons, object)
    return PixelLengths(grid).perimeters(shapely.get_coordinates(shapes), shapely.get_num_coordinates(shapes))


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=15)
@given(data=st.data())
def test_a_perimeter_is_that_of_geodesics_along_the_lines(name: str, data: st.DataObject) -> None:
    grid = GRIDS[name]
    height, width = grid.shape
    left, top = data.draw(st.integers(0, width - 10)), data.draw(st.integers(1, height - 11))
    right, bottom = data.draw(st.integers(left + 8, width)), data.draw(st.integers(top + 8, height - 1))
    outer = [(left, top), (right, top), (right, bottom), (left + 2, bottom), (left, top)]
    inner = [(left + 4, top + 2), (left + 4, top + 3), (left + 5, top + 3), (left + 4, top + 2)]
    polygon = placed(grid, [outer, inner])
    (found,) = perimeters(grid, [polygon])
    assert found == pytest.approx(geodesic(grid, polygon), rel=1e-5)


def test_each_polygon_has_its_own() -> None:
    grid = GRIDS["UTM"]
    squares = [shapely.box(500000 + 50 * n, 4999000, 500000 + 50 * n + 10 * (n + 1), 4999010) for n in range(5)]
    together = perimeters(grid, squares)
    assert together.tolist() == [perimeters(grid, [square])[0] for square in squares]
    np.testing.assert_allclose(together, [20 * (n + 2) / 0.9996 for n in range(5)], rtol=1e-5)
    assert perimeters(grid, [shapely.MultiPolygon(squares[:2])])[0] == pytest.approx(together[:2].sum(), abs=0.002)
    assert perimeters(grid, []).tolist() == []


def test_orientation_and_first_vertex_do_not_matter() -> None:
    polygon = placed(GRIDS["rotated"], [[(10, 10), (50, 14), (70, 90), (8, 40)]])
    turned = shapely.Polygon([*polygon.exterior.coords[2:], *polygon.exterior.coords[1:3]])
    found = perimeters(GRIDS["rotated"], [polygon, shapely.reverse(polygon), turned])
    assert np.ptp(found) < 0.01


def test_where_there_is_no_place_there_is_no_length() -> None:
    square = shapely.box(500000, 4999000, 500010, 4999010)
    assert np.isnan(perimeters(GeoBox((10, 10), GRIDS["UTM"].transform, None), [square])).all()
    local = GeoBox((10, 10), GRIDS["UTM"].transform, 'LOCAL_CS["plan",UNIT["metre",1]]')
    assert np.isnan(perimeters(local, [square])).all()


def test_what_lies_off_the_earth_adds_no_length() -> None:
    grid = GeoBox((200, 200), Affine(55000, 0, -5.5e6, 0, -55000, 5.5e6), "+proj=geos +h=35785831 +datum=WGS84")
    inside = placed(grid, [[(80, 80), (120, 80), (120, 120), (80, 120)]])
    beyond = placed(grid, [[(80, 80), (200, 80), (200, 120), (80, 120)]])
    outside = placed(grid, [[(0, 0), (5, 0), (5, 5), (0, 5)]])
    found = perimeters(grid, [inside, beyond, outside])
    assert found[0] == pytest.approx(geodesic(grid, inside), rel=1e-3)
    assert found[0] < found[1] < 3e7
    assert found[2] == 0
