"""Polygons: true to the pixels, valid, without seams, in a stable order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geoseg.errors import GridError
from geoseg.tracing.polygons import polygonize
from geoseg.types import Labels

NODATA = 255

rasters = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, NODATA])
)


def smooth(size: int, classes: int = 4, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Patches as a map has them: large and small, nested, ragged."""
    rng = np.random.default_rng(seed)
    field = np.zeros((size, size))
    for step in (64, 16, 4, 1):
        cells = rng.standard_normal((size // step + 1, size // step + 1))
        field += np.kron(cells, np.ones((step, step)))[:size, :size] * step**0.4
    return np.digitize(field, np.quantile(field, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.uint8)


def reference(labels: Labels, nodata: int | None = NODATA, transform: Affine | None = None) -> list[tuple[Any, int]]:
    """What GDAL makes of the same raster."""
    mask = np.ones(labels.shape, bool) if nodata is None else labels != nodata
    found = rasterio.features.shapes(labels, mask=mask, connectivity=4, transform=transform or Affine.identity())
    return [(shapely.geometry.shape(shape), int(value)) for shape, value in found]


def assert_same_regions(regions: Any, expected: list[tuple[Any, int]]) -> None:
    assert len(regions) == len(expected)
    ours = {shapely.to_wkb(shapely.normalize(p)): int(v) for p, v in zip(regions.polygons, regions.values, strict=True)}
    theirs = {shapely.to_wkb(shapely.normalize(shapely.make_valid(p))): v for p, v in expected}
    assert ours == theirs


@given(labels=rasters, joints=st.sampled_from([None, 0, 1, 3]))
def test_burnt_back_they_are_the_labels(labels: Labels, joints: int | None) -> None:
    regions = polygonize(labels, nodata=NODATA, joints=joints)
    burnt = np.full(labels.shape, NODATA, np.uint8)
    if len(regions):
        shapes = list(zip(regions.polygons, regions.values.tolist(), strict=True))
        rasterio.features.rasterize(shapes, out=burnt, transform=Affine.identity())
    np.testing.assert_array_equal(burnt, labels)


@given(labels=rasters, joints=st.sampled_from([None, 0, 1, 3]))
def test_every_polygon_is_valid_and_as_large_as_its_pixels(labels: Labels, joints: int | None) -> None:
    regions = polygonize(labels, nodata=NODATA, joints=joints)
    assert shapely.is_valid(regions.polygons).all()
    assert (shapely.get_type_id(regions.polygons) == shapely.GeometryType.POLYGON).all()
    np.testing.assert_array_equal(shapely.area(regions.polygons), regions.pixels)
    np.testing.assert_array_equal(
        np.bincount(regions.components.ravel(), minlength=len(regions) + 1)[1:], regions.pixels
    )


@given(labels=rasters)
def test_regions_are_those_of_gdal(labels: Labels) -> None:
    regions = polygonize(labels, nodata=NODATA)
    expected = reference(labels)
    assert sorted(zip(regions.values.tolist(), regions.pixels.tolist(), strict=True)) == sorted(
        (value, round(shape.area)) for shape, value in expected
    )
    for polygon, value in zip(regions.polygons, regions.values, strict=True):
        assert any(
            other_value == value and polygon.equals(shapely.make_valid(shape)) for shape, other_value in expected
        )


@pytest.mark.parametrize("nodata", [NODATA, 0, None])
@pytest.mark.parametrize("transform", [Affine(10, 0, 5e5, 0, -10, 5e6), Affine(30, 0, 0, 0, 30, 0)])
def test_a_map_equals_gdals_geometry(nodata: int | None, transform: Affine) -> None:
    labels = smooth(200)
    labels[:30, 100:140] = NODATA
    regions = polygonize(labels, nodata=nodata, transform=transform[:6])
    assert_same_regions(regions, reference(labels, nodata, transform))


def test_corners_that_touch_become_holes_not_pinches() -> None:
    labels = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)
    regions = polygonize(labels, nodata=0)
    (polygon,) = regions.polygons
    assert polygon.is_valid
    assert len(polygon.interiors) == 2


def test_a_corner_does_not_join_regions() -> None:
    regions = polygonize(np.array([[1, 0], [0, 1]], np.uint8), nodata=None)
    assert regions.pixels.tolist() == [1, 1, 1, 1]


def test_a_pocket_closed_by_a_corner_is_a_hole() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1]], np.uint8)
    (polygon,) = polygonize(labels, nodata=0).polygons
    assert polygon.is_valid
    assert [shapely.Polygon(ring).bounds for ring in polygon.interiors] == [(1.0, 1.0, 2.0, 2.0)]


