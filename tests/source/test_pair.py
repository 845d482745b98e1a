"""Pairs: differing grids are refused or brought together, values are as in a warp of the whole, validity is joint."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from geoseg.errors import BandError, GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.source import open_scene
from geoseg.source.grids import same_grid, target_grid
from geoseg.source.maps import ShiftedSource
from geoseg.source.mask import masked
from geoseg.source.pair import PairSource, differences, pair_of
from geoseg.source.projection import Points, to_world
from geoseg.source.warp import JoinedSource, WarpedSource, bring_together
from geoseg.testing.conformance import SourceConformance
from geoseg.types import Valid
from geoseg.window import GeoBox, Window, whole
from tests.source.sources import ArraySource, write_raster

GRID = GeoBox((240, 300), Affine(10, 0, 699000, 0, -10, 5300000), "EPSG:32632")
NEXT_ZONE = target_grid(GRID, 10, "EPSG:32633")
NAMES = ("red", "nir")


def moved(rows: float, cols: float, shape: tuple[int, int] = (240, 300), grid: GeoBox = GRID) -> GeoBox:
    return GeoBox(shape, grid.transform @ Affine.translation(cols, rows), grid.crs)


def source_on(grid: GeoBox, seed: int = 0, dtype: str = "uint16", holes: float = 0.02) -> ArraySource:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9999, (2, *grid.shape)).astype(dtype)
    return ArraySource(values, grid, rng.random(grid.shape) > holes, NAMES)


def scene_of(source: Source, name: str = "scene", **extra: Any) -> Scene[Source]:
    return Scene(id=name, source=source, geobox=source.geobox, bands=source.bands, **extra)


def pair_on(before: GeoBox, after: GeoBox, align: str | Path | None = None) -> Scene[PairSource]:
    return pair_of(scene_of(source_on(before, 1), "one"), scene_of(source_on(after, 2), "two"), align=align)


class TestPairSource(SourceConformance):
    def make(self) -> Source:
        return PairSource(source_on(GRID, 1), source_on(GRID, 2, "float32"))


class TestPairOfTwoZones(SourceConformance):
    def make(self) -> Source:
        return pair_on(GRID, NEXT_ZONE, "before").source


class TestPairOnItsPart(SourceConformance):
    def make(self) -> Source:
        part = moved(30, 40, (100, 120))
        return pair_of(scene_of(source_on(part, 1)), scene_of(source_on(GRID, 2)), align="before").source


def test_bands_are_named_with_their_dates_and_keep_what_they_declare(tmp_path: Path) -> None:
    one = np.arange(2 * 16 * 16).reshape(2, 16, 16).astype("uint16")
    other = one[::-1].astype("float32") * 1e-4
    grid = moved(0, 0, (16, 16))
    write_raster(tmp_path / "before.tif", one, grid, descriptions=NAMES, nodata=5, scales=(1e-4, 1e-4))
    write_raster(tmp_path / "after.tif", other, grid, descriptions=NAMES[::-1], nodata=-1)
    before, after = (open_scene(tmp_path / f"{date}.tif", bands=NAMES) for date in ("before", "after"))
    pair = pair_of(before, after)
    assert pair.bands == pair.source.bands
    assert pair.bands.names == ("before.red", "before.nir", "after.red", "after.nir")
    assert [band.dtype for band in pair.bands] == ["uint16", "uint16", "float32", "float32"]
    assert [band.nodata for band in pair.bands] == [5, 5, -1, -1]
    assert [band.scaling for band in pair.bands] == [band.scaling for band in (*before.bands, *after.bands)]
    pixels, valid = pair.source.read(whole(grid))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, np.concatenate([one, other[::-1]]))
    np.testing.assert_array_equal(valid, one[0] != 5)
    assert set(pair.source.identity()) == {str(tmp_path / "before.tif"), str(tmp_path / "after.tif")}


def test_the_scene_tells_of_both() -> None:
    when = datetime(2024, 6, 1, tzinfo=UTC)
    before = scene_of(source_on(GRID, 1), "one", href="one.tif")
    after = scene_of(source_on(GRID, 2), "two", href="two.tif", datetime=when, datetime_source="item")
    pair = pair_of(before, after)
    assert pair.id == "one--two"
    assert (pair.datetime, pair.datetime_source, pair.href) == (when, "item", "two.tif")
    assert pair.dates == (before, after)
    assert pair.geobox == GRID


def test_what_either_date_misses_is_not_valid() -> None:
    before, after = source_on(GRID, 1, holes=0.3), source_on(GRID, 2, holes=0.3)
    _, valid = PairSource(before, after).read(whole(GRID))
    np.testing.assert_array_equal(valid, before.valid & after.valid)


def test_bands_are_told_by_name() -> None:
    before, after = source_on(GRID, 1), source_on(GRID, 2)
    swapped = ArraySource(after.values[::-1], GRID, after.valid, NAMES[::-1])
    for grid in (GRID, moved(0.5, 0.5)):
        there = ArraySource(swapped.values, grid, swapped.valid, swapped.names)
        straight = ArraySource(after.values, grid, after.valid, after.names)
        one, other = (pair_of(scene_of(before), scene_of(each), align="before") for each in (straight, there))
        assert one.bands.names == other.bands.names
        np.testing.assert_array_equal(one.source.read(whole(GRID))[0], other.source.read(whole(GRID))[0])


def test_other_bands_are_refused() -> None:
    other = ArraySource(source_on(GRID).values, GRID, names=("red", "swir16"))
    with pytest.raises(BandError, match=r"red, nir.*red, swir16"):
        pair_of(scene_of(source_on(GRID)), scene_of(other))


def test_a_pair_of_two_grids_is_refused() -> None:
    with pytest.raises(GridError, match=r"0\.5 columns"):
        PairSource(source_on(GRID), source_on(moved(0, 0.5)))


def test_arrays_of_one_name_pin_both_contents_in_order() -> None:
    class Named(ArraySource):
        def identity(self) -> dict[str, str]:
            return {"array:scene": str(self.values.sum())}

    one, other = (Named(source_on(GRID, seed).values, GRID, names=NAMES) for seed in (1, 2))
    identities = [PairSource(*dates).identity() for dates in [(one, one), (one, other), (other, one), (other, other)]]
    assert len({identity["array:scene"] for identity in identities}) == 4
    assert identities[0] == one.identity()


# --- differences -----------------------------------------------------------------------------------------------------


@given(
    rows=st.floats(-0.5, 0.5),
    cols=st.floats(-0.5, 0.5),
    down=st.integers(-50, 50),
    right=st.integers(-50, 50),
    grown=st.sampled_from([0, 0, 7]),
)
def test_differences_are_those_of_the_grids(rows: float, cols: float, down: int, right: int, grown: int) -> None:
    other = moved(rows + down, cols + right, (240 + grown, 300))
    lines = differences(scene_of(source_on(GRID)), scene_of(ArraySource(np.zeros((2, *other.shape)), other)))
    off = max(abs(rows), abs(cols))
    if abs(off - 0.01) > 1e-6:
        assert any(line.startswith("grid origin") for line in lines) == (off > 0.01)
        assert (not lines) == same_grid(GRID, other)
    if off < 0.49:
        assert any(line.startswith("extent") for line in lines) == bool(down or right or grown)
    assert not any(line.startswith(("CRS", "pixel size")) for line in lines)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (GRID, []),
        (moved(0.009, -0.009), []),
        (moved(0.5, 0), [r"grid origin: after begins 0\.5 rows and 0 columns from a pixel of before"]),
        (moved(3, 4), [r"extent: 240 rows x 300 columns within 699000, 5297600.* before, 240 rows .*699040"]),
        (moved(0, 0, (120, 300)), [r"extent: 240 rows .* before, 120 rows .* after"]),
        (
            GeoBox((120, 150), Affine(20, 0, 699000, 0, -20, 5300000), GRID.crs),
            [r"pixel size: 10 x 10 before, 20 x 20 after", r"extent: 240 rows .*120 rows x 150 columns"],
        ),
        (GeoBox((240, 300), Affine(10.001, 0, 699000, 0, -10, 5300000), GRID.crs), [r"10 x 10 before, 10\.001 x 10"]),
        (GeoBox((240, 300), Affine(10, 0, 699000, 0, 10, 5297600), GRID.crs), [r"rotated or flipped", "extent"]),
        (NEXT_ZONE, [r"CRS: WGS 84 / UTM zone 32N before, WGS 84 / UTM zone 33N after", "extent"]),
    ],
)
def test_each_difference_is_a_line_with_its_numbers(other: GeoBox, found: list[str]) -> None:
    before, after = (scene_of(ArraySource(np.zeros((2, *each.shape)), each)) for each in (GRID, other))
    lines = differences(before, after)
    assert len(lines) == len(found)
    for line, pattern in zip(lines, found, strict=True):
        assert re.search(pattern, line)
    if lines:
        with pytest.raises(GridError, match="--align before") as caught:
            pair_of(before, after)
        assert all(line in str(caught.value) for line in lines)


def test_a_crs_of_the_same_meaning_is_no_difference() -> None:
    spelt = GeoBox(GRID.shape, GRID.transform, CRS.from_epsg(32632).to_wkt())
    assert differences(scene_of(source_on(GRID)), scene_of(source_on(spelt))) == []


@pytest.mark.parametrize("align", [None, "before", "after"])
@pytest.mark.parametrize("other", [moved(500, 0), target_grid(moved(900, 900), 10, "EPSG:32633")])
def test_dates_that_do_not_touch_are_refused_with_both_bounds(align: str | None, other: GeoBox) -> None:
    with pytest.raises(GridError, match=r"before \(699000, .*UTM zone 32N\) .*after \(.*UTM zone 3[23]N\)"):
        pair_on(GRID, other, align)


def test_a_grid_that_a_date_does_not_touch_is_refused(tmp_path: Path) -> None:
    far = moved(900, 900, (8, 8))
    path = write_raster(tmp_path / "grid.tif", np.zeros((1, 8, 8), "uint8"), far)
    with pytest.raises(GridError, match=r"before \(699000, .*the grid to align to \(708000, "):
        pair_on(GRID, GRID, path)


def test_a_grid_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        pair_on(GRID, GRID, tmp_path / "nowhere.tif")


# --- on one grid -----------------------------------------------------------------------------------------------------


@given(down=st.integers(-100, 100), right=st.integers(-100, 100), align=st.sampled_from(["before", "after"]))
@settings(max_examples=20)
def test_a_shift_by_whole_pixels_is_exact(down: int, right: int, align: str) -> None:
    before, after = source_on(GRID, 1), source_on(moved(down, right, (220, 310)), 2)
    pair = pair_of(scene_of(before), scene_of(after), align=align)
    on_before = align == "before"
    assert pair.geobox == (before if on_before else after).geobox
    pixels, valid = pair.source.read(whole(pair.geobox))
    canvas = np.zeros((2, 2, 460, 530), "uint16")
    usable = np.zeros((2, 460, 530), bool)
    for date, (source, row, col) in enumerate([(before, 0, 0), (after, down, right)]):
        place = (
            slice(row + 100, row + 100 + source.geobox.shape[0]),
            slice(col + 100, col + 100 + source.geobox.shape[1]),
        )
        canvas[date][:, *place], usable[date][place] = source.values, source.valid
    row, col = (100, 100) if on_before else (100 + down, 100 + right)
    part = slice(row, row + pair.geobox.shape[0]), slice(col, col + pair.geobox.shape[1])
    np.testing.assert_array_equal(valid, (usable[0] & usable[1])[part])
    np.testing.assert_array_equal(pixels[:, valid], canvas.reshape(4, 460, 530)[:, *part][:, valid])


def test_the_grid_of_a_raster_is_taken(tmp_path: Path) -> None:
    grid = moved(20, 30, (100, 110))
    path = write_raster(tmp_path / "grid.tif", np.zeros((1, *grid.shape), "uint8"), grid)
    before, after = source_on(GRID, 1), source_on(moved(7, 5), 2)
    pair = pair_of(scene_of(before), scene_of(after), align=path)
    assert same_grid(pair.geobox, grid)
    pixels, valid = pair.source.read(whole(grid))
    np.testing.assert_array_equal(pixels[:2], before.values[:, 20:120, 30:140])
    np.testing.assert_array_equal(pixels[2:], after.values[:, 13:113, 25:135])
    np.testing.assert_array_equal(valid, before.valid[20:120, 30:140] & after.valid[13:113, 25:135])


def test_half_a_pixel_mixes_four() -> None:
    before, after = source_on(GRID, 1, holes=0), source_on(moved(-0.5, -0.5), 2)
    pixels, valid = pair_of(scene_of(before), scene_of(after), align="before").source.read(whole(GRID))
    four = [after.values[:, r : 239 + r, c : 299 + c] for r in (0, 1) for c in (0, 1)]
    usable: Valid = np.asarray(np.all([after.valid[r : 239 + r, c : 299 + c] for r in (0, 1) for c in (0, 1)], axis=0))
    np.testing.assert_array_equal(valid[:-1, :-1], usable)
    error = np.abs(pixels[2:, :-1, :-1] - np.mean(four, axis=0))[:, usable]
    assert error.max() <= 0.5
    np.testing.assert_array_equal(pixels[:2], before.values)


def whole_warp(source: ArraySource, grid: GeoBox) -> tuple[npt.NDArray[np.float64], Valid]:
    """What GDAL makes of the whole scene at once; a number counts where every pixel that it mixes is usable.

    A WarpedVRT, for `rasterio.warp.reproject` approximates the projection whatever tolerance it is given.
    """
    stack = np.concatenate([np.where(source.valid, source.values, 0), source.valid[None]]).astype("float64")
    crs = CRS.from_user_input(str(source.geobox.crs))
    shape = {"count": len(stack), "height": stack.shape[1], "width": stack.shape[2], "dtype": "float64"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=source.geobox.transform, **shape) as plain:
            plain.write(stack)
        with (
            memory.open() as plain,
            WarpedVRT(
                plain,
                crs=CRS.from_user_input(str(grid.crs)),
                transform=grid.transform,
                height=grid.shape[0],
                width=grid.shape[1],
                resampling=Resampling.bilinear,
                tolerance=1e-6,
                XSCALE="1",  # GDAL would guess the kernel's width from the outlines, which are turned
                YSCALE="1",
            ) as warped,
        ):
            values = warped.read()
    return values[:-1], values[-1] > 1 - 1e-4


@pytest.mark.parametrize("align", ["before", "after"])
def test_two_zones_equal_a_warp_of_the_whole_scene(align: str) -> None:
    before, after = source_on(GRID, 1), source_on(NEXT_ZONE, 2)
    pair = pair_of(scene_of(before), scene_of(after), align=align)
    pixels, valid = pair.source.read(whole(pair.geobox))
    other, stays = (after, before) if align == "before" else (before, after)
    warped, usable = whole_warp(other, pair.geobox)
    kept = pixels[:2] if align == "before" else pixels[2:]
    np.testing.assert_array_equal(kept, stays.values)
    assert (valid != (usable & stays.valid)).mean() < 1e-4
    both = valid & usable
    assert both.mean() > 0.5
    brought = pixels[2:] if align == "before" else pixels[:2]
    assert np.abs(brought - warped)[:, both].max() <= 2  # of 9999: stored numbers are rounded


def places(grid: GeoBox) -> Points:
    """Longitude and latitude of every pixel's centre."""
    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    world = to_world(np.column_stack([cols.ravel(), rows.ravel()]), grid)
    transformer = Transformer.from_crs(str(grid.crs), "EPSG:4326", always_xy=True)
    return np.column_stack(transformer.transform(*world.T))


