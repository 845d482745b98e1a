"""Pieces of an array in memory read like the array."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.protocols import Source
from geoseg.scene import Band, BandSet
from geoseg.source.pieces import PiecesSource
from geoseg.testing import geobox_of
from geoseg.testing.conformance import SourceConformance
from geoseg.testing.strategies import windows
from geoseg.types import Pixels
from geoseg.window import Window, whole

PIXELS = np.random.default_rng(5).integers(0, 9, (3, 40, 50), dtype=np.uint16)
BANDS = BandSet(tuple(Band(name=name, dtype="uint16", nodata=0) for name in ("red", "nir", "blue")))


def pieces_of(
    pixels: Pixels, bands: list[int], rows: list[int], cols: list[int], origin: tuple[int, int] = (0, 0)
) -> PiecesSource:
    """`pixels` cut at the places that are listed for each axis."""
    cut = [
        [np.split(row, cols, axis=2) for row in np.split(slab, rows, axis=1)]
        for slab in np.split(pixels, bands, axis=0)
    ]
    window = Window(row_off=origin[0], col_off=origin[1], height=pixels.shape[1], width=pixels.shape[2])
    return PiecesSource(pieces=cut, window=window, bands=BANDS, geobox=geobox_of(40, 50))


class TestPiecesSource(SourceConformance):
    def make(self) -> Source:
        return pieces_of(PIXELS, [1], [7, 30], [11])


@given(st.data())
def test_any_cut_reads_like_the_whole(data: st.DataObject) -> None:
    part = data.draw(windows(Window(row_off=0, col_off=0, height=40, width=50)))
    pixels = PIXELS[:, *part.slices]
    cuts = [sorted(data.draw(st.sets(st.integers(1, max(1, side - 1)), max_size=3))) for side in pixels.shape]
    cuts = [[at for at in axis if at < side] for axis, side in zip(cuts, pixels.shape, strict=True)]
    source = pieces_of(pixels, cuts[0], cuts[1], cuts[2], origin=(part.row_off, part.col_off))
    window = data.draw(windows(max_side=60))
    found, valid = source.read(window)
    canvas = np.zeros((3, 300, 300), np.uint16)  # the scene's (0, 0) lies at (100, 100)
    canvas[:, *Window.from_bounds(100, 100, 140, 150).slices] = PIXELS
    known = np.zeros((300, 300), bool)
    known[100 + part.row_off : 100 + part.row_stop, 100 + part.col_off : 100 + part.col_stop] = True
    place = np.s_[100 + window.row_off : 100 + window.row_stop, 100 + window.col_off : 100 + window.col_stop]
    np.testing.assert_array_equal(valid, known[place] & (canvas[:, *place] != 0).all(axis=0))
    np.testing.assert_array_equal(found[:, valid], canvas[:, *place][:, valid])


def test_bands_and_place_are_those_of_the_whole_scene() -> None:
    source = pieces_of(PIXELS[:, 10:20], [], [], [25], origin=(10, 0))
    assert source.block == (10, 25)
    assert whole(source.geobox).shape == (40, 50)
    assert not source.read(whole(source.geobox))[1][:10].any()
    assert source.identity() == pieces_of(PIXELS[:, 10:20], [], [], [25], origin=(10, 0)).identity()
    assert source.identity() != pieces_of(PIXELS[:, 10:20], [], [], [25], origin=(11, 0)).identity()
