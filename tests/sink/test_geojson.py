"""The text of GeoJSON is what a JSON parser and GDAL make of it: the same numbers, the same words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoseg.sink.geojson import _geometries
from geoseg.sink.layer import gather
from geoseg.sink.lines import as_bytes, joined, texts
from geoseg.sink.vector import write_features

DEGREES = st.integers(-180 * 10**7, 180 * 10**7)


def parsed(shapes: list[Any]) -> list[Any]:
    return [json.loads(text) for text in _geometries(np.array(shapes, object)).to_pylist()]


@given(
    st.lists(
        st.lists(st.tuples(DEGREES, DEGREES), min_size=4, max_size=9).filter(lambda ring: ring[0] != ring[-1]),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_every_number_is_the_nearest_one(rings: list[list[tuple[int, int]]]) -> None:
    polygons = [shapely.Polygon([(x / 1e7, y / 1e7) for x, y in ring]) for ring in rings]
    for found, polygon in zip(parsed(polygons), polygons, strict=True):
        assert found == json.loads(shapely.to_geojson(polygon))


def test_holes_parts_and_nothing_have_their_brackets() -> None:
    holed = shapely.box(0, 0, 9, 9) - shapely.box(1, 1, 2, 2) - shapely.box(3, 3, 4, 4)
    several = shapely.MultiPolygon([holed, shapely.box(20, 20, 21, 21)])
    one = shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])
    shapes = [holed, several, one, shapely.box(-1e-7, 0, 0.1, 100)]
    for some in (shapes, shapes[:1], shapes[1:2]):
        assert parsed(some) == [json.loads(shapely.to_geojson(shape)) for shape in some]
    empty = {"type": "Polygon", "coordinates": []}
    assert parsed([shapely.Polygon()]) == [empty]
    assert parsed([shapely.Polygon(), several, shapely.Polygon()])[::2] == [empty, empty]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "whole": st.integers(-(2**62), 2**62),
                "real": st.floats(),
                "sure": st.booleans(),
                "word": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
                "time": st.none() | st.integers(0, 4 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
            }
        ),
        min_size=1,
    )
)  # fmt: skip
def test_columns_become_the_text_of_their_values(rows: list[dict[str, Any]]) -> None:
    kinds = {"whole": pa.int64(), "real": pa.float64(), "sure": pa.bool_(), "word": pa.string()}
    table = pa.Table.from_pylist(rows, schema=pa.schema({**kinds, "time": pa.timestamp("us", tz="UTC")}))
    columns = texts(table, table.column_names, quote=lambda value: json.dumps(str(value)), null="null")
    lines = joined("[", *(part for column in columns for part in (column, ",")), "0]\n")
    for line, row in zip(bytes(as_bytes(lines)).decode().splitlines(), rows, strict=True):
        whole, real, sure, word, time, _ = json.loads(line)
        assert (whole, sure) == (row["whole"], row["sure"])
        assert real == (row["real"] if np.isfinite(row["real"]) else None)
        assert word == row["word"]
        assert time == (None if row["time"] is None else str(row["time"]))


def test_part_of_an_array_is_its_own_bytes_alone() -> None:
    words = pa.array(["a", "bc", "", "def"])
    assert bytes(as_bytes(words[1:3])) == b"bc"
    assert bytes(as_bytes(words[4:])) == b""
    assert bytes(as_bytes(pa.array([], pa.string()))) == b""


def test_gdal_reads_what_is_written(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(
        {
            "class_id": np.array([1, 2], np.int32),
            "class_name": pd.array(['a "quoted"\nline', None], dtype="string"),
            "area_m2": [0.1, np.nan],
            "datetime": pd.Series([datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), pd.NaT], dtype="datetime64[ms, UTC]"),
        },
        geometry=[shapely.box(1.5, 2, 3, 4), shapely.box(179, 0, 181, 1)],
        crs=4326,
    )
    for path in write_features(frame, tmp_path, ["geojson", "geojsonl"]):
        found = pyogrio.read_dataframe(path, fid_as_index=True)
        assert found.index.tolist() == ([1, 2] if path.suffix == ".geojson" else found.index.tolist())
        assert found["class_id"].tolist() == [1, 2]
        assert found["class_name"].tolist()[0] == 'a "quoted"\nline'
        assert found["class_name"].isna().tolist() == found["area_m2"].isna().tolist() == [False, True]
        assert found["datetime"].tolist()[0] == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert found.geometry[found.index[0]].equals(shapely.box(1.5, 2, 3, 4))
        assert found.geometry[found.index[1]].bounds == (-180, 0, 180, 1)


def test_a_layer_knows_how_large_its_text_will_be(tmp_path: Path) -> None:
    from geoseg.sink.geojson import geojson_bytes
    from tests.sink.layers import features

    (path,) = write_features(features(), tmp_path, ["geojson"])
    estimate = geojson_bytes(gather([features()], tmp_path / "scratch"))
    assert 0.5 < estimate / path.stat().st_size < 2