def ground(grid: GeoBox) -> npt.NDArray[np.float64]:
    """A smooth function of the place on the Earth, the same in any grid."""
    lon, lat = places(grid).T
    return np.stack([np.sin(900 * lon) + np.cos(800 * lat), np.sin(700 * (lon + lat))]).reshape(2, *grid.shape)


@pytest.mark.parametrize("other", [NEXT_ZONE, moved(0.5, 0.5), moved(-11.3, 7.8, (250, 280))])
def test_both_dates_show_the_same_place(other: GeoBox) -> None:
    before, after = ArraySource(ground(GRID), GRID, names=NAMES), ArraySource(ground(other), other, names=NAMES)
    pixels, valid = pair_of(scene_of(before), scene_of(after), align="before").source.read(whole(GRID))
    assert valid.mean() > 0.5
    inner = sliding_window_view(valid, (5, 5)).all((2, 3))  # along the rim only what lies inside is mixed
    assert np.abs(pixels[2:] - pixels[:2])[:, 2:-2, 2:-2][:, inner].max() < 0.01  # half a pixel is 0.06


ZONES = {align: pair_on(GRID, NEXT_ZONE, align).source for align in ("before", "after")}
ALL = {align: source.read(whole(source.geobox)) for align, source in ZONES.items()}


