"""Two dates as pictures: one stretch, the bands there are, north up."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geoseg.picture import DatePicture, Rgba, color_classes, encode, picture_dates, resized
from geoseg.protocols import Source
from geoseg.scene import Scaling, Scene
from geoseg.source.pair import PairSource
from geoseg.testing.fakes import ArraySource
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

PLACE = GeoBox((60, 90), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
NAMES = ("red", "green", "blue")


def noise(seed: int = 0, bands: int = 3) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(100, 4000, (bands, 60, 90), np.uint16)


def source(pixels: Pixels, valid: Valid | None = None, geobox: GeoBox = PLACE, **extra: Any) -> Source:
    return ArraySource(pixels, valid, geobox=geobox, **{"names": NAMES, "scaling": None, **extra})


def scene(pair: PairSource, **extra: Any) -> Scene[PairSource]:
    return Scene(id="a--b", source=pair, geobox=pair.geobox, bands=pair.bands, **extra)


def pictures(before: Source, after: Source, **options: Any) -> tuple[DatePicture, DatePicture]:
    return picture_dates(scene(PairSource(before, after)), **{"side": 100, **options})


def reference(before: Pixels, after: Pixels) -> tuple[Rgba, Rgba]:
    """The same with numpy alone: (row, col, 3) of both dates."""
    low, high = np.percentile(np.stack([before, after]), (2, 98), axis=(0, 2, 3))[..., None, None]
    shades = [np.clip((date - low) / (high - low), 0, 1) * 255 for date in (before, after)]
    one, other = (np.moveaxis(shade, 0, -1).round().astype(np.uint8) for shade in shades)
    return one, other


def test_both_dates_are_stretched_between_the_same_values() -> None:
    before, after = noise(1), noise(2) // 2 + 50
    seen = pictures(source(before), source(after))
    for picture, expected in zip(seen, reference(before, after), strict=True):
        assert np.abs(picture.rgba[..., :3].astype(int) - expected).max() <= 1
        assert (picture.rgba[..., 3] == 255).all()


@given(st.booleans(), st.integers(0, 5))
def test_equal_ground_has_equal_colours_however_it_is_stored(turned: bool, seed: int) -> None:
    """16 bits with a scale at one date, floats at the other, bands in any order."""
    stored = noise(seed)
    floats = (stored * np.float32(1e-4) - np.float32(0.1)).astype(np.float32)
    one = source(stored, scaling=Scaling(scale=1e-4, offset=-0.1))
    other = source(floats)
    before, after = pictures(*((other, one) if turned else (one, other)))
    assert np.abs(before.rgba.astype(int) - after.rgba).max() <= 1


def test_a_scaling_that_the_card_assumes_counts_for_integers_that_declare_none() -> None:
    stored = noise()
    floats = (stored * np.float32(1e-4)).astype(np.float32)
    before, after = pictures(source(stored), source(floats), assumed=Scaling(scale=1e-4))
    assert np.abs(before.rgba.astype(int) - after.rgba).max() <= 1


def test_each_date_shows_its_own_holes_and_they_do_not_count() -> None:
    before, after = noise(1), noise(2)
    usable_before, usable_after = np.ones((60, 90), bool), np.ones((60, 90), bool)
    usable_before[:10], usable_after[:, :20] = False, False
    holed = pictures(source(before, usable_before), source(after, usable_after))
    wild = before.copy()
    wild[:, :10] = 65535  # the numbers in a hole are anything
    for picture, usable in zip(holed, (usable_before, usable_after), strict=True):
        np.testing.assert_array_equal(picture.rgba[..., 3] == 255, usable)
    again = pictures(source(wild, usable_before), source(after, usable_after))
    np.testing.assert_array_equal(again[1].rgba, holed[1].rgba)
    np.testing.assert_array_equal(again[0].rgba[10:], holed[0].rgba[10:])


@pytest.mark.parametrize("value", [0, 1000])
def test_dates_without_contrast_or_without_a_usable_pixel_are_pictures_too(value: int) -> None:
    flat = np.full((3, 60, 90), value, np.uint16)
    pictures(source(flat), source(flat))
    nothing = np.zeros((60, 90), bool)
    for picture in pictures(source(flat, nothing), source(flat, nothing)):
        assert not picture.rgba[..., 3].any()


@pytest.mark.parametrize(
    ("names", "shown", "text"),
    [
        (("blue", "green", "red", "nir"), ("red", "green", "blue"), "true colour: red, green, blue"),
        (("swir16", "nir", "green"), ("swir16", "nir", "green"), "false colour: swir16, nir, green"),
        (("green", "red", "nir", "swir22"), ("swir22", "nir", "red"), "false colour: swir22, nir, red"),
        (("vh", "vv"), ("vh", "vv", "vv"), "false colour: vh, vv, vv"),
        (("a", "b", "c", "d"), ("a", "b", "c"), "false colour: a, b, c"),
        (("nir",), ("nir",), "grey: nir"),
    ],
)
def test_the_bands_that_are_shown(names: tuple[str, ...], shown: tuple[str, ...], text: str) -> None:
    pixels = noise(3, len(names))
    _, after = pictures(*(source(pixels, names=names) for _ in range(2)))
    assert after.bands == shown
    assert after.colors == text
    order = [names.index(name) for name in shown] if len(shown) == 3 else [0, 0, 0]
    expected, _ = reference(pixels[order], pixels[order])
    assert np.abs(after.rgba[..., :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_north_is_up_and_west_is_left(rows: int, cols: int) -> None:
    flipped = GeoBox((60, 90), Affine(10 * cols, 0, 5e5, 0, -10 * rows, 5e6), "EPSG:32632")
    pixels = noise()
    plain, _ = pictures(*(source(pixels),) * 2)
    turned, _ = pictures(*(source(np.ascontiguousarray(pixels[:, ::rows, ::cols]), geobox=flipped),) * 2)
    np.testing.assert_array_equal(turned.rgba, plain.rgba)


def test_a_part_of_the_scene() -> None:
    pixels = noise()
    window = Window(row_off=10, col_off=20, height=30, width=40)
    part, _ = pictures(*(source(pixels),) * 2, window=window)
    alone, _ = pictures(
        *(source(pixels[:, 10:40, 20:60].copy(), geobox=GeoBox((30, 40), PLACE.transform, PLACE.crs)),) * 2
    )
    np.testing.assert_array_equal(part.rgba, alone.rgba)
    small, _ = pictures(*(source(pixels),) * 2, side=30)
    assert small.rgba.shape == (20, 30, 4)


def test_names_and_times_are_those_of_the_dates() -> None:
    pair = PairSource(source(noise()), source(noise()))
    moment = datetime(2024, 5, 1, 10, 30, tzinfo=UTC)
    dates = tuple(replace(scene(pair), id=name, datetime=time) for name, time in [("one", moment), ("two", None)])
    before, after = picture_dates(scene(pair, dates=dates), side=100)
    assert (before.name, before.scene_id, before.moment) == ("before", "one", "2024-05-01 10:30 UTC")
    assert (after.name, after.scene_id, after.moment) == ("after", "two", "")


def test_classes_in_their_colours() -> None:
    labels = np.array([[0, 1, 7, 255]], np.uint8)
    colored = color_classes(labels, [(0, "000000"), (1, "0A141E")], [0, 255])
    assert colored.tolist() == [[[0, 0, 0, 0], [10, 20, 30, 255], [128, 128, 128, 255], [0, 0, 0, 0]]]


def test_an_encoded_picture_without_loss_has_no_new_colours() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (300, 500), np.uint8)
    colored = color_classes(labels, [(value, f"{value * 40:02x}0000") for value in range(4)], [0])
    with Image.open(io.BytesIO(encode(colored, 200, lossless=True))) as image:
        assert image.size == (200, 120)
        values = np.asarray(image)
    assert {tuple(color) for color in values.reshape(-1, 4).tolist()} <= {
        (0, 0, 0, 0),
        (40, 0, 0, 255),
        (80, 0, 0, 255),
        (120, 0, 0, 255),
    }


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_dates_and_maps_of_one_scene_get_one_size(height: int, width: int) -> None:
    one, other = np.zeros((3, 5, 4), np.uint8), np.zeros((60, 100, 4), np.uint8)
    assert resized(one, (height, width), 400).size == resized(other, (height, width), 400).size
