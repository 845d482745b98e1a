"""Sources on other grids: one value per pixel whatever window asks, true values, exact validity."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform

from geoseg.errors import GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import Band, BandSet
from geoseg.source.grids import overlaps, same_grid, target_grid
from geoseg.source.warp import JoinedSource, WarpedSource, bring_together
from geoseg.testing.conformance import SourceConformance
from geoseg.types import Valid
from geoseg.window import GeoBox, Window, crop_geobox, whole
from tests.source.sources import ArraySource


def grid(pixel: float, height: int, width: int, crs: str = "EPSG:32633", east: float = 399000) -> GeoBox:
    return GeoBox((height, width), Affine(pixel, 0, east, 0, -pixel, 5300000), crs)


def noise(geobox: GeoBox, bands: int = 1, dtype: str = "uint16", seed: int = 0) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    values: npt.NDArray[np.uint16] = rng.integers(0, 10000, (bands, *geobox.shape)).astype(dtype)
    return values


def holes(geobox: GeoBox, share: float = 0.05) -> Valid:
    valid: Valid = np.random.default_rng(1).random(geobox.shape) > share
    return valid


def interpolated(image: npt.NDArray[np.float64], factor: float, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Bilinear by hand on a grid `factor` times finer with the same corner; the rim is repeated outwards."""

    def along(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
        place = (np.arange(count) + 0.5) / factor - 0.5
        left = np.floor(place).astype(int)
        share = (place - left)[:, None]
        last = len(values) - 1
        return np.asarray(values[left.clip(0, last)] * (1 - share) + values[(left + 1).clip(0, last)] * share)

    return along(along(image, shape[0]).T, shape[1]).T


class TestWarpedSource(SourceConformance):
    def make(self) -> Source:
        coarse = grid(20, 300, 310)
        return WarpedSource(ArraySource(noise(coarse, 2), coarse, holes(coarse)), grid(10, 600, 620))


class TestJoinedSource(SourceConformance):
    def make(self) -> Source:
        fine, coarse = grid(10, 120, 130), grid(20, 60, 65)
        parts = (
            ArraySource(noise(coarse), coarse, holes(coarse), ("swir16",)),
            ArraySource(noise(fine), fine, holes(fine), ("red",)),
        )
        return bring_together(parts, ("red", "swir16"))


@pytest.mark.parametrize("pixel", [20, 60])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_finer_pixels_are_bilinear_and_valid_where_all_they_mix_is(pixel: int, dtype: str) -> None:
    coarse, fine = grid(pixel, 600 // pixel * 9, 600 // pixel * 10), grid(10, 5400 // 10, 6000 // 10)
    values, valid = noise(coarse, 2, dtype) % 250, holes(coarse)
    pixels, usable = WarpedSource(ArraySource(values, coarse, valid), fine).read(whole(fine))
    factor = pixel / 10
    expected = interpolated(valid.astype(float), factor, (540, 600)) > 1 - 1e-9
    np.testing.assert_array_equal(usable, expected)
    assert pixels.dtype == dtype
    for got, source in zip(pixels, values, strict=True):
        true = interpolated(source.astype(float), factor, (540, 600))
        error = np.abs(got.astype(float) - true)[usable].max()
        assert error <= (0.501 if np.issubdtype(dtype, np.integer) else 1e-3)


def test_coarser_pixels_mix_all_they_cover() -> None:
    fine, coarse = grid(10, 90, 120), grid(30, 30, 40)
    values, valid = noise(fine), holes(fine, 0.01)
    pixels, usable = WarpedSource(ArraySource(values, fine, valid), coarse).read(whole(coarse))
    weights = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]) / 81  # the triangle, three times as wide
    for row in range(1, 29):
        for col in range(1, 39):
            near = slice(3 * row - 1, 3 * row + 4), slice(3 * col - 1, 3 * col + 4)
            assert usable[row, col] == valid[near].all()
            if usable[row, col]:
                assert abs(int(pixels[0, row, col]) - (values[0][near] * weights).sum()) <= 0.51