@settings(max_examples=25)
@given(
    align=st.sampled_from(["before", "after"]),
    row=st.integers(-30, 250),
    col=st.integers(-30, 310),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
)
def test_a_pixel_is_the_same_in_any_window(align: str, row: int, col: int, height: int, width: int) -> None:
    source = pair_on(GRID, NEXT_ZONE, align).source
    window = Window(row_off=row, col_off=col, height=height, width=width)
    pixels, valid = source.read(window)
    inner = window & whole(source.geobox)
    place = inner.within(window).slices
    np.testing.assert_array_equal(valid[place], ALL[align][1][inner.slices])
    np.testing.assert_array_equal(pixels[:, *place][:, valid[place]], ALL[align][0][:, *inner.slices][:, valid[place]])
    valid[place] = False
    assert not valid.any()


# --- no more work than needed ----------------------------------------------------------------------------------------


def test_making_a_pair_reads_no_pixels() -> None:
    before, after = source_on(GRID, 1), source_on(NEXT_ZONE, 2)
    pair = pair_of(scene_of(before), scene_of(after), align="before")
    assert before.reads == after.reads == []
    pair.source.read(Window(row_off=0, col_off=0, height=8, width=8))
    assert len(before.reads) == len(after.reads) == 1


def test_a_pair_of_files_pickles_small_even_after_reading(tmp_path: Path) -> None:
    for name, grid in (("before", GRID), ("after", NEXT_ZONE)):
        write_raster(tmp_path / f"{name}.tif", source_on(grid).values, grid, descriptions=NAMES)
    dates = [open_scene(tmp_path / f"{name}.tif", bands=NAMES) for name in ("before", "after")]
    source = pair_of(*dates, align="before").source
    expected = source.read(whole(GRID))
    packed = pickle.dumps(source)
    assert len(packed) < 20_000
    copy: Source = pickle.loads(packed)
    for found, known in zip(copy.read(whole(GRID)), expected, strict=True):
        np.testing.assert_array_equal(found, known)


