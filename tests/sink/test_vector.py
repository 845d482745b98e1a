"""Vector files: every format holds the same features, valid, without seams, in the same bytes every time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.errors import MissingExtraError, SinkError, SourceError
from geoseg.events import Event, Warned
from geoseg.sink import sorting, vector
from geoseg.sink.vector import FORMATS, write_features
from geoseg.window import GeoBox
from tests.sink.layers import (
    ANTIMERIDIAN,
    ARCTIC,
    CLASSES,
    FROM_THE_WEST,
    POLE,
    SOUTH_UP,
    TAKEN,
    UTM,
    features,
    nothing,
    shuffled,
)


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else pyogrio.read_dataframe(path)


def test_columns_say_what_a_region_is() -> None:
    frame = features()
    assert list(frame.columns) == [
        "class_id", "class_name", "area_m2", "perimeter_m", "confidence_mean", "scene", "datetime", "model", "geometry",
    ]  # fmt: skip
    assert frame.crs.to_epsg() == 32633
    assert set(zip(frame["class_id"], frame["class_name"], strict=True)) == {
        (info.value, info.name) for info in CLASSES
    }
    np.testing.assert_allclose(frame["confidence_mean"], (100 + frame["class_id"]) * 0.004)
    assert (frame["scene"] == "S2A").all()
    assert (frame["model"] == "cover").all()
    assert (frame["datetime"] == TAKEN).all()


def test_area_is_on_the_ellipsoid() -> None:
    frame = features()
    geod = pyproj.Geod(ellps="WGS84")
    expected = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in frame.to_crs(4326).geometry]
    np.testing.assert_allclose(frame["area_m2"], expected, rtol=1e-6)
    planar = frame.geometry.area
    assert (np.abs(frame["area_m2"] / planar - 1) > 5e-4).all()  # the scale of UTM at its central meridian is 0.9996


def test_neighbours_share_their_vertices() -> None:
    assert shapely.coverage_is_valid(np.asarray(features().geometry.array))


def test_without_crs_time_or_confidence_columns_are_empty(tmp_path: Path) -> None:
    bare = GeoBox(UTM.shape, UTM.transform, None)
    frame = features(bare, confident=False, taken=None)
    assert frame[["area_m2", "perimeter_m", "confidence_mean", "datetime"]].isna().all(axis=None)
    (path,) = write_features(frame, tmp_path, ["parquet"])
    assert geopandas.read_parquet(path).crs is None
    with pytest.raises(SinkError, match="without a CRS"):
        write_features(frame, tmp_path, ["geojson"])
    (path,) = write_features(features(taken=None, confident=False), tmp_path, ["geojson"])
    properties = json.loads(path.read_text(encoding="utf-8"))["features"][0]["properties"]
    assert (properties["datetime"], properties["confidence_mean"]) == (None, None)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_back_with_every_feature(tmp_path: Path, name: str) -> None:
    frame = features()
    (path,) = write_features(frame, tmp_path, [name])
    assert path == tmp_path / f"polygons.{name}"
    found = read(path)
    assert set(frame.columns) <= set(found.columns)
    if name not in {"geojson", "geojsonl"}:
        assert found["id"].is_unique
    if name == "pmtiles":  # cut into tiles
        assert shapely.union_all(found.geometry).area > 0
        assert set(found["class_name"]) == set(frame["class_name"])
        return
    assert len(found) == len(frame)
    keys = ["class_id", "area_m2"]
    ours = frame.assign(x=frame.geometry.centroid.x).sort_values([*keys, "x"]).reset_index()
    placed = found.to_crs(frame.crs)
    theirs = placed.assign(x=placed.geometry.centroid.x.round(0)).sort_values([*keys, "x"]).reset_index()
    for column in ("class_id", "class_name", "area_m2", "perimeter_m", "confidence_mean", "scene", "model"):
        assert ours[column].tolist() == theirs[column].tolist()
    assert (theirs["datetime"] == TAKEN).all()
    assert found.is_valid.all()
    np.testing.assert_allclose(placed.geometry.area.sum(), frame.geometry.area.sum(), rtol=1e-5)
    assert found.crs.to_epsg() == (4326 if name.startswith("geojson") else 32633)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_features_are_the_same_bytes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        contents.append(write_features(features(), folder, [name])[0].read_bytes())
    assert contents[0] == contents[1]


def test_no_file_holds_the_time_of_writing(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["gpkg"])
    assert (
        pyogrio.read_dataframe(path, sql="SELECT last_change FROM gpkg_contents")["last_change"]
        .astype(str)
        .str.startswith("1970-01-01")
        .all()
    )


@pytest.mark.parametrize("name", FORMATS)
def test_no_features_give_a_valid_file(tmp_path: Path, name: str) -> None:
    (path,) = write_features(nothing(), tmp_path, [name])
    if name == "geojsonl":
        assert path.read_bytes() == b""
        return
    found = pyogrio.read_dataframe(path) if name != "parquet" else geopandas.read_parquet(path)
    assert len(found) == 0
    if name not in {"geojson", "pmtiles"}:
        assert set(nothing().columns) <= set(found.columns)


@pytest.mark.parametrize("geobox", [UTM, ANTIMERIDIAN, FROM_THE_WEST, SOUTH_UP, POLE, ARCTIC])
def test_geojson_follows_rfc_7946(tmp_path: Path, geobox: GeoBox) -> None:
    (path,) = write_features(features(geobox), tmp_path, ["geojson"])
    document = json.loads(path.read_text(encoding="utf-8"))
    assert sorted(document) == ["features", "type"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in document["features"]]
    assert len(shapes) == len(features(geobox))
    for shape in shapely.get_parts(shapes):
        assert shape.is_valid
        assert shape.exterior.is_ccw
        assert not any(ring.is_ccw for ring in shape.interiors)
        west, south, east, north = shape.bounds
        assert -180 <= west < east <= 180
        assert -90 <= south < north <= 90
    crossing = {shape.geom_type for shape in shapes} == {"Polygon", "MultiPolygon"}
    assert crossing == (geobox not in (UTM, SOUTH_UP))
    assert shapely.coverage_is_valid(shapely.get_parts(shapes))
    assert set(document["features"][0]) == {"type", "id", "properties", "geometry"}
    assert [feature["id"] for feature in document["features"]] == list(range(1, len(shapes) + 1))
    assert document["features"][0]["properties"]["datetime"] == "2024-05-06T07:08:09Z"


def test_geojson_has_seven_decimals_and_one_feature_a_line(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["geojson"])
    text = path.read_text(encoding="utf-8")
    shapes = [line.partition('"geometry":')[2] for line in text.splitlines()[1:-1]]
    assert len(shapes) == len(features())
    numbers = [
        n for shape in shapes for n in shape.replace("[", " ").replace("]", " ").replace(",", " ").split() if "." in n
    ]
    assert numbers
    assert max(len(number.partition(".")[2].rstrip("}")) for number in numbers) <= 7


def test_geojson_lines_are_the_features_of_the_collection(tmp_path: Path) -> None:
    whole, lines = write_features(features(ANTIMERIDIAN), tmp_path, ["geojson", "geojsonl"])
    collection = json.loads(whole.read_text(encoding="utf-8"))
    assert [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] == collection["features"]


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    size=st.integers(1, 60),
    seed=st.integers(0, 99),
    budget=st.sampled_from([0, 5000, 20000, sorting.BUDGET]),
    geobox=st.sampled_from([UTM, ANTIMERIDIAN]),
)
def test_frames_of_any_order_and_size_are_the_same_bytes(
    name: str, size: int, seed: int, budget: int, geobox: GeoBox
) -> None:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        contents = []
        for folder, frames in (("one", features(geobox)), ("many", shuffled(features(geobox), seed, size))):
            (Path(place) / folder).mkdir()
            patch.chdir(Path(place) / folder)
            contents.append(write_features(frames, Path(place) / folder, [name])[0].read_bytes())
            patch.setattr(sorting, "BUDGET", budget)
        assert contents[0] == contents[1]


def test_ids_count_in_the_order_of_first(tmp_path: Path) -> None:
    frame = features()
    (path,) = write_features(shuffled(frame, 1), tmp_path, ["parquet"])
    found = geopandas.read_parquet(path).sort_values("id")
    assert found["id"].tolist() == list(range(1, len(frame) + 1))
    assert "first" not in found
    assert all(one.equals_exact(other) for one, other in zip(found.geometry, frame.geometry, strict=True))


def test_frames_that_do_not_fit_one_another_are_refused(tmp_path: Path) -> None:
    one, other = next(shuffled(features(), 0)), next(shuffled(features(SOUTH_UP), 0))
    with pytest.raises(SinkError, match="differ in columns or CRS"):
        write_features([one, other], tmp_path, ["parquet"])
    with pytest.raises(SinkError, match="differ in columns or CRS"):
        write_features([one, one.drop(columns="scene")], tmp_path, ["parquet"])
    with pytest.raises(SinkError, match="'first'"):
        write_features([features(), features()], tmp_path, ["parquet"])
    with pytest.raises(SinkError, match="no frame"):
        write_features([], tmp_path, ["parquet"])
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_whoever_makes_frames_reaches_the_caller(tmp_path: Path) -> None:
    def frames() -> Iterator[geopandas.GeoDataFrame]:
        yield next(shuffled(features(), 0))
        raise SourceError("labels.tif: cannot be read")

    with pytest.raises(SourceError, match="cannot be read"):
        write_features(frames(), tmp_path, ["parquet"])
    assert list(tmp_path.iterdir()) == []


def test_what_else_wants_the_features_gets_them(tmp_path: Path) -> None:
    seen: list[Any] = []
    write_features(features(), tmp_path, ["parquet"], also=seen.extend)
    assert sum(len(table) for table in seen) == len(features())


def test_a_large_geojson_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    write_features(features(), tmp_path, ["geojson"], on_event=events.append)
    assert events == []
    monkeypatch.setattr(vector, "LARGE_GEOJSON", 1000)
    write_features(features(), tmp_path, ["geojson"], on_event=events.append)
    (event,) = events
    assert isinstance(event, Warned)
    assert "polygons.geojson" in event.message


def test_parquet_is_geoparquet_1_1_with_covering_in_hilbert_order(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["parquet"])
    file = pyarrow.parquet.ParquetFile(path)
    geo = json.loads(file.schema_arrow.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    assert column["geometry_types"] == ["Polygon"]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    table = file.read().to_pandas()
    box = table["bbox"].iloc[0]
    shape = shapely.from_wkb(table["geometry"].iloc[0])
    assert (box["xmin"], box["ymin"], box["xmax"], box["ymax"]) == shape.bounds
    found = geopandas.read_parquet(path)
    assert found.hilbert_distance().is_monotonic_increasing
    few = geopandas.read_parquet(path, bbox=(500000, 4999900, 500100, 5000000))
    assert 0 < len(few) < len(found)
    file.close()


def test_several_formats_come_in_order_and_leave_nothing_behind(tmp_path: Path) -> None:
    work = tmp_path / ".run"
    work.mkdir()
    paths = write_features(features(), tmp_path, ["parquet", "geojson", "parquet"], workdir=work)
    assert [path.name for path in paths] == ["polygons.parquet", "polygons.geojson"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".run", "polygons.geojson", "polygons.parquet"]
    assert write_features(features(), tmp_path, []) == []


def test_a_leftover_of_a_killed_run_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".polygons").mkdir()
    (tmp_path / ".polygons" / "polygons.gpkg").write_bytes(b"half")
    (path,) = write_features(features(), tmp_path, ["gpkg"])
    assert len(read(path)) == len(features())
    assert not (tmp_path / ".polygons").exists()


def test_when_one_format_fails_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector, "FORMATS", {**FORMATS, "fgb": full})
    with pytest.raises(SinkError, match="No space left on device"):
        write_features(features(), tmp_path, ["fgb"])
    assert list(tmp_path.iterdir()) == []


def test_regions_that_touch_at_corners_are_multipolygons_in_every_format(tmp_path: Path) -> None:
    frame = features()
    parts = list(frame.geometry)
    parts[:2] = [
        shapely.MultiPolygon([parts[0], shapely.box(*[number + 10000 for number in parts[0].bounds])]),
        parts[1],
    ]
    frame = frame.set_geometry(geopandas.GeoSeries(parts, crs=frame.crs))
    for path in write_features(frame, tmp_path, ["parquet", "fgb", "gpkg", "geojson"]):
        found = read(path).sort_values("area_m2").to_crs(frame.crs)
        np.testing.assert_allclose(found.geometry.area, frame.sort_values("area_m2").geometry.area, rtol=1e-3)
        kinds = {"Polygon", "MultiPolygon"} if path.suffix in {".parquet", ".geojson"} else {"MultiPolygon"}
        assert set(found.geometry.geom_type) == kinds


def test_a_geopackage_carries_its_style(tmp_path: Path) -> None:
    (path,) = write_features(features(), tmp_path, ["gpkg"], classes=CLASSES)
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["polygons", "layer_styles"]
    (style,) = pyogrio.read_dataframe(path, layer="layer_styles").itertuples()
    assert (style.f_table_name, style.f_geometry_column, bool(style.useAsDefault)) == ("polygons", "geom", True)
    categories = ET.fromstring(style.styleQML).iter("category")
    assert [category.get("label") for category in categories] == [info.name for info in CLASSES]
    assert len(pyogrio.read_dataframe(path, layer="polygons")) == len(features())
    again = write_features(features(), tmp_path, ["gpkg"], classes=CLASSES)[0].read_bytes()
    assert write_features(shuffled(features(), 3), tmp_path, ["gpkg"], classes=CLASSES)[0].read_bytes() == again


def test_an_unknown_format_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"shp.*geojson, geojsonl, parquet, fgb, gpkg, pmtiles"):
        write_features(features(), tmp_path, ["geojson", "shp"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="missing"):
        write_features(features(), tmp_path / "missing", ["geojson"], workdir=tmp_path)


def test_a_gdal_without_pmtiles_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyogrio, "list_drivers", dict)
    with pytest.raises(MissingExtraError, match="pip install"):
        write_features(features(), tmp_path, ["pmtiles"])
