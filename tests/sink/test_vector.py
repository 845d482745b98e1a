"""Vector files: every format holds the same features, valid, without seams, in the same bytes every time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine

from geoseg.errors import GridError, MissingExtraError, SinkError
from geoseg.events import Event, Warned
from geoseg.sink import vector
from geoseg.sink.vector import FORMATS, make_features, write_features
from geoseg.spec import ClassInfo
from geoseg.window import GeoBox

UTM = GeoBox((60, 80), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633")
ANTIMERIDIAN = GeoBox((60, 80), Affine(300, 0, 630000, 0, -300, 7.2e6), "EPSG:32660")
SOUTH_UP = GeoBox((60, 80), Affine(10, 0, 500000, 0, 10, 5e6), "EPSG:32733")
POLE = GeoBox((60, 60), Affine(1000, 0, -30000, 0, -1000, 30000), "EPSG:3031")
CLASSES = (ClassInfo(value=0, name="water"), ClassInfo(value=1, name="Wüste"), ClassInfo(value=2, name='a "b"'))
TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def features(geobox: GeoBox = UTM, **options: Any) -> geopandas.GeoDataFrame:
    rng = np.random.default_rng(0)
    height, width = geobox.shape
    labels = np.kron(rng.integers(0, 3, (height // 6 + 1, width // 6 + 1)), np.ones((6, 6), int))[:height, :width]
    labels[:7, :9] = 255
    fields: dict[str, Any] = {"confidence": np.where(labels == 255, 255, 100 + labels), "confidence_scale": 0.004}
    fields |= {"scene": "S2A", "datetime": TAKEN, "model": "cover"}
    return make_features(labels.astype(np.uint8), geobox=geobox, nodata=255, classes=CLASSES, **(fields | options))


def nothing(geobox: GeoBox = UTM) -> geopandas.GeoDataFrame:
    return make_features(np.full(geobox.shape, 255, np.uint8), geobox=geobox, nodata=255, classes=CLASSES)


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else pyogrio.read_dataframe(path)


def test_columns_say_what_a_region_is() -> None:
    frame = features()
    assert list(frame.columns) == [
        "class_id", "class_name", "area_m2", "confidence_mean", "scene", "datetime", "model", "geometry",
    ]  # fmt: skip
    assert frame.crs.to_epsg() == 32633
    assert set(zip(frame["class_id"], frame["class_name"], strict=True)) == {(0, "water"), (1, "Wüste"), (2, 'a "b"')}
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
    frame = features(bare, confidence=None, datetime=None)
    assert frame[["area_m2", "confidence_mean", "datetime"]].isna().all(axis=None)
    (path,) = write_features(frame, tmp_path, ["parquet"])
    assert geopandas.read_parquet(path).crs is None
    with pytest.raises(SinkError, match="without a CRS"):
        write_features(frame, tmp_path, ["geojson"])
    (path,) = write_features(features(datetime=None, confidence=None), tmp_path, ["geojson"])
    properties = json.loads(path.read_text(encoding="utf-8"))["features"][0]["properties"]
    assert (properties["datetime"], properties["confidence_mean"]) == (None, None)


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(GridError, match=r"\(2, 2\)"):
        make_features(np.zeros((2, 2), np.uint8), geobox=UTM, nodata=None, classes=CLASSES)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_back_with_every_feature(tmp_path: Path, name: str) -> None:
    frame = features()
    (path,) = write_features(frame, tmp_path, [name])
    assert path == tmp_path / f"polygons.{name}"
    found = read(path)
    assert set(frame.columns) <= set(found.columns)
    if name == "pmtiles":  # cut into tiles
        assert shapely.union_all(found.geometry).area > 0
        assert set(found["class_name"]) == set(frame["class_name"])
        return
    assert len(found) == len(frame)
    keys = ["class_id", "area_m2"]
    ours = frame.assign(x=frame.geometry.centroid.x).sort_values([*keys, "x"]).reset_index()
    placed = found.to_crs(frame.crs)
    theirs = placed.assign(x=placed.geometry.centroid.x.round(0)).sort_values([*keys, "x"]).reset_index()
    for column in ("class_id", "class_name", "area_m2", "confidence_mean", "scene", "model"):
        assert ours[column].tolist() == theirs[column].tolist()
    assert (theirs["datetime"] == TAKEN).all()
    assert found.is_valid.all()
    np.testing.assert_allclose(placed.geometry.area.sum(), frame.geometry.area.sum(), rtol=1e-5)
    assert found.crs.to_epsg() == (4326 if name == "geojson" else 32633)


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
    found = pyogrio.read_dataframe(path) if name != "parquet" else geopandas.read_parquet(path)
    assert len(found) == 0
    if name not in {"geojson", "pmtiles"}:
        assert set(nothing().columns) <= set(found.columns)


@pytest.mark.parametrize("geobox", [UTM, ANTIMERIDIAN, SOUTH_UP, POLE])
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
    assert crossing == (geobox in (ANTIMERIDIAN, POLE))
    assert shapely.coverage_is_valid(shapely.get_parts(shapes))
    assert set(document["features"][0]) == {"type", "properties", "geometry"}
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


def test_geojson_in_batches_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_features(features(), tmp_path, ["geojson"])[0].read_bytes()
    monkeypatch.setattr(vector, "BATCH", 7)
    assert write_features(features(), tmp_path, ["geojson"])[0].read_bytes() == whole


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


def test_an_unknown_format_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"shp.*geojson, parquet, fgb, gpkg, pmtiles"):
        write_features(features(), tmp_path, ["geojson", "shp"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="missing"):
        write_features(features(), tmp_path / "missing", ["geojson"], workdir=tmp_path)


def test_a_gdal_without_pmtiles_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyogrio, "list_drivers", dict)
    with pytest.raises(MissingExtraError, match="pip install"):
        write_features(features(), tmp_path, ["pmtiles"])
