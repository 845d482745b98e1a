"""Places and areas on the Earth: against PROJ's geodesics, across the antimeridian, around the poles."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from geoseg.earth import PixelAreas, footprint, longest_line, lonlat_bbox, pixel_areas, to_lonlat
from geoseg.errors import GridError
from geoseg.source.labels import ArrayLabels
from geoseg.tracing.polygons import Regions, polygonize
from geoseg.tracing.regions import trace_regions
from geoseg.window import GeoBox, Window, whole

GRIDS = {
    "utm": GeoBox((60, 80), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633"),
    "antimeridian, zone 1": GeoBox((60, 80), Affine(10, 0, 358400, 0, -10, 7.2e6), "EPSG:32601"),
    "antimeridian, zone 60": GeoBox((60, 80), Affine(300, 0, 630000, 0, -300, 7.2e6), "EPSG:32660"),
    "pole at a corner of pixels": GeoBox((60, 60), Affine(30, 0, -900, 0, -30, 900), "EPSG:3413"),
    "pole within a pixel": GeoBox((61, 61), Affine(30, 0, -915, 0, -30, 915), "EPSG:3413"),
    "pole on an edge": GeoBox((61, 60), Affine(30, 0, -900, 0, -30, 915), "EPSG:3413"),
    "south pole": GeoBox((60, 60), Affine(1000, 0, -30000, 0, -1000, 30000), "EPSG:3031"),
    "beside the south pole": GeoBox((60, 60), Affine(1000, 0, -30000, 0, -1000, -1e6), "EPSG:3031"),
    "degrees": GeoBox((60, 80), Affine(0.01, 0, 10, 0, -0.01, 50), "EPSG:4326"),
    "degrees beyond 180": GeoBox((60, 80), Affine(0.01, 0, 179.5, 0, -0.01, 50), "EPSG:4326"),
    "the whole Earth": GeoBox((90, 180), Affine(2, 0, -180, 0, -2, 90), "EPSG:4326"),
    "south up": GeoBox((60, 80), Affine(10, 0, 500000, 0, 10, 5e6), "EPSG:32733"),
    "rotated": GeoBox(
        (60, 80), Affine.translation(5e5, 5e6) @ Affine.rotation(20) @ Affine.scale(10, -10), "EPSG:32633"
    ),
    "feet": GeoBox((60, 80), Affine(30, 0, 1e6, 0, -30, 2e5), "EPSG:2263"),
}


def regions_on(geobox: GeoBox) -> Regions:
    """Patches of a few pixels with single ones among them."""
    rng = np.random.default_rng(0)
    height, width = geobox.shape
    labels = np.kron(rng.integers(0, 3, (height // 6 + 1, width // 6 + 1)), np.ones((6, 6), int))[:height, :width]
    labels = np.where(rng.random(labels.shape) < 0.03, 3, labels)
    return polygonize(labels.astype(np.uint8), nodata=None, transform=geobox.transform[:6], joints=longest_line(geobox))


def geodesic_area(shapes: Any) -> float:
    geod = pyproj.Geod(ellps="WGS84")
    return float(sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shapes)))


@pytest.mark.parametrize("geobox", GRIDS.values(), ids=GRIDS.keys())
def test_lonlat_is_valid_without_gaps_and_within_the_earth(geobox: GeoBox) -> None:
    regions = regions_on(geobox)
    placed = to_lonlat(regions.polygons, geobox.crs)
    assert shapely.is_valid(placed).all()
    assert shapely.coverage_is_valid(shapely.get_parts(placed))
    west, south, east, north = shapely.total_bounds(placed)
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    union = shapely.union_all(placed)
    assert union.area == pytest.approx(shapely.area(placed).sum(), rel=1e-9)
    holes = sum(len(part.interiors) for part in shapely.get_parts(union))
    assert holes == 0
    coords = shapely.get_coordinates(placed)
    np.testing.assert_array_equal(coords, np.round(coords, 7))
    assert shapely.is_ccw(shapely.get_exterior_ring(shapely.get_parts(placed))).all()


@pytest.mark.parametrize("geobox", GRIDS.values(), ids=GRIDS.keys())
def test_areas_are_those_of_geodesic_polygons(geobox: GeoBox) -> None:
    regions = regions_on(geobox)
    areas = np.concatenate([block for _, block in pixel_areas(geobox, rows=7)])
    assert areas.shape == tuple(geobox.shape)
    ours = np.bincount(regions.components.ravel(), areas.ravel())[1:]
    placed = to_lonlat(regions.polygons, geobox.crs)
    theirs = np.array([geodesic_area(shape) for shape in placed])
    assert ours.sum() == pytest.approx(theirs.sum(), rel=2e-5)
    # A centimetre of rounding on the outline, and geodesics that are not the pixels' edges; not on pixels of 2 degrees.
    rough = 0.5 if areas.mean() > 1e9 else 5e-3
    np.testing.assert_allclose(ours, theirs, rtol=rough)


def test_areas_between_the_nodes_are_exact_enough() -> None:
    wide = GeoBox((3000, 2000), Affine(100, 0, 3e5, 0, -100, 5e6), "EPSG:32633")
    found = np.concatenate([block for _, block in pixel_areas(wide)])
    for row, col in [(0, 0), (1, 1), (1234, 777), (2999, 1999), (2000, 1003)]:
        one = GeoBox((1, 1), wide.transform @ Affine.translation(col, row), wide.crs)
        ((_, exact),) = pixel_areas(one)
        assert found[row, col] == pytest.approx(exact[0, 0], rel=1e-8)


def test_the_areas_of_the_whole_earth_are_the_ellipsoids() -> None:
    total = sum(block.sum() for _, block in pixel_areas(GRIDS["the whole Earth"]))
    assert total == pytest.approx(510065621724088.44, rel=1e-12)  # Moritz 2000, GRS 80 as WGS 84: 5.1006562e14 m2


def test_areas_without_a_crs_are_unknown() -> None:
    ((_, areas),) = pixel_areas(GeoBox((2, 3), Affine.identity(), None))
    assert np.isnan(areas).all()


def full_disk(size: int) -> GeoBox:
    """What a geostationary satellite sees, and the space around it."""
    step = 11e6 / size
    return GeoBox((size, size), Affine(step, 0, -5.5e6, 0, -step, 5.5e6), "+proj=geos +h=35785831 +datum=WGS84")


def test_a_pixel_off_the_earth_has_no_area() -> None:
    geobox = full_disk(200)
    areas = PixelAreas(geobox).read(whole(geobox))
    to_lonlat = pyproj.Transformer.from_crs(geobox.crs.to_wkt() if geobox.crs else "", "EPSG:4326", always_xy=True)
    edges = np.arange(201) * 55000 - 5.5e6
    lon, _ = to_lonlat.transform(*np.meshgrid(edges, -edges))
    on_earth = np.isfinite(np.stack([lon[:-1, :-1], lon[1:, :-1], lon[:-1, 1:], lon[1:, 1:]])).all(axis=0)
    assert 0.5 < on_earth.mean() < 0.8
    assert ((areas > 0) == on_earth).all()
    assert np.isfinite(PixelAreas(geobox).largest)
    earth = 510065621724088.44
    seen = earth / 2 * (1 - 6378137 / (6378137 + 35785831))
    assert 0.85 < areas.sum() / seen < 1  # large pixels on the rim have a corner off the Earth


def test_rows_that_lie_off_the_earth_are_given_the_area_of_the_nearest() -> None:
    rows = PixelAreas(full_disk(200)).of_rows(200)
    assert rows.min() > 55000**2  # of the pixel below the satellite
    assert rows[0] == rows[1]
    assert np.isnan(PixelAreas(GeoBox((2, 3), Affine.identity(), None)).of_rows(2)).all()


def test_crossing_polygons_are_cut_at_180_and_others_stay_whole() -> None:
    geobox = GRIDS["antimeridian, zone 60"]
    placed = to_lonlat(regions_on(geobox).polygons, geobox.crs)
    crossing = shapely.get_num_geometries(placed) > 1
    assert crossing.any()
    assert not crossing.all()
    for shape in placed[crossing]:
        assert {-180.0, 180.0} == {shape.bounds[0], shape.bounds[2]}
    spans = shapely.bounds(shapely.get_parts(placed))
    assert (spans[:, 2] - spans[:, 0]).max() < 2


def test_a_ring_around_the_pole_keeps_its_hole() -> None:
    circle = shapely.Point(0, 0).buffer(1e6, quad_segs=64).difference(shapely.Point(0, 0).buffer(5e5, quad_segs=64))
    (placed,) = to_lonlat(np.array([circle], object), "EPSG:3031")
    assert placed.is_valid
    assert not placed.intersects(shapely.Point(0, -89))
    assert placed.intersects(shapely.Point(100, -83))
    assert geodesic_area(placed) == pytest.approx(geodesic_area(_piecewise(circle)), rel=1e-3)


def _piecewise(ring: Any) -> Any:
    """The same area by another way: its quadrants, none of which holds the pole or crosses the antimeridian."""
    project = pyproj.Transformer.from_crs("EPSG:3031", "EPSG:4326", always_xy=True).transform
    eps = 1e-6  # beside the meridians, so that no vertex is on either side
    east = [shapely.box(eps, eps, 2e6, 2e6), shapely.box(eps, -2e6, 2e6, -eps)]
    west = [shapely.box(-2e6, eps, -eps, 2e6), shapely.box(-2e6, -2e6, -eps, -eps)]
    parts = shapely.intersection(ring, [*east, *west])
    return shapely.transform(parts, lambda at: np.column_stack(project(*at.T)))


@pytest.mark.parametrize("side", [0.005, 0.01, 0.02])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_pixels_of_a_centimetre_survive_the_rounding(side: float, connectivity: Literal[4, 8]) -> None:
    geobox = GeoBox((40, 40), Affine(side, 0, 500000, 0, -side, 5e6), "EPSG:32633")
    labels = ArrayLabels(np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.uint8))
    traced = trace_regions(labels, transform=geobox.transform[:6], connectivity=connectivity)
    polygons = np.concatenate([batch.polygons for batch in traced])
    placed = to_lonlat(polygons, geobox.crs)
    assert shapely.is_valid(placed).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(shapely.get_parts(placed))).all()
    degree = geodesic_area(shapely.box(15, 45.15, 15.0001, 45.1501)) * 1e8
    assert shapely.area(placed).sum() * degree == pytest.approx(shapely.area(polygons).sum(), rel=0.05)


def test_what_lies_off_the_map_is_refused() -> None:
    far = np.array([shapely.box(1e9, 1e9, 2e9, 2e9)], object)
    with pytest.raises(GridError, match="longitude and latitude"):
        to_lonlat(far, "EPSG:3035")


def test_a_crs_of_no_place_gives_no_place() -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    geobox = GeoBox((2, 3), Affine.scale(10, -10), local)
    assert longest_line(geobox) == 0
    ((_, areas),) = pixel_areas(geobox)
    assert np.isnan(areas).all()
    with pytest.raises(GridError, match="site has no longitude and latitude"):
        footprint(geobox)
    with pytest.raises(GridError, match="--assume-crs"):
        footprint(GeoBox((2, 3), Affine.scale(10, -10), None))


def test_windows_of_areas_are_pieces_of_the_whole() -> None:
    geobox = GeoBox((600, 500), Affine(100, 0, 3e5, 0, -100, 5e6), "EPSG:32633")
    areas = PixelAreas(geobox)
    everything = areas.read(whole(geobox))
    window = Window(row_off=123, col_off=45, height=67, width=89)
    np.testing.assert_array_equal(areas.read(window), everything[window.slices])
    np.testing.assert_array_equal(np.concatenate([block for _, block in pixel_areas(geobox, rows=77)]), everything)


def test_no_polygons_stay_none() -> None:
    assert to_lonlat(np.empty(0, object), "EPSG:32633").shape == (0,)


@pytest.mark.parametrize("geobox", GRIDS.values(), ids=GRIDS.keys())
def test_straight_lines_bend_less_than_a_tenth_of_a_pixel(geobox: GeoBox) -> None:
    length = longest_line(geobox)
    assert geobox.crs is not None
    if geobox.crs.geographic:
        assert length == 0
        return
    assert 1 <= length <= 256
    top = np.abs(shapely.get_coordinates(footprint(geobox))[:, 1]).max()
    if top > 89.99:
        assert length == 1
        return
    project = pyproj.Transformer.from_crs(geobox.crs.to_wkt(), "EPSG:4326", always_xy=True)
    for start, end in [((0, 0), (length, 0)), ((0, 0), (0, length))]:
        ends = np.array([geobox.transform @ start, geobox.transform @ end])
        lon, lat = project.transform(*np.vstack([ends, ends.mean(axis=0)]).T)
        lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
        x, y = project.transform(lon[:2].mean(), lat[:2].mean(), direction="INVERSE")
        pixel = abs(geobox.transform.determinant) ** 0.5
        assert np.hypot(*(np.array([x, y]) - ends.mean(axis=0))) < 0.1 * pixel


def test_the_footprint_is_the_grids_outline() -> None:
    geobox = GRIDS["utm"]
    corners = [geobox.transform @ (col, row) for col in (0, 80) for row in (0, 60)]
    project = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    for x, y in corners:
        lon, lat = project.transform(x, y)
        assert footprint(geobox).exterior.distance(shapely.Point(lon, lat)) < 1e-6
    assert lonlat_bbox(footprint(geobox)) == list(footprint(geobox).bounds)


def test_the_bbox_over_the_antimeridian_runs_from_west_to_east() -> None:
    west, _, east, _ = lonlat_bbox(footprint(GRIDS["antimeridian, zone 60"]))
    assert 179 < west < 180
    assert -180 < east < -179
    west, south, east, north = lonlat_bbox(footprint(GRIDS["south pole"]))
    assert (west, south, east) == (-180, -90, 180)
    assert north > -90
