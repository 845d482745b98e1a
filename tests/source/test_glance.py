"""A glance: the nearest pixels of a scene, whatever it is made of, at the cost of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy

from geoseg.protocols import Source
from geoseg.source import glance as module
from geoseg.source import open_scene
from geoseg.source.glance import Glance, glance
from geoseg.source.maps import ShiftedSource, on_grid
from geoseg.source.mask import masked
from geoseg.source.pair import PairSource
from geoseg.source.raster import RasterSource
from geoseg.source.warp import JoinedSource, WarpedSource
from geoseg.testing.conformance import SourceConformance
from geoseg.testing.server import range_server
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, crop_geobox, whole
from tests.source.rasters import source_of
from tests.source.sources import ArraySource, write_raster

PLACE = GeoBox((300, 400), Affine(10, 0, 500_000, 0, -10, 5_300_000), "EPSG:32633")


def ramp(rows: int = 300, cols: int = 400) -> npt.NDArray[np.uint16]:
    """Numbers that tell their own row (first band) and column (second band), from 1 on."""
    return np.stack(np.meshgrid(np.arange(1, rows + 1), np.arange(1, cols + 1), indexing="ij")).astype(np.uint16)


def in_memory(values: npt.NDArray[Any] | None = None, geobox: GeoBox = PLACE, **extra: Any) -> ArraySource:
    return ArraySource(ramp() if values is None else values, geobox, **extra)


def check_nearest(seen: Glance, source: Source, window: Window | None = None, *, tolerance: float = 0.5) -> None:
    """Each pixel shows the row and the column in which its centre lies, to within a part of a picture's pixel."""
    window = window or whole(source.geobox)
    height, width = whole(seen.geobox).shape
    steps = window.height / height, window.width / width
    rows = (np.arange(height) + 0.5) * steps[0] + window.row_off + 0.5
    cols = (np.arange(width) + 0.5) * steps[1] + window.col_off + 0.5
    off_rows = np.abs(seen.pixels[0] - rows[:, None])[seen.valid]
    off_cols = np.abs(seen.pixels[1] - cols)[seen.valid]
    assert off_rows.max(initial=0) <= tolerance * max(1, steps[0]) + 0.5
    assert off_cols.max(initial=0) <= tolerance * max(1, steps[1]) + 0.5
    corners = [(0, 0), (width, height)]
    places = [seen.geobox.transform @ corner for corner in corners]
    part = crop_geobox(source.geobox, window)
    np.testing.assert_allclose(places, [part.transform @ corner for corner in [(0, 0), (window.width, window.height)]])


class TestGlance(SourceConformance):
    def make(self) -> Source:
        return glance(in_memory(valid=ramp()[0] % 7 > 0), 100)


