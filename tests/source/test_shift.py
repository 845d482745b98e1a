"""Shifts between dates: recovered to a tenth of a pixel, never made up, and taken away by one warp."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.scene import Scene
from geoseg.source import open_scene
from geoseg.source.grids import target_grid
from geoseg.source.pair import PairSource, pair_of
from geoseg.source.shift import Shift, estimate_shift, registered
from geoseg.source.warp import WarpedSource
from geoseg.types import Valid
from geoseg.window import GeoBox, whole
from tests.source.sources import ArraySource

GRID = GeoBox((300, 320), Affine(10, 0, 699000, 0, -10, 5300000), "EPSG:32632")
NAMES = ("red", "nir")
Image = npt.NDArray[np.float64]


@functools.cache
def texture(seed: int, side: int = 1536) -> Image:
    """A periodic landscape whose amplitudes fall with frequency, as those of real ones do: two bands, in part alike."""
    rng = np.random.default_rng(seed)
    rows, cols = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)
    weight = 1 / np.maximum(np.hypot(rows, cols), 1 / side) ** 1.2
    bands = np.fft.ifft2(np.fft.fft2(rng.normal(size=(2, side, side))) * weight).real
    bands[1] = 0.6 * bands[1] - 0.4 * bands[0]
    return np.asarray(bands / bands.std((1, 2), keepdims=True))


def sampled(seed: int, row: float, col: float, shape: tuple[int, int] = (300, 320), fine: int = 4) -> Image:
    """What a sensor sees whose pixels average `fine` x `fine` points, from (row, col) of its own pixels on."""
    image = texture(seed)
    top, left = round((row + 8) * fine), round((col + 8) * fine)
    height, width = shape
    part = image[:, top : top + height * fine, left : left + width * fine]
    return np.asarray(part.reshape(2, height, fine, width, fine).mean((2, 4)))


def moved(image: Image, rows: float, cols: float) -> Image:
    """A periodic image with its content moved down and to the right, exactly."""
    height, width = image.shape[1:]
    turn = np.fft.fftfreq(height)[:, None] * rows + np.fft.fftfreq(width) * cols
    return np.asarray(np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * turn)).real)


def noisy(image: Image, seed: int, share: float = 0.1) -> Image:
    """With noise of 20 dB: its deviation is a tenth of the signal's."""
    rng = np.random.default_rng(seed)
    return np.asarray(image + rng.normal(size=image.shape) * share * image.std((1, 2), keepdims=True))


def pair(before: Image, after: Image, valid: Valid | None = None, grid: GeoBox | None = None) -> PairSource:
    """Both dates as stored numbers of different gain, offset and dtype."""
    place = grid or GeoBox(before.shape[1:], GRID.transform, GRID.crs)
    one = (before * 500 + 5000).round().astype("uint16")
    other = (after * 0.11 + 0.4).astype("float32")
    return PairSource(ArraySource(one, place, valid, NAMES), ArraySource(other, place, valid, NAMES))


def assert_near(shift: Shift | None, rows: float, cols: float, tolerance: float = 0.1) -> None:
    assert shift is not None
    assert abs(shift.rows - rows) <= tolerance
    assert abs(shift.cols - cols) <= tolerance


@settings(max_examples=15)
@given(rows=st.floats(-1.5, 1.5), cols=st.floats(-1.5, 1.5), seed=st.integers(0, 2))
def test_any_shift_is_recovered_at_20_db(rows: float, cols: float, seed: int) -> None:
    image = texture(seed)[:, ::3, ::3]
    before, after = noisy(image, 10), noisy(moved(image, rows, cols), 11)
    assert_near(estimate_shift(pair(before[:, :300, :320], after[:, :300, :320])), rows, cols)


@pytest.mark.parametrize("rows", [-0.75, -0.5, 0.25, 0.5, 1.25])
@pytest.mark.parametrize("cols", [0.0, 0.5])
def test_pixels_that_average_and_alias_mislead_it_little(rows: float, cols: float) -> None:
    before, after = noisy(sampled(0, 0, 0), 10), noisy(sampled(0, -rows, -cols), 11)
    shift = estimate_shift(pair(before, after))
    assert_near(shift, rows, cols)
    assert shift is not None
    assert shift.pixels == pytest.approx(np.hypot(shift.rows, shift.cols))
    assert shift.spread < 0.1
    assert shift.windows == shift.clear == 12


@pytest.mark.parametrize("shape", [(64, 70), (128, 200), (256, 140), (700, 330)])
def test_scenes_of_any_size_have_windows(shape: tuple[int, int]) -> None:
    image = texture(1)[:, ::2, ::2]
    height, width = shape
    before, after = noisy(image, 1), noisy(moved(image, 0.5, -0.5), 2)
    assert_near(estimate_shift(pair(before[:, :height, :width], after[:, :height, :width])), 0.5, -0.5)


