"""GeoParquet by the rules of its version 1.1, and as pyarrow, geopandas, DuckDB and GDAL's Arrow see it."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.vector_files import groups_read
from geoseg.sink import sorting
from geoseg.sink.vector import write_features
from geoseg.window import GeoBox
from tests.sink.layers import ANTIMERIDIAN, POLE, UTM, features, nothing, shuffled


def metadata(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(pyarrow.parquet.read_schema(path).metadata[b"geo"])
    return found


@pytest.mark.parametrize(
    "frame",
    [features(), features(POLE), features(ANTIMERIDIAN), nothing(), features(GeoBox(UTM.shape, UTM.transform, None))],
    ids=["UTM", "pole", "antimeridian", "nothing", "no CRS"],
)
def test_the_metadata_keeps_the_rules(tmp_path: Path, frame: geopandas.GeoDataFrame) -> None:
    (path,) = write_features(frame, tmp_path, ["parquet"])
    geo = metadata(path)
    schema = pyarrow.parquet.read_schema(path)
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert isinstance(geo["columns"], dict)
    assert list(geo["columns"]) == ["geometry"]
    column = geo["columns"]["geometry"]
    assert set(column) <= {"encoding", "geometry_types", "crs", "bbox", "covering"}
    assert column["encoding"] == "WKB"
    assert schema.field("geometry").type == pyarrow.binary()
    assert column["geometry_types"] == sorted({*frame.geometry.geom_type})
    if frame.crs is None:
        assert column["crs"] is None, "left out it would mean longitude and latitude"
    else:
        assert pyproj.CRS.from_json_dict(column["crs"]) == frame.crs
        assert "id" not in json.dumps(column["crs"].get("datum_ensemble", {}).get("members", []))
    if len(frame):
        assert column["bbox"] == frame.total_bounds.tolist()
    else:
        assert "bbox" not in column
    sides = ("xmin", "ymin", "xmax", "ymax")
    assert column["covering"] == {"bbox": {side: ["bbox", side] for side in sides}}
    box = schema.field("bbox").type
    assert [(field.name, field.type) for field in box] == [(side, pyarrow.float64()) for side in sides]


def test_every_box_covers_its_feature_and_nothing_more(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["parquet"])
    table = pyarrow.parquet.read_table(path)
    boxes = np.column_stack([table["bbox"].combine_chunks().field(side) for side in ("xmin", "ymin", "xmax", "ymax")])
    np.testing.assert_array_equal(boxes, shapely.bounds(shapely.from_wkb(table["geometry"].to_numpy())))


def many(side: int) -> geopandas.GeoDataFrame:
    """side x side squares."""
    x, y = (axis.ravel() * 10.0 for axis in np.meshgrid(np.arange(side), np.arange(side)))
    number = np.arange(side * side)
    return geopandas.GeoDataFrame({"class_id": number % 4}, geometry=shapely.box(x, y, x + 9, y + 9), crs=32633)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, geopandas.GeoDataFrame]:
    """A file of 57,600 features in row groups of 64: 900, as large files have them."""
    frame = many(240)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "ROWS", 64)
        (path,) = write_features(frame, tmp_path_factory.mktemp("crowded"), ["parquet"])
    return path, frame


@settings(max_examples=20)
@given(across=st.floats(0, 0.9), down=st.floats(0, 0.9))
def test_a_query_for_a_place_reads_few_row_groups(
    crowded: tuple[Path, geopandas.GeoDataFrame], across: float, down: float
) -> None:
    path, frame = crowded
    box = (2400 * across, 2400 * down, 2400 * across + 240, 2400 * down + 240)
    found = geopandas.read_parquet(path, bbox=box)
    bounds = frame.bounds
    inside = (bounds.minx <= box[2]) & (bounds.maxx >= box[0]) & (bounds.miny <= box[3]) & (bounds.maxy >= box[1])
    assert sorted(found["id"]) == (np.flatnonzero(inside) + 1).tolist()
    read, groups, rows = groups_read(path, box)
    assert groups == 900
    assert read < 0.05 * groups
    assert rows < 0.05


def test_row_groups_follow_a_hilbert_curve(crowded: tuple[Path, geopandas.GeoDataFrame]) -> None:
    found = geopandas.read_parquet(crowded[0])
    assert found.hilbert_distance().is_monotonic_increasing
    assert len(found) == len(crowded[1])


def test_duckdb_reads_rows_types_and_boxes(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="an extra: pip install 'geoseg[catalog]'")
    frame = features()
    (path,) = write_features(shuffled(frame, 5), tmp_path, ["parquet"])
    with duckdb.connect() as connection:
        rows = connection.sql(
            f"SELECT id, class_id, class_name, area_m2, bbox.xmin, epoch(datetime) FROM '{path}' ORDER BY id"
        ).fetchall()
    for number, (row, (_, given_row)) in enumerate(zip(rows, frame.iterrows(), strict=True), start=1):
        assert row[:4] == (number, given_row.class_id, given_row.class_name, given_row.area_m2)
        assert row[4] == given_row.geometry.bounds[0]
        assert row[5] == given_row.datetime.timestamp()


def test_what_geopandas_writes_has_the_same_rows(tmp_path: Path) -> None:
    frame = features()
    (path,) = write_features(frame, tmp_path, ["parquet"])
    frame.to_parquet(tmp_path / "theirs.parquet")
    theirs = geopandas.read_parquet(tmp_path / "theirs.parquet")
    ours = geopandas.read_parquet(path).sort_values("id", ignore_index=True)
    assert ours.drop(columns=["id", "bbox"], errors="ignore").equals(theirs)


def test_statistics_are_where_they_help_alone(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["parquet"])
    group = pyarrow.parquet.read_metadata(path).row_group(0)
    known = {group.column(at).path_in_schema: group.column(at).is_stats_set for at in range(group.num_columns)}
    assert not known.pop("geometry")
    assert all(known.values())
    assert {group.column(at).compression for at in range(group.num_columns)} == {"ZSTD"}


def test_a_row_group_has_no_more_bytes_than_a_reader_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "PIECE", 10_000)
    x = np.arange(40) * 1e3
    wide = shapely.segmentize(shapely.box(x, 0, x + 900, 900), np.where(x == 3000, 1, 50))  # one of 3601 vertices
    frame = geopandas.GeoDataFrame({"class_id": np.ones(40, int)}, geometry=wide, crs=32633)
    (path,) = write_features(frame, tmp_path, ["parquet"])
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(number)["geometry"].to_pylist() for number in range(file.num_row_groups)]
    assert all(len(group) == 1 or sum(map(len, group)) <= 10_000 for group in groups)
    assert sum(map(len, groups)) == 40
    assert len(groups) < 15


def test_pixels_of_a_rotated_grid_are_features_like_all_others(tmp_path: Path) -> None:
    rotated = GeoBox((40, 30), Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10), "EPSG:32633")
    (path,) = write_features(features(rotated), tmp_path, ["parquet"])
    found = geopandas.read_parquet(path).sort_values("id")
    assert shapely.coverage_is_valid(found.geometry.array)
    np.testing.assert_allclose(found["area_m2"], found.geometry.area, rtol=2e-3)