def warps(source: Any) -> int:
    """How often the pixels below a source are warped, at most."""
    inner = [getattr(source, name) for name in ("source", "before", "after") if hasattr(source, name)]
    depth = max((warps(each) for each in [*inner, *getattr(source, "sources", ())]), default=0)
    return depth + isinstance(source, WarpedSource)


def coarse_bands() -> JoinedSource:
    coarse = GeoBox((120, 150), Affine(20, 0, 699000, 0, -20, 5300000), GRID.crs)
    rng = np.random.default_rng(3)
    red = ArraySource(rng.integers(1, 9999, (1, 240, 300)).astype("uint16"), GRID, names=("red",))
    nir = ArraySource(rng.integers(1, 9999, (1, 120, 150)).astype("uint16"), coarse, names=("nir",))
    joined = bring_together((red, nir), NAMES)
    assert isinstance(joined, JoinedSource)
    return joined


def clouds(grid: GeoBox) -> ArraySource:
    rng = np.random.default_rng(4)
    return ArraySource((rng.random((1, *grid.shape)) > 0.98).astype("uint8") * 8, grid)


def test_what_is_warped_already_is_warped_once() -> None:
    native = source_on(GRID, 2)
    turned = WarpedSource(native, target_grid(GRID, 20))
    elsewhere = moved(0.4, 0.3)
    for after in (turned, coarse_bands(), masked(turned, clouds(turned.geobox)), masked(coarse_bands(), clouds(GRID))):
        pair = pair_of(scene_of(source_on(elsewhere, 1)), scene_of(after), align="before")
        assert warps(pair.source.after) == 1
    direct = pair_of(scene_of(source_on(elsewhere, 1)), scene_of(native), align="before")
    pair = pair_of(scene_of(source_on(elsewhere, 1)), scene_of(turned), align="before")
    for found, known in zip(pair.source.read(whole(elsewhere)), direct.source.read(whole(elsewhere)), strict=True):
        np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize(
    "mask_grid", [GRID, moved(0, 0, (80, 100), GeoBox((1, 1), Affine(30, 0, 699000, 0, -30, 5300000), GRID.crs))]
)
def test_a_masked_date_is_warped_with_its_mask(mask_grid: GeoBox) -> None:
    """Nothing of a cloud bleeds into a valid pixel, whatever the date's bands come from."""
    elsewhere = moved(0.5, 0.5, (200, 250))
    native, mask = source_on(GRID, 2, holes=0), clouds(mask_grid)
    free = masked(native, mask, (8,)).read(whole(GRID))[1]
    expected = np.all([free[r : 200 + r, c : 250 + c] for r in (0, 1) for c in (0, 1)], axis=0)
    turned = WarpedSource(native, target_grid(GRID, 20))
    joined = JoinedSource((native,), NAMES)
    for after in (native, turned, joined):
        pair = pair_of(scene_of(source_on(elsewhere, 1, holes=0)), scene_of(masked(after, mask, (8,))), align="before")
        np.testing.assert_array_equal(pair.source.read(whole(elsewhere))[1], expected)


