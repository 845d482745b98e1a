"""The Hilbert curve: it passes through every cell once, each step to a neighbour, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.sink.curve import LEVEL, along_curve

EXTENT = (0.0, 0.0, 2.0**LEVEL - 1, 2.0**LEVEL - 1)
"""Of a lattice whose cells are one unit wide."""


@pytest.mark.parametrize("side", [1, 2, 8, 64])
def test_the_curve_fills_each_quadrant_before_it_leaves(side: int) -> None:
    y, x = np.mgrid[0:side, 0:side].reshape(2, -1).astype(float)
    order = np.argsort(along_curve(x, y, EXTENT))
    assert sorted(along_curve(x, y, EXTENT)) == list(range(side * side))
    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    assert (steps == 1).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_cells_that_follow_one_another_anywhere_touch(seed: int) -> None:
    # Around a cell, one of the four neighbours is the next on the curve; at its end none is.
    rng = np.random.default_rng(seed)
    column, row = rng.integers(1, 2**LEVEL - 1, 2)
    x = np.array([column, column - 1, column + 1, column, column], float)
    y = np.array([row, row, row, row - 1, row + 1], float)
    at, *around = (int(each) for each in along_curve(x, y, EXTENT))
    assert at + 1 in around or at == 4**LEVEL - 1
    assert at - 1 in around or at == 0


def test_an_extent_without_width_has_one_column() -> None:
    y = np.array([0.0, 5.0, 10.0])
    assert (np.diff(along_curve(np.zeros(3), y, (0, 0, 0, 10)).astype(int)) > 0).all()
    assert (along_curve(np.zeros(3), np.zeros(3), (0, 0, 0, 0)) == 0).all()