@pytest.mark.parametrize(("crs", "pixel"), [("EPSG:3035", 10), ("EPSG:4326", 8e-5), ("EPSG:32632", 7)])
def test_the_projection_is_exact(crs: str, pixel: float) -> None:
    """Pixels that hold their own coordinates come out where PROJ, asked point by point, says that they are."""
    source = grid(10, 200, 300)
    rows, cols = np.mgrid[:200, :300].astype(float) + 0.5
    target = target_grid(source, pixel, crs)
    pixels, usable = WarpedSource(ArraySource(np.stack([cols, rows]), source), target).read(whole(target))
    move = target.transform
    cols, rows = (np.indices(target.shape)[::-1] + 0.5).reshape(2, -1)
    x, y = transform(
        CRS.from_string(crs), CRS.from_epsg(32633), list(move.a * cols + move.c), list(move.e * rows + move.f)
    )
    true = np.stack([(np.array(x) - 399000) / 10, (5300000 - np.array(y)) / 10]).reshape(pixels.shape)
    inside = usable & (true > 1).all(axis=0) & (true[0] < 299) & (true[1] < 199)
    assert inside.mean() > 0.5
    assert np.abs(pixels - true)[:, inside].max() < 1e-5
    beyond = (true < 0).any(axis=0) | (true[0] > 300) | (true[1] > 200)
    assert not usable[beyond].any()
    assert usable[(true > 0.01).all(axis=0) & (true[0] < 299.99) & (true[1] < 199.99)].all()


def across(crs: str, lon: float, lat: float, pixel: float, shape: tuple[int, int] = (100, 100)) -> GeoBox:
    """A grid with a longitude and latitude in its middle."""
    x, y = (value[0] for value in transform(CRS.from_epsg(4326), CRS.from_string(crs), [lon], [lat]))
    height, width = shape
    return GeoBox(shape, Affine(pixel, 0, x - pixel * width / 2, 0, -pixel, y + pixel * height / 2), crs)


TORN = {
    "a UTM scene at 180": (across("EPSG:32601", -180, 10, 10), "EPSG:32601"),
    "a whole tile at 180": (across("EPSG:32760", 179.99, -17, 10, (10980, 10980)), "EPSG:32760"),
    "a mosaic at 180": (across("EPSG:3832", -179.9, 40, 30, (30000, 30000)), "EPSG:32601"),
    "the South Pole": (GeoBox((100, 100), Affine(1000, 0, -50000, 0, -1000, 50000), "EPSG:3031"), "EPSG:3031"),
    "the North Pole": (GeoBox((100, 100), Affine(1000, 0, -50000, 0, -1000, 50000), "EPSG:3413"), "EPSG:3995"),
}


@pytest.mark.parametrize(("scene", "better"), TORN.values(), ids=TORN.keys())
@pytest.mark.parametrize("crs", ["EPSG:4326", "OGC:CRS84"])
def test_a_scene_that_the_target_tears_apart_is_refused(scene: GeoBox, better: str, crs: str) -> None:
    with pytest.raises(GridError, match=rf"would become .* pole.* such as {better}, or give --resolution"):
        target_grid(scene, crs=crs)
    height, width = target_grid(scene, crs=better).shape
    assert height * width < 4 * scene.shape[0] * scene.shape[1]
    assert target_grid(scene, crs=crs, resolution=0.5).shape