def test_identical_dates_have_none() -> None:
    image = noisy(sampled(0, 0, 0), 1)
    shift = estimate_shift(pair(image, image))
    assert shift is not None
    assert (shift.rows, shift.cols, shift.spread) == (0, 0, 0)


def test_it_is_the_same_whatever_gain_and_offset() -> None:
    before, after = sampled(0, 0, 0), sampled(0, 0.5, 0)
    shifts = [estimate_shift(pair(before, after * gain + offset)) for gain, offset in [(1, 0), (7.5, -3), (0.2, 40)]]
    for shift in shifts:
        assert_near(shift, -0.5, 0, 0.06)
    assert len({(shift.rows, shift.cols) for shift in shifts if shift}) == 1


def flooded(image: Image) -> Image:
    after = image.copy()
    after[:, :, 130:] = (
        noisy(np.zeros_like(after[:, :, 130:]), 5)
        + np.random.default_rng(6).normal(size=after[:, :, 130:].shape) * 0.05
    )
    return after


def clouded(image: Image) -> Image:
    after = image.copy()
    after[:, 130:] = 4 + sampled(2, 3, 3)[:, 130:]
    return after


@pytest.mark.parametrize("change", [flooded, clouded])
@pytest.mark.parametrize("rows", [0.0, 0.5])
def test_ground_that_changed_moves_nothing(change: Any, rows: float) -> None:
    before, after = noisy(sampled(0, 0, 0), 1), noisy(change(sampled(0, -rows, 0)), 2)
    assert_near(estimate_shift(pair(before, after)), rows, 0)


def test_holes_that_both_dates_share_hold_nothing_still() -> None:
    holes = texture(2)[0, :300, :320] > 0.6
    valid = ~holes
    before, after = noisy(sampled(0, 0, 0), 1), noisy(sampled(0, -0.5, 0.5), 2)
    before[:, holes], after[:, holes] = 9, np.nan
    assert 0.2 < holes.mean() < 0.5
    assert_near(estimate_shift(pair(before, after, valid)), 0.5, -0.5)


def bent(image: Image) -> Image:
    """Content that every part of the scene moves elsewhere."""
    rows = np.clip(np.arange(300)[:, None] + np.linspace(-4, 4, 320), 0, 299)
    low = np.floor(rows).astype(int)
    share = rows - low
    cols = np.arange(320)
    return np.asarray(image[:, low, cols] * (1 - share) + image[:, np.minimum(low + 1, 299), cols] * share)


NOTHING = {
    "other ground": (sampled(0, 0, 0), sampled(2, 0, 0)),
    "flat": (np.ones((2, 300, 320)), np.ones((2, 300, 320))),
    "one date flat": (sampled(0, 0, 0), np.ones((2, 300, 320))),
    "noise": (
        noisy(np.zeros((2, 300, 320)) + texture(0)[:, :300, :320] * 1e-9, 1, 1e9),
        noisy(sampled(0, 0, 0), 2, 50),
    ),
    "bent": (sampled(0, 0, 0), bent(sampled(0, 0, 0))),
    "far off": (sampled(0, 0, 0), sampled(0, 7, 0)),
    "too small": (sampled(0, 0, 0, (60, 300)), sampled(0, 0, 0, (60, 300))),
}


@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_agrees_there_is_no_shift(name: str) -> None:
    assert estimate_shift(pair(*NOTHING[name])) is None


@pytest.mark.parametrize("seed", range(8))
def test_none_is_made_up_between_small_windows_of_other_ground(seed: int) -> None:
    one, other = texture(0)[:, seed * 80 :, :], texture(2)[:, :, seed * 80 :]
    assert estimate_shift(pair(one[:, :120, :120], other[:, :120, :120])) is None


def test_pixels_that_are_not_valid_say_nothing() -> None:
    image = sampled(0, 0, 0)
    assert estimate_shift(pair(image, image, np.zeros(image.shape[1:], bool))) is None


