"""``geoseg catalog`` as a person types it: a run of the program goes in, is found, checked and asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import geopandas
import pyarrow.parquet as pq
import pytest

import geoseg
from geoseg.testing import write_scene
from tests.cli.conftest import Call
from tests.runs import make_run

AREAS = "SELECT class_name, sum(area_m2) / 1e6 AS km2 FROM polygons GROUP BY ALL ORDER BY ALL"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that geoseg itself made, and one beside it."""
    folder = tmp_path_factory.mktemp("work")
    scene = write_scene(folder / "scene.tif", 96, 80)
    geoseg.segment(scene, out=folder / "map")
    make_run(folder / "other")
    return folder


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Path:
    """A working directory with a catalog of both."""
    monkeypatch.chdir(tmp_path)
    added = call("catalog", "add", folder / "map", folder / "other", "--catalog", "data_catalog")
    assert added.code == 0, added.err
    assert [Path(line).is_file() for line in added.out.splitlines()] == [True, True]
    return tmp_path


@pytest.mark.usefixtures("here")
def test_areas_are_those_of_the_report(folder: Path, call: Call) -> None:
    answer = call("catalog", "query", AREAS.replace("GROUP", "WHERE scene = 'scene' GROUP"), "--format", "json")
    found = {row["class_name"]: row["km2"] for row in json.loads(answer.out)}
    report = json.loads((folder / "map" / "run.json").read_text())
    expected = {area["name"]: area["km2"] for area in report["areas"] if area["pixels"]}
    assert found == pytest.approx(expected, abs=1e-6)  # the report's last digit


@pytest.mark.usefixtures("here")
def test_a_catalog_in_the_working_directory_is_found(call: Call) -> None:
    lines = [line.split("\t") for line in call("catalog", "search").out.splitlines()]
    assert {name for name, _ in lines} == {"scene-spectral-baseline", "other-cover"}
    assert all(Path(href).is_file() for _, href in lines)


@pytest.mark.usefixtures("here")
def test_the_environment_comes_before_the_working_directory(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSEG_CATALOG", str(tmp_path / "nothing"))
    ended = call("catalog", "search")
    assert (ended.code, ended.out) == (2, "")
    assert ended.error_lines == [
        f"geoseg: error: {tmp_path}/nothing/items.parquet: is missing; geoseg catalog add writes it"
    ]
    assert call("catalog", "search", "--catalog", tmp_path / "data_catalog").code == 0


def test_without_a_catalog_the_way_to_one_is_told(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["search"], ["validate"], ["query", "SELECT 1"], ["add", "map"], ["remove", "x"]):
        ended = call("catalog", *words)
        assert ended.code == 2
        assert "no catalog is named: write --catalog DIR" in ended.err


def test_a_search_becomes_the_input_of_the_next_run(here: Path, folder: Path, call: Call) -> None:
    found = call("catalog", "search", "--where", "scene = 'scene'", "--datetime", "2024", "--json")
    document = json.loads(found.out)
    assert [item["id"] for item in document["features"]] == ["scene-spectral-baseline"]
    assert call("catalog", "search", "--where", "scene = 'scene'", "--output", "found.json").out == ""
    assert json.loads((here / "found.json").read_text()) == document
    planned = call("segment", "--items", "found.json", "--out", "maps", "--show-config")
    assert planned.code == 0, planned.err
    labels = document["features"][0]["assets"]["labels"]["href"]
    assert labels == str(folder / "map" / "labels.tif")


@pytest.mark.usefixtures("here")
def test_a_search_by_place_and_number(call: Call) -> None:
    assert call("catalog", "search", "--bbox", "0,0,1,1").out == ""
    ended = call("catalog", "search", "--bbox", "10,48,11,49", "--limit", "1")
    assert len(ended.out.splitlines()) == 1
    assert "more than 1 items; --limit shows more" in ended.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search", "--bbox", "1,2,3"], "--bbox 1,2,3: write W,S,E,N in degrees"),
        (["search", "--bbox", "1,2,0,0"], "is no box"),
        (["search", "--datetime", "soon"], "--datetime soon"),
        (["search", "--where", "nothing = 1"], "the query cannot be answered: Binder Error"),
        (["search", "--bbox", "1,2,3,4", "--area", "x.geojson"], "give one of them"),
        (["query", "DROP VIEW polygons"], "must be one SELECT"),
        (["query", "SELECT 1", "--format", "parquet"], "name a file with --output"),
        (["query", "SELECT 1", "--output", "x.txt"], "name it .csv, .json or .parquet"),
        (["query", "SELECT 1", "--output", "x.csv", "--format", "table"], "is for people to read"),
        (["query", "SELECT 1", "--area", "missing.geojson"], "missing.geojson"),
        (["remove", "nobody"], "lists no nobody"),
        (["add", "data_catalog/maps"], "holds no finished run"),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_are_one_line_and_code_2(call: Call, words: list[str], expected: str) -> None:
    ended = call("catalog", *words)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.error_lines) == 1
    assert expected in ended.err