@pytest.mark.parametrize(
    ("scene", "crs"),
    [
        (across("EPSG:32633", 15, 83, 10), "EPSG:3857"),
        (across("EPSG:32633", 15, 83, 10), "EPSG:4326"),
        (across("EPSG:32633", 15, 50, 10, (1, 3000)), "EPSG:4326"),
        (across("EPSG:32633", 15, 50, 10, (30000, 1)), "EPSG:3035"),
        (across("EPSG:32601", -180, 10, 10, (3, 3)), "EPSG:4326"),
        (across("EPSG:32601", -180, 10, 10), "EPSG:3832"),
        (across("EPSG:32601", -179, 10, 10), "EPSG:4326"),
        (GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326"), "EPSG:3857"),
        (GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326"), "ESRI:54009"),
    ],
    ids=["Mercator at 83 N", "degrees at 83 N", "a row", "a column", "3 x 3", "the Pacific", "beside 180", "the Earth",
         "Mollweide"],
)  # fmt: skip
def test_what_only_stretches_is_taken(scene: GeoBox, crs: str) -> None:
    assert target_grid(scene, crs=crs).crs == crs


def degrees(west: float, width: int, pixel: float = 0.01, north: float = 10, height: int = 20) -> GeoBox:
    return GeoBox((height, width), Affine(pixel, 0, west, 0, -pixel, north), "EPSG:4326")


FAR_EAST = degrees(185, 20)
ACROSS = degrees(179.9, 20)
ROUND = degrees(0, 360, 1, 90, 180)
TURNED = {
    "another CRS": (FAR_EAST, target_grid(FAR_EAST, crs="EPSG:32602"), r"gdal_translate -a_ullr -175 10 -174.8 9.8"),
    "a mask of the Earth": (FAR_EAST, degrees(-180, 360, 1, 90, 180), r"by -360: gdal_translate -a_ullr -175 10"),
    "west of -180": (degrees(-185, 20), degrees(174.9, 40), r"by 360: gdal_translate -a_ullr 175 10 175.2 9.8"),
    "across 180": (ACROSS, target_grid(ACROSS, crs="EPSG:32601"), r"gdalwarp -t_srs EPSG:32601"),
    "across 180, degrees": (ACROSS, degrees(-180, 20), r"gdalwarp -t_srs EPSG:32601"),
    "a mask from 0 to 360": (across("EPSG:32618", -75, 40, 10), ROUND, r"gdalwarp -te -180 -90 180 90 IN OUT"),
    "degrees and 0 to 360": (degrees(-70, 20), ROUND, r"gdalwarp -te -180 -90 180 90 IN OUT"),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other", "advice"), TURNED.values(), ids=TURNED.keys())
def test_longitudes_a_full_turn_away_are_told_from_elsewhere(one: GeoBox, other: GeoBox, advice: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(GridError, match=rf"go beyond 180 degrees.* {advice}"):
            overlaps(*pair)


def test_a_scene_beyond_180_says_so() -> None:
    source = ArraySource(noise(FAR_EAST), FAR_EAST)
    assert bring_together([source], ("band0",), resolution=0.02).geobox.shape == (10, 10)
    with pytest.raises(GridError, match="shift them by -360"):
        bring_together([source], ("band0",), crs="EPSG:32602")


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (degrees(10, 20), ROUND, True),
        (across("EPSG:32633", 15, 50, 10), ROUND, True),
        (FAR_EAST, ROUND, True),
        (FAR_EAST, degrees(185.1, 20), True),
        (FAR_EAST, degrees(-120, 20), False),
        (FAR_EAST, degrees(-175, 20, north=40), False),
        (degrees(-180.5, 360, 1, 90, 180), degrees(-180, 360, 1, 90, 180), True),
        (FAR_EAST, across("EPSG:32633", 15, 50, 10), False),
    ],
)
def test_longitudes_beyond_180_matter_only_where_grids_meet(one: GeoBox, other: GeoBox, meet: bool) -> None:
    assert overlaps(other, one) is meet


TARGETS = {
    "60 m on 10 m": (grid(60, 120, 130), grid(10, 720, 780)),
    "laea": (grid(10, 500, 600), target_grid(grid(10, 500, 600), crs="EPSG:3035")),
    "rotated": (
        grid(10, 500, 600),
        GeoBox((700, 650), Affine(9, 4, 399100, 4, -9, 5299000), "EPSG:32633"),
    ),
    "south-up": (grid(20, 300, 300), GeoBox((600, 560), Affine(10, 0, 399000, 0, 10, 5294000), "EPSG:32633")),
}
WARPED = {
    name: WarpedSource(ArraySource(noise(source, 2), source, holes(source, 0.001)), target)
    for name, (source, target) in TARGETS.items()
}
WHOLE = {name: source.read(whole(source.geobox)) for name, source in WARPED.items()}


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(TARGETS)),
    row=st.integers(-50, 720),
    col=st.integers(-50, 780),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
def test_a_pixel_is_the_same_in_any_window(name: str, row: int, col: int, height: int, width: int) -> None:
    source, target = TARGETS[name]
    fresh = WarpedSource(ArraySource(noise(source, 2), source, holes(source, 0.001)), target)
    window = Window(row_off=row, col_off=col, height=height, width=width)
    pixels, usable = fresh.read(window)
    inner = window & whole(target)
    place = inner.within(window).slices
    np.testing.assert_array_equal(pixels[:, *place], WHOLE[name][0][:, *inner.slices])
    np.testing.assert_array_equal(usable[place], WHOLE[name][1][inner.slices])
    usable[place] = False
    assert not usable.any()


def test_each_block_is_warped_once_and_reads_only_what_it_needs() -> None:
    coarse, fine = grid(60, 300, 300), grid(10, 1800, 1800)
    source = ArraySource(noise(coarse), coarse)
    warped = WarpedSource(source, fine)
    for row in range(0, 1800, 150):
        warped.read(Window(row_off=row, col_off=0, height=200, width=1800))
    assert len(source.reads) == 16
    assert max(window.size for window in source.reads) < (512 / 6 + 2 * 12) ** 2
    assert all(window in whole(coarse) for window in source.reads)


def test_threads_share_blocks_and_a_failed_block_is_tried_again() -> None:
    coarse, fine = grid(20, 256, 256), grid(10, 512, 512)

    class Moody(ArraySource):
        failures = 1

        def read(self, window: Window) -> tuple[npt.NDArray[np.uint16], Valid]:
            if self.failures:
                self.failures -= 1
                raise SourceError("not now")
            return super().read(window)

    source = Moody(noise(coarse), coarse)
    warped = WarpedSource(source, fine)
    with pytest.raises(SourceError, match="not now"):
        warped.read(whole(fine))
    barrier = threading.Barrier(4)

    def read(_: int) -> npt.NDArray[np.uint16]:
        barrier.wait()
        return warped.read(whole(fine))[0]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, range(4)))
    assert len(source.reads) == 1
    assert all((result == results[0]).all() for result in results)