@pytest.mark.parametrize("shape", [(2000, 2100), (600, 6000), (5000, 512)])
@pytest.mark.parametrize("block", [64, 512])
def test_few_windows_are_read_always_the_same_all_over_the_scene(shape: tuple[int, int], block: int) -> None:
    class Blank(ArraySource):
        @property
        def block(self) -> tuple[int, int]:
            return block, block

    place = GeoBox(shape, GRID.transform, GRID.crs)
    seen = []
    for _ in range(2):
        source = Blank(np.ones((1, *shape), "uint8"), place)
        assert estimate_shift(PairSource(source, source)) is None
        seen.append(source.reads[::2])
    assert seen[0] == seen[1]
    assert 8 <= len(set(seen[0])) <= 32
    assert {window.shape for window in seen[0]} == {(256, 256)}
    assert all(window in whole(place) for window in seen[0])
    for stops, length in [([w.row_stop for w in seen[0]], shape[0]), ([w.col_stop for w in seen[0]], shape[1])]:
        assert min(stops) <= 512
        assert max(stops) >= length - 512
    if block == 512 and min(shape) > 2500:
        assert all(window.row_off // 512 == (window.row_stop - 1) // 512 for window in seen[0])


def test_fewer_windows_can_be_asked_for() -> None:
    source = ArraySource(np.ones((1, 2000, 2000), "uint8"), GeoBox((2000, 2000), GRID.transform, GRID.crs))
    estimate_shift(PairSource(source, source), windows=7)
    assert 1 <= len(source.reads) // 2 <= 7


# --- registration ----------------------------------------------------------------------------------------------------


def scene_of(values: Image, grid: GeoBox, valid: Valid | None = None) -> Scene[Any]:
    source = ArraySource(values, grid, valid, NAMES)
    return Scene(id="scene", source=source, geobox=grid, bands=source.bands)


def test_registration_takes_the_shift_away() -> None:
    before, after = sampled(0, 0, 0), sampled(0, -0.5, 0.75)
    pair = pair_of(scene_of(before, GRID), scene_of(after, GRID))
    shift = estimate_shift(pair.source)
    assert_near(shift, 0.5, -0.75, 0.05)
    assert shift is not None
    straight = registered(pair, shift)
    assert (straight.id, straight.geobox, straight.bands) == (pair.id, pair.geobox, pair.bands)
    assert_near(estimate_shift(straight.source), 0, 0, 0.05)
    pixels, valid = straight.source.read(whole(GRID))
    crooked, _ = pair.source.read(whole(GRID))
    np.testing.assert_array_equal(pixels[:2], before)
    assert np.abs(pixels[2:] - before)[:, valid].mean() < np.abs(crooked[2:] - before)[:, valid].mean() / 2


def test_whole_pixels_are_taken_away_exactly() -> None:
    image = sampled(0, 0, 0)
    after = np.roll(image, (2, -3), (1, 2))
    shift = Shift(rows=2, cols=-3, spread=0, windows=9, clear=9)
    pixels, valid = registered(pair_of(scene_of(image, GRID), scene_of(after, GRID)), shift).source.read(whole(GRID))
    expected = np.zeros(GRID.shape, bool)
    expected[:-2, 3:] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(pixels[2:, valid], image[:, valid])


def test_validity_moves_along_and_stays_exact() -> None:
    image = sampled(0, 0, 0)
    valid = np.random.default_rng(0).random(GRID.shape) > 0.05
    pair = pair_of(scene_of(image, GRID), scene_of(image, GRID, valid))
    shift = Shift(rows=0.5, cols=0, spread=0, windows=9, clear=9)
    _, usable = registered(pair, shift).source.read(whole(GRID))
    np.testing.assert_array_equal(usable[:-1], valid[:-1] & valid[1:])


def test_what_is_aligned_is_warped_once_from_its_own_pixels() -> None:
    zone = target_grid(GRID, 10, "EPSG:32633")
    before = scene_of(sampled(0, 0, 0), GRID)
    after = scene_of(np.random.default_rng(0).random((2, *zone.shape)), zone)
    pair = pair_of(before, after, align="before")
    shift = Shift(rows=0.3, cols=-0.4, spread=0, windows=9, clear=9)
    for scene in (registered(pair, shift), registered(registered(pair, shift), shift)):
        content: Any = scene.source.after
        assert isinstance(content.source, WarpedSource)
        assert content.source.source is after.source
        moved_grid = GeoBox(GRID.shape, GRID.transform @ Affine.translation(-0.4, 0.3), GRID.crs)
        expected, usable = WarpedSource(after.source, moved_grid).read(whole(GRID))
        pixels, valid = scene.source.read(whole(GRID))
        np.testing.assert_array_equal(pixels[2:], expected)
        np.testing.assert_array_equal(valid, usable)


def test_a_scene_whose_place_is_declared_half_a_pixel_off_is_found_out() -> None:
    """The other date lies on another grid, and its content is not where the grid says."""
    other = GeoBox(GRID.shape, GRID.transform @ Affine.translation(0.25, 0.5), GRID.crs)
    before, after = noisy(sampled(0, 0, 0), 1), noisy(sampled(0, 0.5 - 0.5, 0.25 + 0.5), 2)
    pair = pair_of(scene_of(before, GRID), scene_of(after, other), align="before")
    shift = estimate_shift(pair.source)
    assert_near(shift, 0.5, -0.5)
    assert shift is not None
    assert_near(estimate_shift(registered(pair, shift).source), 0, 0)


def test_the_shared_pairs_register(shared: Path) -> None:
    numbers = {"red": 1, "green": 2, "blue": 3, "nir": 4}
    for paths in (
        (shared / "data" / "naip_north_dakota").glob("*.tif"),
        (shared / "data" / "s2_scenes").glob("ftw_austria_window_?.tif"),
    ):
        before, after = (open_scene(path, bands=list(numbers), band_map=numbers) for path in sorted(paths))
        pair = pair_of(before, after, align="before")
        shift = estimate_shift(pair.source)
        assert shift is not None
        assert shift.pixels < 1
        assert_near(estimate_shift(registered(pair, shift).source), 0, 0)
