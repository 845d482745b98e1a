"""Polygons in few bytes: unpacked as the page does it, they are those of the run, the smallest left out first."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import SourceError
from geoseg.pages import packing
from geoseg.pages.packing import PackedPolygons, pack_polygons

PLACE = Affine(10, 0, 5e5, 0, -10, 5e6)


def numbers_in(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def rings_of(packed: PackedPolygons) -> list[list[np.ndarray[Any, Any]]]:
    """Per polygon its rings (point, xy), in pixels."""
    numbers = numbers_in(zlib.decompress(packed.outlines))
    rings = [next(numbers) for _ in range(packed.count)]
    points = [next(numbers) for _ in range(sum(rings))]
    moves = np.array([number // 2 if number % 2 == 0 else -(number + 1) // 2 for number in numbers]).reshape(-1, 2)
    assert len(moves) == sum(points)
    path = np.split(np.cumsum(moves, axis=0) / packed.steps, np.cumsum(points)[:-1])
    starts = np.cumsum([0, *rings])
    return [path[start:stop] for start, stop in pairwise(starts)]


def unpacked(packed: PackedPolygons) -> list[Any]:
    """As areas: what lies within an odd number of rings."""
    shapes = []
    for rings in rings_of(packed):
        area = shapely.Polygon()
        for ring in rings:
            area = area.symmetric_difference(shapely.Polygon(ring))
        shapes.append(area)
    return shapes


def attributes_of(packed: PackedPolygons) -> dict[str, list[Any]]:
    columns = json.loads(zlib.decompress(packed.attributes))
    found = {}
    for name, column in columns.items():
        places = column.get("at", [0] * packed.count)
        found[name] = column.get("numbers") or [column["words"][place] for place in places]
    return found


def frame_of(shapes: list[Any], **columns: Any) -> geopandas.GeoDataFrame:
    """Shapes in pixels as the features of a run."""
    placed = [shapely.transform(shape, lambda at: at * (10, -10) + (5e5, 5e6)) for shape in shapes]
    table = {"class_id": np.arange(len(shapes), dtype=np.int32) % 3, "area_m2": [shape.area for shape in placed]}
    return geopandas.GeoDataFrame(table | columns, geometry=placed, crs="EPSG:32633")


def packed_of(frame: geopandas.GeoDataFrame, largest: int = 1_000_000, rows: int = 7) -> PackedPolygons:
    file = io.BytesIO()
    frame.to_parquet(file, row_group_size=rows, write_covering_bbox=True, schema_version="1.1.0")
    return pack_polygons(file, PLACE, largest)


def some_shapes(seed: int, count: int, *, step: float = 1.0) -> list[Any]:
    """Boxes, some with a hole, some in two parts, on a lattice of `step` pixels."""
    rng = np.random.default_rng(seed)
    shapes: list[Any] = []
    for _ in range(count):
        x, y, wide, high = rng.integers(0, 4000, 2).tolist() + rng.integers(3, 400, 2).tolist()
        box = shapely.box(x, y, x + wide, y + high)
        kind = rng.integers(3)
        if kind == 1:
            box = box.difference(shapely.box(x + 1, y + 1, x + wide - 1, y + high - 1))
        if kind == 2:
            box = shapely.MultiPolygon([box, shapely.box(x + wide, y + high, x + wide + 2, y + high + 1)])
        shapes.append(shapely.transform(box, lambda at: at * step))
    return shapes


@given(seed=st.integers(0, 999), count=st.integers(0, 30), rows=st.integers(1, 40))
def test_what_is_unpacked_is_what_was_there(seed: int, count: int, rows: int) -> None:
    shapes = some_shapes(seed, count)
    packed = packed_of(frame_of(shapes), rows=rows)
    assert (packed.count, packed.total, packed.smallest, packed.eased, packed.steps) == (count, count, 0, 0, 1)
    for shape, found in zip(shapes, unpacked(packed), strict=True):
        assert shape.symmetric_difference(found).area == 0


def test_corners_between_pixels_are_kept_to_a_sixteenth() -> None:
    shapes = some_shapes(1, 20) + some_shapes(2, 20, step=0.37)  # the first row groups hold whole pixels only
    packed = packed_of(frame_of(shapes))
    assert packed.steps == packing.FINE
    for shape, found in zip(shapes, unpacked(packed), strict=True):
        assert shape.hausdorff_distance(found) < 0.05


def test_attributes_are_the_columns() -> None:
    count = 50
    rng = np.random.default_rng(0)
    times = np.array(["2024-05-01T10:30", "NaT"], "datetime64[ms]")[rng.integers(0, 2, count)]
    frame = frame_of(
        some_shapes(3, count),
        class_name=rng.choice(["water", "</script>"], count),
        confidence_mean=np.where(rng.random(count) < 0.2, np.nan, rng.random(count)),
        first=np.arange(count) * 10**10,
        scene=["one"] * count,
        datetime=times,
    )
    found = attributes_of(packed_of(frame))
    assert set(found) == set(frame.columns) - {"geometry"}, "no box, no shape"
    assert found["class_name"] == frame["class_name"].tolist()
    assert found["first"] == frame["first"].tolist()
    assert found["scene"] == ["one"] * count
    assert set(found["datetime"]) == {"2024-05-01 10:30", ""}
    means = np.array([np.nan if value is None else value for value in found["confidence_mean"]])
    np.testing.assert_allclose(means, frame["confidence_mean"], rtol=1e-5)
    np.testing.assert_allclose(found["area_m2"], frame["area_m2"], rtol=1e-5)


@pytest.mark.parametrize("largest", [300, 3_000, 10_000])
def test_the_smallest_are_left_out_first(largest: int) -> None:
    frame = frame_of(some_shapes(4, 2000))
    packed = packed_of(frame, largest, rows=300)
    assert packed.size <= largest
    assert packed.total == 2000
    assert 0 < packed.count < 2000
    kept = frame[frame["area_m2"] >= packed.smallest]
    assert packed.count == len(kept)
    np.testing.assert_allclose(attributes_of(packed)["area_m2"], kept["area_m2"], rtol=1e-5)
    assert packed.size > 0.3 * largest, "room is used"


def test_where_nothing_fits_nothing_is_kept() -> None:
    packed = packed_of(frame_of(some_shapes(5, 100)), 30)
    assert (packed.count, packed.total) == (0, 100)


def test_an_outline_of_very_many_vertices_is_eased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FEWEST", 200)
    steps = np.arange(2000)
    stairs = np.column_stack([np.repeat(steps, 2)[1:], np.repeat(steps, 2)[:-1]])
    giant = shapely.Polygon(
        [*stairs, (0, 2000)], [shapely.box(x, 1990, x + 1, 1991).exterior for x in range(5, 900, 9)]
    )
    packed = packed_of(frame_of([*some_shapes(6, 5), giant]), largest=3000)
    assert packed.eased == 1
    found = unpacked(packed)[-1]
    assert shapely.get_num_coordinates(found) <= 200
    assert giant.exterior.hausdorff_distance(found.boundary) < 20
    assert found.area == pytest.approx(giant.area, rel=0.01)


def test_polygons_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "BATCH", 64)
    held: list[int] = []
    decode = shapely.from_wkb

    def counting(values: Any) -> Any:
        held.append(len(values))
        return decode(values)

    monkeypatch.setattr("geoseg.pages.packing.shapely.from_wkb", counting)
    assert packed_of(frame_of(some_shapes(7, 1000)), rows=1000).count == 1000
    assert sum(held) == 1000
    assert max(held) <= 64


def test_a_file_that_is_none_is_named() -> None:
    with pytest.raises(SourceError, match=r"polygons\.parquet: cannot be read"):
        pack_polygons(io.BytesIO(b"PAR1 no PAR1"), PLACE, 1000)
    file = io.BytesIO()
    frame_of(some_shapes(8, 3)).drop(columns="area_m2").to_parquet(file)
    with pytest.raises(SourceError, match="area_m2"):
        pack_polygons(file, PLACE, 1000)