@pytest.mark.usefixtures("here")
def test_an_answer_is_a_table_for_people(call: Call) -> None:
    lines = call("catalog", "query", "SELECT class_name, class_id FROM polygons WHERE false").out.splitlines()
    assert lines == ["class_name  class_id"]
    lines = call(
        "catalog", "query", "SELECT 'a' AS name, 12 AS n UNION ALL SELECT 'bcd', NULL ORDER BY 1"
    ).out.splitlines()
    assert lines == ["name   n", "a     12", "bcd"]


def test_answers_as_files(here: Path, folder: Path, call: Call) -> None:
    query = "SELECT datetime, class_name, area_m2, geometry FROM polygons WHERE item = 'other-cover' ORDER BY ALL"
    frame = geopandas.read_parquet(folder / "other" / "polygons.parquet").to_crs(4326)
    for name in ("answer.csv", "answer.json", "answer.parquet"):
        ended = call("catalog", "query", query, "--output", here / name)
        assert (ended.code, ended.out, ended.err) == (0, "", "")
    with (here / "answer.csv").open() as file:
        rows = list(csv.DictReader(file))
    features = json.loads((here / "answer.json").read_text())
    table = geopandas.read_parquet(here / "answer.parquet")
    assert len(rows) == len(features) == len(table) == len(frame)
    assert table.crs.to_epsg() == 4326 or table.crs.to_authority() == ("OGC", "CRS84")
    assert table.geometry.union_all().symmetric_difference(frame.geometry.union_all()).area < 1e-9
    for row, feature, shape in zip(rows, features, table.geometry, strict=True):
        assert row["datetime"] == feature["datetime"] == "2024-05-03T10:20:00Z"
        assert float(row["area_m2"]) == feature["area_m2"]
        assert geopandas.GeoSeries.from_wkt([row["geometry"]])[0].equals(shape)
        assert feature["geometry"]["type"] == "Polygon"
    assert b"geo" in pq.read_schema(here / "answer.parquet").metadata
    assert call("catalog", "query", "SELECT 1 AS n WHERE false", "--format", "json").out == "[]\n"
    assert call("catalog", "query", "SELECT [1] AS n, NULL AS m", "--format", "csv").out == "n,m\n[1],\n"


def test_an_area_from_a_file_and_a_box(here: Path, folder: Path, call: Call) -> None:
    frame = geopandas.read_parquet(folder / "other" / "polygons.parquet")
    frame.iloc[:1].to_crs(4326).to_file(here / "field.geojson")
    query = "SELECT round(max(inside_m2 / area_m2), 2) AS share FROM polygons WHERE item = 'other-cover'"
    assert call("catalog", "query", query, "--area", "field.geojson", "--format", "csv").out == "share\n1.0\n"
    bounds = ",".join(f"{side:.7f}" for side in frame.to_crs(4326).total_bounds)
    everything = call(
        "catalog", "query", "SELECT count(*) AS n FROM polygons WHERE item = 'other-cover'", "--bbox", bounds
    )
    assert everything.out.split() == ["n", str(len(frame))]


@pytest.mark.usefixtures("here")
def test_what_is_wrong_is_told_and_code_4(tmp_path: Path, call: Call) -> None:
    made = make_run(tmp_path / "third").folder
    (tmp_path / "scene.tif").write_bytes(b"a scene")
    assert call("catalog", "add", made, "--catalog", "new").code == 0
    ended = call("catalog", "validate", "--catalog", "new")
    assert (ended.code, ended.out, ended.err) == (0, "new: valid\n", "")
    (made / "labels.tif").unlink()
    ended = call("catalog", "validate", "--catalog", "new", "--json")
    assert ended.code == 4
    report = json.loads(ended.out)
    assert (report["catalog"], report["valid"]) == ("new", False)
    assert len(report["problems"]) == len(ended.error_lines) == 1
    assert "its asset labels is gone" in ended.error_lines[0]
    assert call("catalog", "remove", "third-cover", "--catalog", "new").code == 0
    assert call("catalog", "validate", "--catalog", "new").code == 0
