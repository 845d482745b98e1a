"""Grids of cells: what is painted is what the middles of cells say, and what is traced is valid and complete."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geoseg.serve.packed_rings import read_wkb
from geoseg.serve.tile_grid import Lattice, Outlines, paint, trace
from tests.serve.test_rings import shapes

PLAIN = Lattice(
    origin=(0.0, 0.0),
    step=(10.0, 10.0),
    places=np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 10.0], [10.0, 10.0]]]),
)
"""Coordinates are cells."""

grids = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def polygons(outlines: Outlines) -> dict[int, Any]:
    """Number -> the multipolygon that its rings make, exteriors being those that run clockwise on the screen."""
    found = {}
    for place, owner in enumerate(outlines.owners.tolist()):
        parts: list[tuple[Any, list[Any]]] = []
        for ring in range(outlines.first_rings[place], outlines.first_rings[place + 1]):
            points = outlines.points[outlines.ends[ring] : outlines.ends[ring + 1]]
            if shapely.is_ccw(shapely.LinearRing(points)):  # with y upwards, as GEOS has it
                parts.append((points, []))
            else:
                parts[-1][1].append(points)
        found[owner] = shapely.MultiPolygon([shapely.Polygon(*part) for part in parts])
    return found


@given(grid=grids)
@example(grid=np.array([[0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]], np.int32))
def test_outlines_hold_the_cells_of_their_number_and_no_others(grid: npt.NDArray[np.int32]) -> None:
    found = polygons(trace(grid))
    assert set(found) == set(np.unique(grid).tolist()) - {0}
    for number, shape in found.items():
        assert shape.is_valid
        rows, cols = np.nonzero(grid == number)
        assert shape.area == len(rows)
        assert shapely.contains_xy(shape, cols + 0.5, rows + 0.5).all()


@given(shape=shapes())
def test_a_cell_belongs_to_the_polygon_that_holds_its_middle(shape: Any) -> None:
    grid = np.zeros((9, 8), np.int32)
    rings = read_wkb(pa.array([shapely.to_wkb(shape)], pa.binary()), np.array([0]))
    paint(grid, rings, np.array([7]), PLAIN)
    rows, cols = np.indices(grid.shape)
    middles = shapely.points(cols + 0.5, rows + 0.5)
    sure = shapely.distance(shape.boundary, middles) > 1e-9
    assert ((grid == 7) == shapely.contains(shape, middles))[sure].all()


@given(shape=shapes())
def test_neighbours_share_every_cell(shape: Any) -> None:
    grid = np.zeros((9, 8), np.int32)
    rest = shapely.difference(shapely.box(-1, -1, 11, 11), shape)
    wkb = pa.array([shapely.to_wkb(shape), shapely.to_wkb(rest)], pa.binary())
    paint(grid, read_wkb(wkb, np.arange(2)), np.array([1, 2]), PLAIN)
    rows, cols = np.indices(grid.shape)
    sure = shapely.distance(shape.boundary, shapely.points(cols + 0.5, rows + 0.5)) > 1e-6
    assert (grid[sure] > 0).all()


def test_nothing_has_no_outline() -> None:
    assert polygons(trace(np.zeros((3, 4), np.int32))) == {}
