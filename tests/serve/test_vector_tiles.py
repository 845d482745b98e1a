"""Exact vector tiles: what is cut as rings is what GEOS cuts, and neighbours stay neighbours up to the tile's end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from geoseg.serve import row_groups
from geoseg.serve.opened import Opened
from geoseg.serve.polygon_file import PolygonFile, open_polygons
from geoseg.serve.tiles import vector_tile
from geoseg.serve.vector_tiles import BUFFER, EXTENT, TilePlace
from tests.runs import Made, make_run
from tests.serve.test_tiles import FIJI, LARGE, RADIUS, TURNED, decoded, middle, tile_at

RUNS = {"large": (LARGE, 13), "turned": (TURNED, 14), "fiji": (FIJI, 11)}
"""Grids, and a zoom at which a tile shows a part of them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The runs."""
    root = tmp_path_factory.mktemp("runs")
    return {name: make_run(root / name, geobox=geobox) for name, (geobox, _) in RUNS.items()}


def polygons_of(made: Made) -> PolygonFile:
    item = json.loads((made.folder / "item.json").read_bytes())
    return open_polygons(made.folder / "polygons.parquet", item["geometry"])


def in_units(read: Any, place: TilePlace) -> Any:
    """Polygons by id, in the tile's units."""
    side = 2 * RADIUS / 2**place.z
    corner = [-RADIUS + place.x * side, RADIUS - place.y * side]
    units = shapely.transform(read.geometry.array, lambda at: (at - corner) * [EXTENT / side, -EXTENT / side])
    return read.assign(geometry=shapely.set_precision(units, 1)).set_index("mvt_id")


@pytest.mark.parametrize("run", list(RUNS))
@pytest.mark.parametrize("in_pieces", [False, True])
def test_rings_are_cut_as_geos_cuts_them(
    made: dict[str, Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: str, in_pieces: bool
) -> None:
    place, file = tile_at(*middle(made[run], 0.3, 0.1), RUNS[run][1]), polygons_of(made[run])
    with monkeypatch.context() as patch:
        patch.setattr(TilePlace, "cells", lambda *_: None)  # as where nothing is known between knots
        wanted = in_units(decoded(vector_tile(file, place, exact=True), place, tmp_path), place)
    if in_pieces:
        monkeypatch.setattr(row_groups, "_LARGE", 200)
        monkeypatch.setattr(row_groups, "_PIECE", 8)
    monkeypatch.setattr(row_groups, "_KEPT", Opened(most=1))
    found = in_units(decoded(vector_tile(file, place, exact=True), place, tmp_path), place)
    assert len(found) > 5
    assert found.geometry.is_valid.all()
    if run == "fiji":  # GEOS's way ends at the antimeridian, without a buffer
        found = found.assign(
            geometry=shapely.intersection(found.geometry.array, shapely.box(-BUFFER, -BUFFER, EXTENT, 9999))
        )
        found = found[~found.geometry.is_empty]
    for lost in set(found.index) ^ set(wanted.index):  # where it is next to nothing
        assert (found if lost in found.index else wanted).geometry.loc[lost].minimum_clearance <= 2
    both = found.index.intersection(wanted.index)
    apart = shapely.symmetric_difference(found.geometry.loc[both].array, wanted.geometry.loc[both].array)
    assert (shapely.area(apart) <= 1.0 * shapely.length(wanted.geometry.loc[both].array)).all()


@pytest.mark.parametrize("run", ["large", "turned"])
def test_exact_polygons_fill_the_tile_to_the_buffers_end(made: dict[str, Made], tmp_path: Path, run: str) -> None:
    place = tile_at(*middle(made[run]), RUNS[run][1] + 2)
    read = in_units(decoded(vector_tile(polygons_of(made[run]), place, exact=True), place, tmp_path), place)
    whole = shapely.union_all(read.geometry.array)
    assert whole.area == pytest.approx(read.geometry.area.sum(), abs=1e-6)  # none overlaps another
    assert whole.bounds == (-BUFFER, -BUFFER, EXTENT + BUFFER, EXTENT + BUFFER)
    holes = shapely.polygons(shapely.get_rings(shapely.normalize(whole)))
    assert np.isclose(max(shapely.area(holes)), (EXTENT + 2 * BUFFER) ** 2)
