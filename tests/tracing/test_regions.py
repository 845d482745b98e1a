"""Regions found chunk by chunk: those of the whole raster, to the last bit, for every chunk, and GDAL's."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
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
from scipy import ndimage

from benchmarks.measure import in_own_process
from geoseg.earth import PixelAreas
from geoseg.errors import GridError, SourceError
from geoseg.source.labels import ArrayLabels
from geoseg.tracing.corners import map_corners
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import RegionBatch, trace_regions
from geoseg.types import Labels
from geoseg.window import GeoBox, Window
from tests.tracing.test_polygons import NODATA, smooth

Shape = tuple[int, int]

rasters = st.sampled_from([(0, 1), (0, 1, 2, NODATA)]).flatmap(
    lambda values: arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from(values)
    )
)
chunks = st.tuples(st.integers(1, 15), st.integers(1, 15))
everywhere = st.sampled_from([4, 8])


def spiral(side: int) -> npt.NDArray[np.uint8]:
    """One arm, one pixel wide, that winds inwards."""
    labels = np.zeros((side, side), np.uint8)
    row = col = 0
    step, turns = (0, 1), 0
    while turns < 2:
        labels[row, col] = 1
        ahead, beyond = ((row + reach * step[0], col + reach * step[1]) for reach in (1, 2))
        outside = not (0 <= ahead[0] < side and 0 <= ahead[1] < side)
        touches = not outside and 0 <= beyond[0] < side and 0 <= beyond[1] < side and labels[beyond] == 1
        if outside or touches or labels[ahead] == 1:
            step, turns = (step[1], -step[0]), turns + 1
            continue
        (row, col), turns = ahead, 0
    return labels


def nested(side: int) -> npt.NDArray[np.uint8]:
    """Frames within frames, which touch at corners along a diagonal."""
    at = np.minimum(np.arange(side), np.arange(side)[::-1])
    labels = (np.minimum.outer(at, at) % 2).astype(np.uint8)
    np.fill_diagonal(labels, 1)
    return labels


def comb(side: int) -> npt.NDArray[np.uint8]:
    """Teeth that hold together in the last row alone."""
    labels = np.zeros((side, side), np.uint8)
    labels[:, ::2] = 1
    labels[-1] = 1
    return labels


SHAPES = {
    "spiral": spiral(17),
    "nested": nested(16),
    "comb": comb(11),
    "checkerboard": (np.indices((9, 10)).sum(0) % 2).astype(np.uint8),
    "diagonals": (np.subtract.outer(np.arange(12), np.arange(13)) % 3).astype(np.uint8),
    "one pixel": np.ones((1, 1), np.uint8),
    "a row": np.array([[1, 1, 2, NODATA, 2, 2, 1]], np.uint8),
}


def traced(labels: Labels, *, nodata: int | None = NODATA, **options: Any) -> dict[int, tuple[Any, ...]]:
    """By first pixel: value, pixels, geometry, area and sums."""
    found: dict[int, tuple[Any, ...]] = {}
    for batch in trace_regions(ArrayLabels(labels, nodata), **options):
        sums = [tuple(int(each[at]) for each in batch.sums.values()) for at in range(len(batch))]
        rows = zip(
            batch.first, batch.values, batch.pixels, shapely.to_wkb(batch.polygons), batch.areas, sums, strict=True
        )
        for first, *rest in rows:
            assert int(first) not in found, "every region comes once"
            found[int(first)] = tuple(rest)
    return found


def whole(labels: Labels, *, nodata: int | None = NODATA, **options: Any) -> dict[int, tuple[Any, ...]]:
    """By first pixel: value, pixels and geometry, from the raster in one piece."""
    regions = polygonize(labels, nodata=nodata, **options)
    first = np.unique(regions.components, return_index=True)[1]
    first = first[len(first) - len(regions) :]
    geometry = shapely.to_wkb(regions.polygons)
    return dict(zip(map(int, first), zip(regions.values, regions.pixels, geometry, strict=True), strict=True))


def polygons_of(found: dict[int, tuple[Any, ...]]) -> Any:
    return shapely.from_wkb([each[2] for each in found.values()])


@given(
    labels=rasters,
    chunk=chunks,
    joints=st.sampled_from([None, 0, 1, 3]),
    nodata=st.sampled_from([NODATA, 0, None]),
    workers=st.integers(1, 3),
)
def test_any_chunk_gives_the_regions_of_the_whole(
    labels: Labels, chunk: Shape, joints: int | None, nodata: int | None, workers: int
) -> None:
    found = traced(labels, nodata=nodata, joints=joints, chunk=chunk, workers=workers)
    assert {first: each[:3] for first, each in found.items()} == whole(labels, nodata=nodata, joints=joints)


@pytest.mark.parametrize("chunk", [(1, 1), (1, 99), (99, 1), (2, 3), (5, 4), (8, 8)])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_wind_and_touch_are_whole(name: str, chunk: Shape) -> None:
    for labels in (SHAPES[name], SHAPES[name].T, np.rot90(SHAPES[name])):
        for joints in (None, 2):
            found = traced(labels, joints=joints, chunk=chunk)
            assert {first: each[:3] for first, each in found.items()} == whole(labels, joints=joints)


def test_a_large_map_is_whole() -> None:
    labels, transform = smooth(700), (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
    labels[200:320, 100:400] = NODATA
    found = traced(labels, chunk=(97, 160), transform=transform, joints=11)
    assert {first: each[:3] for first, each in found.items()} == whole(labels, transform=transform, joints=11)


@given(labels=rasters, chunk=chunks, connectivity=everywhere)
def test_regions_are_those_of_gdal(labels: Labels, chunk: Shape, connectivity: int) -> None:
    found = traced(labels, chunk=chunk, connectivity=connectivity)
    theirs = rasterio.features.shapes(labels, mask=labels != NODATA, connectivity=connectivity)
    expected = [(shapely.make_valid(shapely.geometry.shape(shape)), int(value)) for shape, value in theirs]
    assert len(found) == len(expected)
    for (value, pixels, _, _, _), polygon in zip(found.values(), polygons_of(found), strict=True):
        assert polygon.area == pixels
        assert any(other == value and polygon.equals(shape) for shape, other in expected)


@given(labels=rasters, chunk=chunks)
def test_what_holds_together_at_corners_is_the_same_for_every_chunk(labels: Labels, chunk: Shape) -> None:
    found = traced(labels, connectivity=8, chunk=chunk)
    assert found.keys() == traced(labels, connectivity=8).keys()
    parts = traced(labels, chunk=chunk)
    for polygon in polygons_of(found):
        assert polygon.is_valid
        pieces = [piece.wkb for piece in shapely.get_parts(polygon)]
        order = [first for first, each in sorted(parts.items()) if each[2] in pieces]
        assert [parts[first][2] for first in order] == pieces, "the parts are the 4-connected ones, by first pixel"
        assert (polygon.geom_type == "MultiPolygon") == (len(pieces) > 1)


@given(labels=rasters, chunk=chunks, connectivity=everywhere)
def test_burnt_back_they_are_the_labels(labels: Labels, chunk: Shape, connectivity: int) -> None:
    found = traced(labels, chunk=chunk, connectivity=connectivity)
    burnt = np.full(labels.shape, NODATA, np.uint8)
    if found:
        shapes = [(polygon, int(each[0])) for polygon, each in zip(polygons_of(found), found.values(), strict=True)]
        rasterio.features.rasterize(shapes, out=burnt, transform=Affine.identity())
    np.testing.assert_array_equal(burnt, labels)


@given(labels=rasters, chunk=chunks, connectivity=everywhere, dtype=st.sampled_from([np.uint8, np.int16, np.uint32]))
def test_sums_are_numpys(labels: Labels, chunk: Shape, connectivity: int, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    raster = np.random.default_rng(0).integers(limits.min, limits.max, labels.shape, dtype, endpoint=True)
    found = traced(labels, chunk=chunk, connectivity=connectivity, rasters={"one": ArrayLabels(raster)})
    square = np.ones((3, 3)) if connectivity == 8 else None
    expected = Counter[tuple[int, int]]()
    for value in set(np.unique(labels)) - {NODATA}:
        numbers, count = ndimage.label(labels == value, square)
        expected.update((int(value), int(raster[numbers == at + 1].sum(dtype=np.int64))) for at in range(count))
    assert Counter((int(value), *sums) for value, _, _, _, sums in found.values()) == expected


GRIDS = {
    "UTM": GeoBox((60, 70), Affine(10, 0, 5e5, 0, -10, 5.3e6), "EPSG:32633"),
    "degrees": GeoBox((60, 70), Affine(0.5, 0, 10, 0, -0.5, 80), "EPSG:4326"),
    "turned": GeoBox((60, 70), Affine(10, 5, 5e5, 5, -10, 5.3e6), "EPSG:32633"),
    "polar": GeoBox((60, 70), Affine(5e4, 0, -15e5, 0, -5e4, 15e5), "EPSG:3413"),
    "large": GeoBox((80, 600), Affine(3000, 0, 1e5, 0, -3000, 9e6), "EPSG:32633"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_areas_are_those_of_the_pixels_and_do_not_depend_on_chunks(name: str) -> None:
    geobox = GRIDS[name]
    rows, cols = geobox.shape
    labels, areas = smooth(max(rows, cols))[:rows, :cols], PixelAreas(geobox)
    found = traced(labels, areas=areas)
    for chunk in ((7, 11), (1, 99), (64, 13)):
        assert traced(labels, areas=areas, chunk=chunk) == found
    pixel = areas.read(Window(row_off=0, col_off=0, height=rows, width=cols))
    regions = polygonize(labels, nodata=NODATA)
    expected = np.bincount(regions.components.ravel(), pixel.ravel())[1:]
    np.testing.assert_allclose([found[first][3] for first in whole(labels)], expected, rtol=0, atol=1e-6 * pixel.min())


def test_without_a_crs_there_are_no_areas() -> None:
    labels = np.ones((3, 3), np.uint8)
    nowhere = PixelAreas(GeoBox((3, 3), Affine.identity(), None))
    for areas in (None, nowhere):
        assert np.isnan([each[3] for each in traced(labels, areas=areas).values()]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64])
@pytest.mark.parametrize("nodata", [None, 0])
def test_every_value_of_the_dtype_is_a_class(dtype: Any, nodata: int | None) -> None:
    limits = np.iinfo(dtype)
    choices = np.array([limits.min, 0, 1, limits.max], dtype)
    labels = np.random.default_rng(0).choice(choices, (20, 30)) if dtype != np.int64 else smooth(20).astype(dtype)
    found = traced(labels, nodata=nodata, chunk=7)
    assert {first: each[:3] for first, each in found.items()} == whole(labels, nodata=nodata)
    (batch, *_) = trace_regions(ArrayLabels(labels, nodata), chunk=7)
    assert batch.values.dtype == dtype


@pytest.mark.parametrize(("value", "dtype"), [(2**63, np.uint64), (2**64 - 1, np.uint64), (-(2**63), np.int64)])
def test_a_class_value_that_has_no_number_is_refused_and_not_lost(value: int, dtype: Any) -> None:
    labels = np.full((8, 8), 5, dtype)
    labels[2:5, 3:6] = value
    with pytest.raises(GridError, match=f"class value {value}"):
        traced(labels, chunk=3)
    hidden = traced(labels, nodata=value, chunk=3)
    assert {first: each[:3] for first, each in hidden.items()} == whole(np.where(labels == 5, 5, 0), nodata=0)
    corners = map_corners(ArrayLabels(labels, value)).mapped.array
    assert (corners == map_corners(ArrayLabels(np.where(labels == 5, 5, 0), 0)).mapped.array).all()


def test_a_nodata_value_that_the_dtype_cannot_hold_hides_nothing() -> None:
    labels = np.array([[255, 1]], np.uint8)
    for nodata in (-1, 256):
        assert len(traced(labels, nodata=nodata)) == 2


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (5, 5)])
def test_nothing_gives_no_regions(shape: Shape) -> None:
    assert traced(np.full(shape, NODATA, np.uint8), chunk=2) == {}


class Counting:
    """Labels that note which windows are asked for; a window that starts at `bad` cannot be read."""

    nodata = None
    dtype = np.dtype(np.uint8)

    def __init__(self, labels: Labels, bad: Shape | None = None) -> None:
        self.windows: list[Window] = []
        self._labels, self._bad = labels, bad
        self.shape: Shape = (labels.shape[0], labels.shape[1])

    def read(self, window: Window) -> Labels:
        self.windows.append(window)
        if (window.row_off, window.col_off) == self._bad:
            raise SourceError("block 3, 4 cannot be read")
        return self._labels[window.slices]


def test_chunks_are_read_once_with_the_pixels_around_them_and_not_far_ahead() -> None:
    reader = Counting(smooth(40))
    batches = trace_regions(reader, chunk=(8, 10), workers=2)
    next(batches)
    assert len(reader.windows) <= 5 + 2, "what is ahead waits until somebody takes what is there"
    list(batches)
    scene = Window(row_off=0, col_off=0, height=40, width=40)
    grown = [
        Window.from_bounds(each.row_off - 1, each.col_off - 1, each.row_stop + 1, each.col_stop + 1) & scene
        for each in scene.pieces(8, 10)
    ]
    assert Counter(reader.windows) == Counter(grown)


def test_what_cannot_be_read_is_said() -> None:
    with pytest.raises(SourceError, match="block 3, 4"):
        list(trace_regions(Counting(smooth(40), bad=(15, 19)), chunk=(8, 10)))


def test_who_stops_in_the_middle_leaves_no_work_behind() -> None:
    reader = Counting(smooth(60))
    batches = trace_regions(reader, chunk=4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(reader.windows) < 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk": 0}, "0 x 0 pixels"),
        ({"chunk": (4, -1)}, "4 x -1 pixels"),
        ({"workers": 0}, "0 threads"),
        ({"connectivity": 6}, "6 neighbours"),
        ({"rasters": {"trust": ArrayLabels(np.ones((3, 4), np.uint8))}}, r"trust: \(3, 4\) pixels"),
        ({"rasters": {"trust": Counting(np.ones((3, 3), np.float32))}}, None),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str | None) -> None:
    if said is None:
        options["rasters"]["trust"].dtype = np.dtype(np.float32)
        said = "trust: holds float32"
    with pytest.raises(GridError, match=said):
        trace_regions(ArrayLabels(np.ones((3, 3), np.uint8)), **options)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["as they are", "with --min-area and --simplify"])
def test_memory_does_not_know_how_large_the_raster_is(tmp_path: Path, way: str) -> None:
    trace = partial(in_own_process, "benchmarks.vectors", str(tmp_path))
    trace("1024", way)  # compiles
    assert trace("16384", way)["peak_memory"] < 1.15 * trace("4096", way)["peak_memory"]


def test_a_batch_counts_its_regions() -> None:
    (batch,) = (batch for batch in trace_regions(ArrayLabels(np.ones((3, 3), np.uint8))) if len(batch))
    assert isinstance(batch, RegionBatch)
    assert (len(batch), batch.first.tolist(), batch.pixels.tolist()) == (1, [0], [9])
