"""``geoseg vectorize``: files in every format, names and confidence of a run, one clear line where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine

import geoseg
from tests.cli.conftest import Call
from tests.runs import Made, make_run
from tests.source.rasters import write


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Four squares of two classes."""
    values = np.kron(np.array([[1, 2], [2, 1]]), np.ones((20, 20)))[None].astype(np.uint8)
    return write(tmp_path / "labels.tif", values)


@pytest.fixture
def run(tmp_path: Path) -> Made:
    """A finished run."""
    return make_run(tmp_path / "run")


def test_files_hold_what_the_function_gives(call: Call, labels: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"land.{kind}" for kind in ("parquet", "geojson", "gpkg")]
    words = [word for file in files for word in ("-o", file)]
    ended = call("vectorize", labels, *words, "--names", "1=water,2=land")
    assert (ended.code, ended.out.split()) == (0, [str(file) for file in files])
    assert [line.split() for line in ended.err.splitlines()[1:]] == [["land", "2", "0.080"], ["water", "2", "0.080"]]
    expected = geoseg.vectorize(labels)
    found = geopandas.read_parquet(files[0]).sort_values("id", ignore_index=True)
    assert list(found["class_name"]) == ["water", "land", "land", "water"]
    assert (shapely.normalize(found.geometry.array) == shapely.normalize(expected.geometry.array)).all()
    assert list(found["area_m2"]) == list(expected["area_m2"])
    assert pyogrio.read_info(files[2], layer="polygons")["features"] == 4
    assert len(json.loads(files[1].read_text())["features"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.tif", *sorted(file.name for file in files)]


def test_corners_join_and_squares_part(call: Call, labels: Path, tmp_path: Path) -> None:
    ended = call("vectorize", labels, "-o", tmp_path / "a.parquet", "--connectivity", 8, "--json")
    document = json.loads(ended.out)
    assert document["files"] == [str(tmp_path / "a.parquet")]
    assert [each["features"] for each in document["classes"]] == [1, 1]
    assert document["classes"][0]["km2"] == pytest.approx(0.08, rel=1e-2)
    assert ended.err == ""


def test_a_run_brings_names_confidence_and_time(call: Call, run: Made, tmp_path: Path) -> None:
    assert call("vectorize", run.folder, "-o", tmp_path / "a.parquet", "-q").code == 0
    found = geopandas.read_parquet(tmp_path / "a.parquet")
    before = geopandas.read_parquet(run.folder / "polygons.parquet")
    for column in ("class_name", "scene", "model", "datetime"):
        assert sorted(found[column]) == sorted(before[column])
    assert found["area_m2"].sum() == pytest.approx(before["area_m2"].sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-o {0}/a.shp", "a.shp: polygons are written to .geojson"),
        ("-o {0}/none/a.fgb", "none does not exist"),
        ("-o {0}/labels.fgb", "labels.fgb: is there already; --overwrite replaces it"),
        ("-o {0}/labels.FGB", "/labels.fgb: is there already; --overwrite replaces it"),
        ("", "--out is missing: name a file of polygons, or a database with --to"),
        ("{0}/labels.tif -o {0}/a.fgb", "2 maps were given"),
        ("-o {0}/a.fgb --simplify -1", "--simplify: should be greater than or equal to 0"),
        ("-o {0}/a.fgb --max-vertices 5", "16 vertices or more"),
        ("-o {0}/a.fgb --stats dem.tif", "--stats: should be RASTER:mean,max"),
        ("-o {0}/a.fgb --to mysql://here/land", "the database's address is not postgresql://"),
        ("-o {0}/a.fgb --names water", "--names water: write NAME=VALUE"),
        ("-o {0}/a.fgb --names 1=x,1=y", "--names 1=x,1=y: the value 1 stands there twice"),
        ("-o {0}/a.fgb --names --1=x", "--names --1=x: write VALUE=NAME"),
        ("-o {0}/a.fgb --confidence {0}/none.tif", "none.tif"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    words: str, said: str, call: Call, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.fgb").write_text("mine")
    ended = call("vectorize", labels, *words.format(tmp_path).split())
    assert ended.code == 2
    assert len(ended.error_lines) == len(ended.err.splitlines()) == 1
    assert said in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.fgb", "labels.tif"]
    assert (tmp_path / "labels.fgb").read_text() == "mine"


def test_a_suffix_in_capitals_means_the_file_that_is_written(call: Call, labels: Path, tmp_path: Path) -> None:
    words = ("vectorize", labels, "-o", tmp_path / "a.GeoJSON", "-q")
    ended = call(*words)
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'a.geojson'}\n")
    assert call(*words).code == 2


def test_negative_values_bear_names(call: Call, tmp_path: Path) -> None:
    values = np.repeat(np.array([-1, 2], np.int16), 20)[None].repeat(20, 0)
    place = write(tmp_path / "labels.tif", values[None])
    assert call("vectorize", place, "-o", tmp_path / "a.parquet", "--names", "-1=sea,land=2", "-q").code == 0
    found = geopandas.read_parquet(tmp_path / "a.parquet")
    assert dict(zip(found["class_id"], found["class_name"], strict=True)) == {-1: "sea", 2: "land"}


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        ("a/dem.tif:mean;b/dem.tif:max,mean", "a/dem.tif and {0}/b/dem.tif would both give the column dem_mean"),
        (
            "a/dem.tif:mean;Dem.tif:mean",
            "a/dem.tif and {0}/Dem.tif would both give the column Dem_mean; rename a raster",
        ),
        ("confidence.tif:mean", "confidence.tif would give confidence_mean, a column that polygons have"),
        ("Confidence.tif:mean", "Confidence.tif would give Confidence_mean, a column that polygons have"),
    ],
)
def test_columns_of_one_name_are_refused_before_anything_is_read(
    stats: str, said: str, call: Call, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("vectorize", labels, "-o", "a.gpkg", "--stats", stats)
    assert ended.code == 2
    assert len(ended.error_lines) == len(ended.err.splitlines()) == 1
    assert said.format(tmp_path) in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tif"]


def test_what_is_there_is_replaced_when_asked(call: Call, labels: Path, tmp_path: Path) -> None:
    (tmp_path / "a.geojsonl").write_text("mine")
    assert call("vectorize", labels, "-o", tmp_path / "a.geojsonl", "--overwrite").code == 0
    assert len((tmp_path / "a.geojsonl").read_text().splitlines()) == 4


def test_a_map_that_is_no_map_is_refused(call: Call, tmp_path: Path) -> None:
    floats = write(tmp_path / "dem.tif", np.ones((1, 20, 20), np.float32))
    (tmp_path / "empty").mkdir()
    for place, said in [(floats, "class values are integers"), (tmp_path / "empty", "holds no finished map")]:
        ended = call("vectorize", place, "-o", tmp_path / "a.fgb")
        assert ended.code == 2
        assert said in ended.err
    assert not (tmp_path / "a.fgb").exists()


@pytest.mark.parametrize("kind", ["parquet", "geojson", "geojsonl", "fgb", "gpkg", "pmtiles"])
def test_values_of_any_size_are_told_apart(call: Call, kind: str, tmp_path: Path) -> None:
    values = np.kron(np.array([[0, 2**32 - 1], [1, 2**31]]), np.ones((20, 20), int))[None].astype(np.uint32)
    place, out = write(tmp_path / "labels.tif", values), tmp_path / f"a.{kind}"
    assert call("vectorize", place, "-o", out, "--names", f"{2**31}=far", "-q").code == 0
    found = geopandas.read_parquet(out) if kind == "parquet" else geopandas.read_file(out)
    names = {0: "0", 1: "1", 2**31: "far", 2**32 - 1: str(2**32 - 1)}
    assert dict(zip(found["class_id"], found["class_name"], strict=True)) == names


def test_values_that_no_id_can_be_are_refused(call: Call, tmp_path: Path) -> None:
    place = write(tmp_path / "labels.tif", np.full((1, 20, 20), 2**63, np.uint64))
    ended = call("vectorize", place, "-o", tmp_path / "a.parquet")
    assert (ended.code, len(ended.error_lines)) == (2, 1)
    assert "9223372036854775808" in ended.err
    assert not (tmp_path / "a.parquet").exists()


def full_disk(folder: Path, radius: float) -> Path:
    """A map of the disk that a geostationary satellite sees, of two halves, and of class 0 beyond `radius`."""
    step = 11e6 / 200
    at = (np.arange(200) + 0.5) * step - 5.5e6
    halves = np.where(at[:, None] < at, 1, 2)
    values = np.where(np.hypot(*np.meshgrid(at, at)) < radius, halves, 0).astype(np.uint8)
    place = Affine(step, 0, -5.5e6, 0, -step, 5.5e6)
    return write(folder / "disk.tif", values[None], transform=place, crs="+proj=geos +h=35785831", nodata=0)


def test_a_raster_that_reaches_beyond_the_earth_keeps_its_areas(call: Call, tmp_path: Path) -> None:
    disk, plain, drawn = full_disk(tmp_path, 5e6), tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert call("vectorize", disk, "-o", plain, "-o", tmp_path / "a.geojson", "-q").code == 0
    assert call("vectorize", disk, "-o", drawn, "--simplify", 200_000, "--min-area", 1e9, "-q").code == 0
    for path in (plain, drawn):
        found = geopandas.read_parquet(path)
        assert found["area_m2"].to_numpy() == pytest.approx(6.2254e13, rel=0.02)
        assert found["perimeter_m"].between(2e7, 6e7).all()
    vertices = [shapely.get_num_coordinates(geopandas.read_parquet(path).geometry).sum() for path in (plain, drawn)]
    assert vertices[1] < vertices[0]
    geod = pyproj.Geod(ellps="WGS84")
    shown = geopandas.read_file(tmp_path / "a.geojson")
    areas = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in shown.geometry]
    assert areas == pytest.approx(shown["area_m2"].tolist(), rel=0.01)


@pytest.mark.parametrize("kind", ["geojson", "pmtiles"])
def test_what_has_no_longitude_is_refused_for_formats_that_need_it(call: Call, kind: str, tmp_path: Path) -> None:
    disk = full_disk(tmp_path, 5.45e6)
    ended = call("vectorize", disk, "-o", tmp_path / f"a.{kind}")
    assert (ended.code, len(ended.error_lines)) == (2, 1)
    assert "polygons reach beyond where their CRS has a longitude and latitude" in ended.err
    assert call("vectorize", disk, "-o", tmp_path / "a.gpkg", "-q").code == 0
    assert (geopandas.read_file(tmp_path / "a.gpkg")["area_m2"] > 0).all()


def test_vector_tiles_show_what_lies_on_the_earth(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "a.pmtiles"
    assert call("vectorize", full_disk(tmp_path, 5e6), "-o", out, "-q").code == 0
    assert set(geopandas.read_file(out)["class_id"]) == {1, 2}
