"""Windows are integer arithmetic: compared with sets of pixels; places are compared with rasterio's own arithmetic."""

from __future__ import annotations

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window as RasterioWindow
from rasterio.windows import transform as rasterio_transform

from geoseg.errors import GridError
from geoseg.window import GeoBox, Window, crop_geobox, whole

windows = st.builds(
    Window,
    row_off=st.integers(-12, 12),
    col_off=st.integers(-12, 12),
    height=st.integers(0, 12),
    width=st.integers(0, 12),
)


def pixels(window: Window) -> set[tuple[int, int]]:
    return {
        (row, col) for row in range(window.row_off, window.row_stop) for col in range(window.col_off, window.col_stop)
    }


@given(a=windows, b=windows)
def test_and_is_what_both_cover(a: Window, b: Window) -> None:
    assert pixels(a & b) == pixels(a) & pixels(b)
    assert pixels(b & a) == pixels(a & b)


@given(a=windows, b=windows)
def test_contains_is_a_subset(a: Window, b: Window) -> None:
    if a:  # an empty window keeps a place, so it lies only where its corner does
        assert (a in b) == (pixels(a) <= pixels(b))
    assert a in a  # noqa: PLR0124 - `in` is what is tested


@given(window=windows)
def test_size_shape_and_truth_count_pixels(window: Window) -> None:
    assert window.size == len(pixels(window))
    assert bool(window) == bool(pixels(window))
    assert window.shape == (window.height, window.width)


@given(window=windows, outer=windows)
def test_within_counts_from_the_outer_corner(window: Window, outer: Window) -> None:
    moved = {(row + outer.row_off, col + outer.col_off) for row, col in pixels(window.within(outer))}
    assert moved == pixels(window)


@given(window=windows, height=st.integers(1, 5), width=st.integers(1, 5))
def test_pieces_cover_once_and_fit(window: Window, height: int, width: int) -> None:
    pieces = list(window.pieces(height, width))
    assert all(piece.height <= height and piece.width <= width for piece in pieces)
    assert all(pieces), "no piece is empty"
    assert sum(piece.size for piece in pieces) == window.size
    assert set().union(*map(pixels, pieces)) == pixels(window)


def test_a_window_has_no_negative_side() -> None:
    with pytest.raises(GridError, match="-1 rows and 5 columns"):
        Window(row_off=0, col_off=0, height=-1, width=5)


@given(
    window=windows.filter(bool),
    transform=st.sampled_from(
        [
            Affine(10, 0, 600_000, 0, -10, 5_400_000),
            Affine(10, 0, 600_000, 0, 10, 5_400_000),  # south-up
            Affine(8, 6, 600_000, 6, -8, 5_400_000),  # rotated
            Affine(0.5, 0, -180, 0, -0.25, 90),
        ]
    ),
)
def test_crop_geobox_agrees_with_rasterio(window: Window, transform: Affine) -> None:
    geobox = GeoBox((100, 80), transform, "EPSG:32632")
    cropped = crop_geobox(geobox, window)
    order_of_rasterio = RasterioWindow(window.col_off, window.row_off, window.width, window.height)  # col before row
    assert cropped.transform.almost_equals(rasterio_transform(order_of_rasterio, transform), precision=1e-9)
    assert cropped.shape == window.shape
    assert cropped.crs == geobox.crs


def test_whole_is_every_pixel() -> None:
    geobox = GeoBox((7, 5), Affine.identity(), "EPSG:32632")
    assert whole(geobox) == Window(row_off=0, col_off=0, height=7, width=5)
    assert crop_geobox(geobox, whole(geobox)) == geobox


def test_text_names_rows_before_columns() -> None:
    assert str(Window(row_off=1, col_off=2, height=3, width=4)) == "rows 1:4, columns 2:6"