def test_nearest_takes_the_pixel_under_the_centre() -> None:
    coarse, fine = grid(30, 40, 50), grid(10, 120, 150)
    values, valid = noise(coarse), holes(coarse)
    pixels, usable = WarpedSource(ArraySource(values, coarse, valid), fine, "nearest").read(whole(fine))
    repeated = np.repeat(np.repeat(values[0], 3, 0), 3, 1)
    np.testing.assert_array_equal(usable, np.repeat(np.repeat(valid, 3, 0), 3, 1))
    np.testing.assert_array_equal(pixels[0][usable], repeated[usable])


def test_unusable_numbers_touch_nothing() -> None:
    coarse, fine = grid(60, 50, 50), grid(10, 300, 300)
    values, valid = noise(coarse).astype("float32"), holes(coarse)
    one = WarpedSource(ArraySource(np.where(valid, values, np.nan), coarse, valid), fine).read(whole(fine))
    other = WarpedSource(ArraySource(np.where(valid, values, 1e30), coarse, valid), fine).read(whole(fine))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert np.isfinite(one[0]).all()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 100.0), ("uint8", 255.0), ("float32", 100.0)])
def test_no_value_comes_to_be_the_nodata_number_by_interpolation(dtype: str, nodata: float) -> None:
    coarse, fine = grid(20, 64, 64), grid(10, 128, 128)

    class WithNodata(ArraySource):
        @property
        def bands(self) -> BandSet:
            return BandSet((Band(name="red", dtype=dtype, nodata=nodata),))

    around = np.array([nodata - 1, min(nodata + 1, 254)]).astype(dtype)
    values = np.random.default_rng(0).choice(around, (1, 64, 64))
    pixels, usable = WarpedSource(WithNodata(values, coarse), fine).read(whole(fine))
    assert usable.all()
    assert not (pixels == nodata).any()
    assert np.abs(pixels.astype(float) - interpolated(values[0].astype(float), 2, (128, 128))).max() <= 1.5