@given(
    side=st.integers(1, 500),
    row=st.integers(-50, 290),
    col=st.integers(-50, 390),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
def test_any_window_of_any_source_at_any_size(side: int, row: int, col: int, height: int, width: int) -> None:
    source = in_memory()
    window = Window(row_off=row, col_off=col, height=height, width=width)
    seen = glance(source, side, window)
    assert max(seen.valid.shape) == min(side, max(height, width))
    check_nearest(seen, source, window, tolerance=0)
    if window in whole(PLACE):
        assert seen.valid.all()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Tiles of 64 pixels, no overviews."""
    return write_raster(tmp_path / "scene.tif", ramp(), PLACE, tiled=True, blockxsize=64, blockysize=64, nodata=0)


@pytest.mark.parametrize("side", [1, 7, 100, 150, 399, 400, 1000])
def test_of_a_file_the_nearest_pixels(file: Path, side: int) -> None:
    source = source_of(file)
    seen = glance(source, side)
    assert seen.valid.all()
    assert seen.pixels.dtype == np.uint16
    check_nearest(seen, source, tolerance=0.5)
    if side >= 400:
        np.testing.assert_array_equal(seen.pixels, ramp())


@given(row=st.integers(-50, 290), col=st.integers(-50, 390), side=st.integers(1, 200))
def test_of_a_file_a_window_that_may_reach_beyond_it(
    tmp_path_factory: pytest.TempPathFactory, row: int, col: int, side: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "window.tif"
    if not path.exists():
        write_raster(path, ramp(), PLACE, nodata=0)
    window = Window(row_off=row, col_off=col, height=220, width=330)
    source = source_of(path)
    seen = glance(source, side, window)
    check_nearest(seen, source, window, tolerance=1)
    inside = (window & whole(PLACE)).size / window.size
    assert seen.valid.mean() == pytest.approx(inside, abs=2 / side)


def test_overviews_are_read_where_there_are_some(file: Path) -> None:
    with rasterio.open(file, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.nearest)
        dataset.write(np.full((2, 300, 400), 9999, np.uint16))  # from now on base and overviews differ
    with rasterio.open(file, OVERVIEW_LEVEL=1) as overview:
        coarse = overview.read()
    seen = glance(source_of(file), 100)
    np.testing.assert_array_equal(seen.pixels, coarse)
    assert seen.pixels.max() <= 400


def test_a_file_is_read_in_one_call(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[tuple[Window, tuple[int, int]]] = []
    thinned = RasterSource.thinned

    def spy(self: RasterSource, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Valid]:
        windows.append((window, shape))
        return thinned(self, window, shape)

    monkeypatch.setattr(RasterSource, "thinned", spy)
    monkeypatch.setattr(RasterSource, "read", None)
    glance(source_of(file), 100)
    assert windows == [(whole(PLACE), (75, 100))]


def test_of_a_file_far_away_only_an_overview_is_fetched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 60_000, (1, 2000, 2000), np.uint16)
    place = GeoBox((2000, 2000), PLACE.transform, PLACE.crs)
    path = tmp_path / "far.tif"
    copy(write_raster(tmp_path / "plain.tif", noise, place), path, driver="COG", blocksize=256)
    with range_server({"/far.tif": path.read_bytes()}) as server:
        source = source_of(f"{server.url}/far.tif")
        seen = glance(source, 250)
        fetched = sum(stop - start for start, stop in server.ranges("/far.tif"))
        source.close()
    np.testing.assert_array_equal(seen.pixels, glance(source_of(path), 250).pixels)
    assert fetched < 0.1 * path.stat().st_size


@pytest.mark.parametrize("kind", ["nodata", "nan", "mask", "alpha"])
def test_what_is_not_usable_is_not_valid(tmp_path: Path, kind: str) -> None:
    values, hole = ramp().astype("float32"), np.zeros((300, 400), bool)
    hole[100:200, 40:240] = True
    extra: dict[str, Any] = {}
    if kind == "nodata":
        values[0][hole], extra["nodata"] = -99, -99
    if kind == "nan":
        values[1][hole] = np.nan
    if kind == "alpha":
        values = np.concatenate([values, np.where(hole, 0, 255)[None].astype("float32")])
    path = write_raster(tmp_path / "hole.tif", values, PLACE, **extra)
    with rasterio.open(path, "r+") as dataset:
        if kind == "mask":
            dataset.write_mask(~hole)
        if kind == "alpha":
            dataset.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    seen = glance(source_of(path), 100)
    expected = ~hole[2::4, 2::4]
    np.testing.assert_array_equal(seen.valid, expected)


def test_masks_joins_shifts_and_warps_are_followed_to_their_files(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scene behind each of them looks the same, and nothing is read at full size."""
    plain = source_of(file)
    covered = np.zeros((1, 300, 400), np.uint8)
    covered[0, :, 200:] = 1
    mask = source_of(write_raster(file.parent / "mask.tif", covered, PLACE))
    moved = crop_geobox(PLACE, Window(row_off=40, col_off=-60, height=200, width=300))
    turned = GeoBox.from_bbox(PLACE.boundingbox.to_crs("EPSG:3035"), "EPSG:3035", resolution=10)
    monkeypatch.setattr(RasterSource, "read", None)

    halves = masked(plain, mask)
    seen = glance(halves, 100)
    assert seen.valid[:, :50].all()
    assert not seen.valid[:, 50:].any()
    check_nearest(seen, plain)

    both = JoinedSource((halves,), ("2", "1"))
    np.testing.assert_array_equal(glance(both, 100).pixels, seen.pixels[::-1])

    shifted = on_grid(plain, moved)
    assert isinstance(shifted, ShiftedSource)
    seen = glance(shifted, 100)
    check_nearest(seen, plain, Window(row_off=40, col_off=-60, height=200, width=300), tolerance=1)
    assert seen.valid.mean() == pytest.approx(240 / 300, abs=0.02)

    warped = WarpedSource(plain, turned)
    seen = glance(warped, 100)
    ys, xs = np.nonzero(seen.valid)
    centres = [seen.geobox.transform @ (x + 0.5, y + 0.5) for x, y in zip(xs, ys, strict=True)]
    places = Transformer.from_crs(3035, 32633, always_xy=True).transform(*np.array(centres).T)
    rows, cols = (5_300_000 - places[1]) / 10, (places[0] - 500_000) / 10
    coarse = seen.geobox.resolution.x / 10
    assert np.abs(seen.pixels[0][seen.valid] - 0.5 - rows).max() <= 1.1 * coarse + 1
    assert np.abs(seen.pixels[1][seen.valid] - 0.5 - cols).max() <= 1.1 * coarse + 1
    assert seen.valid.mean() == pytest.approx(
        PLACE.shape[0] * PLACE.shape[1] / turned.shape[0] / turned.shape[1], abs=0.05
    )


def test_of_a_pair_both_dates(file: Path) -> None:
    before = source_of(file)
    after = in_memory(ramp() + 1000, valid=ramp()[1] <= 200, names=before.bands.names)
    seen = glance(PairSource(before, after), 100)
    assert seen.bands.names == ("before.1", "before.2", "after.1", "after.2")
    np.testing.assert_array_equal(seen.pixels[2:, :, :50], seen.pixels[:2, :, :50] + 1000)
    assert seen.valid[:, :50].all()
    assert not seen.valid[:, 50:].any()


def test_a_scene_as_users_open_it(tmp_path: Path) -> None:
    """Bands of 10 and 20 m from two files, in another CRS, under a mask of its own grid."""
    fine = write_raster(tmp_path / "red.tif", ramp()[:1], PLACE)
    half = GeoBox((150, 200), PLACE.transform @ Affine.scale(2), PLACE.crs)
    coarse = write_raster(tmp_path / "nir.tif", ramp(150, 200)[1:], half)
    clouds = np.zeros((1, 75, 100), np.uint8)
    clouds[0, :, :50] = 1
    mask = write_raster(
        tmp_path / "clouds.tif", clouds, GeoBox((75, 100), PLACE.transform @ Affine.scale(4), PLACE.crs)
    )
    scene = open_scene(
        None, bands=("red", "nir"), band_map={"red": str(fine), "nir": str(coarse)}, mask=str(mask), crs="EPSG:3857"
    )
    seen = glance(scene.source, 120)
    pixels, valid = scene.source.read(whole(scene.geobox))
    rows, cols = (
        ((np.arange(small) + 0.5) * large / small).astype(int)
        for small, large in zip(seen.valid.shape, valid.shape, strict=True)
    )
    assert (seen.valid == valid[np.ix_(rows, cols)]).mean() > 0.97
    both = seen.valid & valid[np.ix_(rows, cols)]
    difference = np.abs(seen.pixels.astype(float) - pixels[:, rows][:, :, cols])[:, both]
    assert difference.max() <= 1.5 * valid.shape[0] / seen.valid.shape[0] + 1


class Fragile(ArraySource):
    """Fails for windows that touch the columns from 2000 on."""

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        if window.col_stop > 2000:
            raise RuntimeError("a stranger's words")
        return super().read(window)


def test_what_cannot_be_read_is_not_valid() -> None:
    place = GeoBox((100, 4000), PLACE.transform, PLACE.crs)
    source = Fragile(ramp(100, 4000), place)
    for side in (400, 4000):
        seen = glance(source, side)
        assert seen.valid[:, : side // 4].all()
        assert not seen.valid[:, side // 2 :].any()
        check_nearest(seen, source, tolerance=0)


def test_a_source_that_is_gone_is_not_asked_again_and_again() -> None:
    asked: list[Window] = []

    class Gone(ArraySource):
        def read(self, window: Window) -> tuple[Pixels, Valid]:
            asked.append(window)
            raise OSError("no answer")

    seen = glance(Gone(ramp(10, 10), GeoBox((20_000, 20_000), PLACE.transform, PLACE.crs)), 100)
    assert not seen.valid.any()
    assert len(asked) <= 2 * module._MOST_FAILURES


def test_a_bad_block_hides_no_more_than_its_window(tmp_path: Path) -> None:
    place = GeoBox((1100, 2100), PLACE.transform, PLACE.crs)
    path = write_raster(tmp_path / "bad.tif", ramp(1100, 2100), place, tiled=True, compress="deflate")
    with rasterio.open(path) as dataset:
        tag = {what: int(dataset.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")}
    content = bytearray(path.read_bytes())
    content[tag["OFFSET"] : tag["OFFSET"] + tag["SIZE"]] = b"\xff" * tag["SIZE"]
    source = source_of(path)
    assert glance(source, 200).valid.all()
    path.write_bytes(content)
    seen = glance(source_of(path), 200)
    assert not seen.valid[:10, :10].any()
    assert seen.valid[:, 100:].all()


def test_a_scene_that_is_gone_is_not_valid(file: Path) -> None:
    source = source_of(file)
    file.unlink()
    seen = glance(source, 100)
    assert seen.pixels.shape == (2, 75, 100)
    assert not seen.valid.any()


def test_of_a_huge_source_of_another_kind_only_points_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 16)
    monkeypatch.setattr(module, "_MOST_PIECES", 50)
    source = in_memory()
    seen = glance(source, 200)
    assert sum(window.size for window in source.reads) == len(source.reads) <= 50 * 1.2
    check_nearest(seen, source, tolerance=50)
    assert seen.valid.all()
    assert len(np.unique(seen.pixels[0])) >= 5