def test_filled_blocks_of_both_are_counted() -> None:
    class Damaged(ArraySource):
        bad_blocks = 2

    before, after = (Damaged(source_on(GRID).values, GRID, names=NAMES) for _ in range(2))
    assert PairSource(before, ShiftedSource(source=after, geobox=GRID, rows=0, cols=0)).bad_blocks == 4


READ = """
import sys
import numpy as np
from affine import Affine
from geoseg.scene import Band, BandSet, Scene
from geoseg.source.grids import target_grid
from geoseg.source.pair import pair_of
from geoseg.window import GeoBox, whole

class Endless:
    block = 512, 512
    bands = BandSet(tuple(Band(name=name, dtype="uint16") for name in ("red", "nir")))
    def __init__(self, geobox):
        self.geobox = geobox
    def identity(self):
        return {"endless": "1"}
    def read(self, window):
        return np.full((2, *window.shape), window.row_off % 999, "uint16"), np.ones(window.shape, bool)

grid = GeoBox((int(sys.argv[1]), 1024), Affine(10, 0, 699000, 0, -10, 5300000), "EPSG:32632")
scenes = [
    Scene(id="scene", source=Endless(each), geobox=each, bands=Endless.bands)
    for each in (grid, target_grid(grid, 10, "EPSG:32633"))
]
pair = pair_of(*scenes, align="before")
seen = sum(int(pair.source.read(window)[1].sum()) for window in whole(grid).pieces(512, 1024))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(seen, int(peak.split()[1]) * 1024)
"""


def test_memory_does_not_know_how_large_the_dates_are() -> None:
    def run(rows: int) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", READ, str(rows)], capture_output=True, text=True, check=True)
        seen, peak = done.stdout.split()
        return int(seen), int(peak)

    (few, low), (many, high) = run(1024), run(8192)
    assert many > 7 * few > 7 * 900_000
    assert high - low < 20 << 20  # the pixels of the longer dates take 64 MB


def test_the_shared_pair_of_two_grids_is_brought_together(shared: Path) -> None:
    folder = shared / "data" / "naip_north_dakota"
    numbers = {"red": 1, "green": 2, "blue": 3, "nir": 4}
    before, after = (open_scene(path, bands=list(numbers), band_map=numbers) for path in sorted(folder.glob("*.tif")))
    with pytest.raises(GridError, match=r"0\.2 rows and 0\.2 columns.*724 rows.*723 rows.*--align"):
        pair_of(before, after)
    pair = pair_of(before, after, align="before")
    pixels, valid = pair.source.read(whole(pair.geobox))
    assert pixels.shape == (8, 724, 934)
    assert valid.mean() > 0.9
