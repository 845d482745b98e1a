"""The map of corners: the same for every chunk, and what the polygons' vertices say."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.source.labels import ArrayLabels
from geoseg.tracing.corners import EAST, NODE, OUTER, SOUTH, VERTEX, Corners, flag_at, map_corners, read_bordered
from geoseg.tracing.polygons import polygonize
from geoseg.window import Window
from tests.blobs import label_readers


@given(labels=label_readers(), chunk=st.integers(1, 30), workers=st.integers(1, 3))
def test_corners_are_where_boundaries_are(labels: ArrayLabels, chunk: int, workers: int) -> None:
    flags = flags_of(map_corners(labels, chunk=chunk, workers=workers))
    polygons = polygonize(labels.array, nodata=labels.nodata, joints=0).polygons
    vertices = {(int(x), int(y)) for x, y in shapely.get_coordinates(polygons)}
    assert {(x, y) for y, x in np.argwhere(flags & VERTEX).tolist()} == vertices
    lines = boundary_lines(polygons)
    assert {(x, y) for y, x in np.argwhere(flags & EAST).tolist()} == {(x, y) for x, y, down in lines if not down}
    assert {(x, y) for y, x in np.argwhere(flags & SOUTH).tolist()} == {(x, y) for x, y, down in lines if down}
    ends = Counter(end for x, y, down in lines for end in ((x, y), (x + 1 - down, y + down)))
    assert {(x, y) for y, x in np.argwhere(flags & NODE).tolist()} == {end for end, n in ends.items() if n > 2}


@pytest.mark.parametrize("shape", [(63, 64), (64, 63), (130, 70)])
def test_squares_of_corners_meet(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    test_corners_are_where_boundaries_are.hypothesis.inner_test(ArrayLabels(labels), 50, 2)  # type: ignore[attr-defined]


def flags_of(corners: Corners) -> npt.NDArray[np.uint8]:
    """(row, col), as if the map were in one piece."""
    rows, cols = corners.shape
    down, across, side, _ = corners.pages.shape
    return corners.pages.swapaxes(1, 2).reshape(down * side, across * side)[:rows, :cols]


def boundary_lines(polygons: object) -> set[tuple[int, int, int]]:
    """Every pixel side on a boundary: (x, y) of its upper left end, and whether it runs down."""
    lines = set()
    for ring in shapely.get_rings(polygons):
        at = shapely.get_coordinates(ring).astype(int).tolist()
        for (x0, y0), (x1, y1) in pairwise(at):
            down = int(x0 == x1)
            for step in range(max(abs(x1 - x0), abs(y1 - y0))):
                lines.add((min(x0, x1) + (0 if down else step), min(y0, y1) + (step if down else 0), down))
    return lines


@given(labels=label_readers(max_side=12))
def test_outer_corners_are_those_beside_no_label(labels: ArrayLabels) -> None:
    valid = np.pad(labels.array != (-1 if labels.nodata is None else labels.nodata), 1)
    around = np.stack([valid[:-1, :-1], valid[:-1, 1:], valid[1:, :-1], valid[1:, 1:]])
    flags = flags_of(map_corners(labels))
    np.testing.assert_array_equal(flags & OUTER > 0, around.any(axis=0) & ~around.all(axis=0))


def test_what_is_beyond_the_edge_is_no_label() -> None:
    labels = ArrayLabels(np.array([[7, 8], [9, 255]], np.uint8), 255)
    none = np.iinfo(np.int32).min
    corner = read_bordered(labels, Window(row_off=1, col_off=1, height=1, width=1))
    assert corner.tolist() == [[7, 8, none], [9, none, none], [none, none, none]]


def test_the_scratch_file_is_where_it_is_asked_for_and_gone_at_once(tmp_path: Path) -> None:
    corners = map_corners(ArrayLabels(np.ones((4, 4), np.uint8)), directory=tmp_path)
    assert corners.shape == (5, 5)
    corners.release()
    assert flag_at(corners.pages, 0, 0) == EAST + SOUTH + VERTEX + OUTER
    assert not list(tmp_path.iterdir())