@given(labels=rasters)
def test_order_is_that_of_the_first_pixels(labels: Labels) -> None:
    regions = polygonize(labels, nodata=NODATA)
    numbers = regions.components.ravel()
    firsts = [int(np.flatnonzero(numbers == number)[0]) for number in range(1, len(regions) + 1)]
    assert firsts == sorted(firsts)
    np.testing.assert_array_equal(labels.ravel()[firsts], regions.values)
    np.testing.assert_array_equal(numbers == 0, labels.ravel() == NODATA)


@given(
    labels=rasters,
    turn=st.sampled_from([0, 90, 37]),
    scale=st.sampled_from([(10, -10), (10, 10), (-10, 10)]),
)
def test_exteriors_are_counter_clockwise_on_any_map(labels: Labels, turn: int, scale: tuple[int, int]) -> None:
    transform = Affine.rotation(turn) @ Affine.scale(*scale)
    regions = polygonize(labels, nodata=NODATA, transform=transform[:6])
    assert shapely.is_ccw(shapely.get_exterior_ring(regions.polygons)).all()
    for polygon in regions.polygons:
        assert not shapely.is_ccw(np.array(polygon.interiors, object)).any()
    np.testing.assert_allclose(shapely.area(regions.polygons), regions.pixels * 100)


@given(labels=rasters, joints=st.sampled_from([0, 1, 3]))
def test_with_joints_neighbours_share_every_vertex(labels: Labels, joints: int) -> None:
    regions = polygonize(labels, nodata=NODATA, joints=joints)
    assert shapely.coverage_is_valid(regions.polygons)
    plain = polygonize(labels, nodata=NODATA)
    assert shapely.equals(regions.polygons, plain.polygons).all()


def test_without_joints_a_t_junction_is_no_vertex() -> None:
    labels = np.array([[1, 1], [2, 3]], np.uint8)
    assert not shapely.coverage_is_valid(polygonize(labels, nodata=None).polygons)
    assert (1.0, 1.0) in polygonize(labels, nodata=None, joints=0).polygons[0].exterior.coords


@given(height=st.integers(1, 20), width=st.integers(1, 20), joints=st.integers(1, 7))
def test_no_line_is_longer_than_asked(height: int, width: int, joints: int) -> None:
    (polygon,) = polygonize(np.zeros((height, width), np.uint8), nodata=None, joints=joints).polygons
    lengths = np.abs(np.diff(shapely.get_coordinates(polygon), axis=0)).sum(axis=1)
    assert lengths.max() <= joints


@given(labels=rasters, dtype=st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_means_are_numpys(labels: Labels, dtype: Any) -> None:
    regions = polygonize(labels, nodata=NODATA)
    raster = np.random.default_rng(0).integers(0, 250, labels.shape).astype(dtype)
    expected = [raster[regions.components == number].mean(dtype=float) for number in range(1, len(regions) + 1)]
    np.testing.assert_allclose(regions.mean_of(raster), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64])
def test_any_integers_are_labels(dtype: Any) -> None:
    labels = smooth(40).astype(dtype)
    regions = polygonize(labels, nodata=0)
    assert regions.values.dtype == dtype
    assert regions.pixels.sum() == (labels != 0).sum()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (5, 5)])
def test_nothing_gives_no_regions(shape: tuple[int, int]) -> None:
    regions = polygonize(np.full(shape, NODATA, np.uint8), nodata=NODATA)
    assert len(regions) == 0
    assert regions.polygons.shape == regions.values.shape == (0,)
    assert regions.components.shape == shape
    assert regions.mean_of(np.zeros(shape)).shape == (0,)


def test_views_are_read_as_they_are() -> None:
    labels = smooth(60)
    labels.flags.writeable = False
    straight = polygonize(np.ascontiguousarray(labels[::2, ::-3]), nodata=0)
    assert shapely.equals_exact(polygonize(labels[::2, ::-3], nodata=0).polygons, straight.polygons).all()


@pytest.mark.parametrize("labels", [np.zeros((2, 2), np.float32), np.zeros((1, 2, 2), np.uint8)])
def test_what_is_no_label_raster_is_refused(labels: Any) -> None:
    with pytest.raises(GridError, match="labels must be integers"):
        polygonize(labels, nodata=None)


def test_a_raster_of_another_shape_is_refused() -> None:
    with pytest.raises(GridError, match=r"\(3, 3\)"):
        polygonize(np.zeros((2, 2), np.uint8), nodata=None).mean_of(np.zeros((3, 3)))