def test_bands_on_the_finest_grid_are_read_as_they_are() -> None:
    ten, twenty, sixty = grid(10, 360, 360), grid(20, 180, 180), grid(60, 60, 60)
    parts = (
        ArraySource(noise(twenty, 1, seed=1), twenty, names=("swir16",)),
        ArraySource(noise(ten, 2, seed=2), ten, holes(ten), names=("red", "nir")),
        ArraySource(noise(sixty, 1, seed=3), sixty, names=("coastal",)),
    )
    joined = bring_together(parts, ("nir", "coastal", "swir16", "red"))
    assert joined.geobox == ten
    assert joined.bands.names == ("nir", "coastal", "swir16", "red")
    assert joined.identity() == {"memory": "coastal"} | {"memory": parts[-1].identity()["memory"]}
    window = Window(row_off=100, col_off=50, height=70, width=90)
    pixels, valid = joined.read(window)
    assert parts[1].reads == [window]
    np.testing.assert_array_equal(pixels[[3, 0]], parts[1].values[:, *window.slices])
    np.testing.assert_array_equal(valid, parts[1].valid[window.slices])
    copy: Source = pickle.loads(pickle.dumps(joined))
    np.testing.assert_array_equal(copy.read(window)[0], pixels)


def test_one_source_that_fits_is_itself() -> None:
    ten = grid(10, 30, 30)
    source = ArraySource(noise(ten, 2), ten, names=("red", "nir"))
    assert bring_together([source], ("red", "nir")) is source
    assert isinstance(bring_together([source], ("nir", "red")), JoinedSource)


def test_a_whole_scene_on_a_new_grid() -> None:
    ten = grid(10, 300, 400)
    source = ArraySource(noise(ten, 2), ten, names=("red", "nir"))
    coarse = bring_together([source], ("red", "nir"), resolution=20)
    assert coarse.geobox == target_grid(ten, resolution=20)
    assert coarse.read(whole(coarse.geobox))[1].mean() > 0.95
    degrees = bring_together([source], ("red", "nir"), crs="EPSG:4326")
    assert str(degrees.geobox.crs) == "EPSG:4326"
    box, own = degrees.geobox.extent.boundingbox, ten.extent.to_crs("EPSG:4326").boundingbox
    assert box.left <= own.left + 1e-6
    assert box.top >= own.top - 1e-6
    assert box.right >= own.right - 1e-6
    assert box.bottom <= own.bottom + 1e-6


@pytest.mark.parametrize(
    ("resolution", "crs"), [(0.0, None), (-1.0, None), (float("nan"), None), (1e-9, None), (None, "EPSG:1")]
)
def test_impossible_grids_are_refused(resolution: float | None, crs: str | None) -> None:
    with pytest.raises(GridError):
        target_grid(grid(10, 30, 30), resolution, crs)


def test_grids_that_do_not_meet_are_refused_with_both_bounds() -> None:
    here, there = grid(10, 30, 30), grid(20, 30, 30, east=999000)
    parts = [ArraySource(noise(here), here, names=("a",)), ArraySource(noise(there), there, names=("b",))]
    with pytest.raises(GridError, match=r"999000.*399000"):
        bring_together(parts, ("a", "b"))


def test_same_grid_forgives_float_noise_only() -> None:
    one = grid(10, 100, 200)
    assert same_grid(one, GeoBox((100, 200), Affine(10 + 1e-9, 0, 399000.0001, 0, -10, 5300000), "EPSG:32633"))
    assert not same_grid(one, crop_geobox(one, Window(row_off=0, col_off=1, height=100, width=200)))
    assert not same_grid(one, GeoBox((100, 200), Affine(10.01, 0, 399000, 0, -10, 5300000), "EPSG:32633"))
    assert not same_grid(one, grid(10, 100, 200, "EPSG:32632"))
    assert not same_grid(one, grid(10, 100, 201))


def test_overlap_counts_pixels() -> None:
    one = grid(10, 100, 100)
    assert overlaps(one, target_grid(one, crs="EPSG:3035"))
    assert not overlaps(one, grid(10, 100, 100, east=500000))


@settings(max_examples=50)
@given(
    east=st.integers(-30, 30),
    south=st.integers(-30, 30),
    angle=st.sampled_from([0, 30, 180]),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_grids_of_one_crs_overlap_where_their_outlines_do(
    east: int, south: int, angle: float, shape: tuple[int, int]
) -> None:
    one = GeoBox((12, 15), Affine(10, 0, 399000, 0, -10, 5300000), "EPSG:32633")
    moved = Affine(10, 0, 399000 + 7 * east, 0, -10, 5300000 - 7 * south) @ Affine.rotation(angle)
    other = GeoBox(shape, moved, "EPSG:32633")
    assert overlaps(one, other) == (one.extent.geom.intersection(other.extent.geom).area > 1e-6)
