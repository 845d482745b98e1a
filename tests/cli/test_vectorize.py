"""``geoseg vectorize``: files in every format, names and confidence of a run, one clear line where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely

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
        ("", "--out is missing: name a file of polygons, or a database with --to"),
        ("{0}/labels.tif -o {0}/a.fgb", "2 maps were given"),
        ("-o {0}/a.fgb --simplify -1", "--simplify: should be greater than or equal to 0"),
        ("-o {0}/a.fgb --max-vertices 5", "16 vertices or more"),
        ("-o {0}/a.fgb --stats dem.tif", "--stats: should be RASTER:mean,max"),
        ("-o {0}/a.fgb --to mysql://here/land", "the database's address is not postgresql://"),
        ("-o {0}/a.fgb --names water", "--names water: write NAME=VALUE"),
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
