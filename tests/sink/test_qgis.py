"""A run's QGIS project, read as XML; QGIS itself reads it in ``tests/gis``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from geoseg.errors import SinkError, SourceError
from geoseg.journal import FINAL_NAMES
from geoseg.sink.qgis import PROJECT, write_project

CLASSES = [(0, "none", "Unchanged", "CCCCCC"), (3, "lost", "Lost <all> & more\x00", "FF0080")]
BOX = [499999.9999999, 0.1, 6e5, 4e6]


def write_item(folder: Path, files: tuple[str, ...], **properties: Any) -> Path:
    """The item of a run that left `files`."""
    keys = ("value", "name", "title", "color_hint")
    bands = [{"classification:classes": [dict(zip(keys, entry, strict=True)) for entry in CLASSES]}]
    assets: dict[str, Any] = {name.replace(".", "_"): {"href": f"./{name}"} for name in files}
    assets["change" if "change.tif" in files else "labels"] = {"href": f"./{files[0]}", "bands": bands}
    fields = {"title": "a -> b", "proj:code": "EPSG:32633", "proj:bbox": BOX} | properties
    (folder / "item.json").write_text(json.dumps({"properties": fields, "assets": assets}))
    return folder


def layers(project: Path) -> dict[str, ET.Element]:
    """Its layers by their source, from the top."""
    root = ET.parse(project).getroot()
    by_id = {layer.findtext("id"): layer for layer in root.iterfind("projectlayers/maplayer")}
    order = [entry.get("id") for entry in root.iterfind("layer-tree-group/layer-tree-layer")]
    assert sorted(map(str, order)) == sorted(map(str, by_id))
    return {str(by_id[key].findtext("datasource")): by_id[key] for key in order}


@pytest.mark.parametrize(
    ("vectors", "best"),
    [
        (("geojson", "parquet", "fgb", "gpkg", "pmtiles"), "./polygons.gpkg|layername=polygons"),
        (("geojson", "fgb"), "./polygons.fgb"),
        (("geojson", "parquet"), "./polygons.geojson"),
        (("parquet", "pmtiles"), None),
        ((), None),
    ],
)
def test_polygons_come_from_the_file_that_qgis_reads_best(
    vectors: tuple[str, ...], best: str | None, tmp_path: Path
) -> None:
    files = ("labels.tif", "confidence.tif", *(f"polygons.{name}" for name in vectors))
    found = list(layers(write_project(write_item(tmp_path, files))))
    assert found == ["./confidence.tif", *filter(None, [best]), "./labels.tif"]


def test_of_a_change_what_did_not_change_has_no_polygon(tmp_path: Path) -> None:
    project = write_project(write_item(tmp_path, ("change.tif", "change_probability.tif", "polygons.geojson")))
    probability, polygons, change = layers(project).values()
    entries = [(entry.get("value"), entry.get("label")) for entry in change.iter("paletteEntry")]
    assert entries == [("0", "Unchanged"), ("3", "Lost <all> & more\ufffd")]
    assert [entry.get("value") for entry in polygons.iter("category")] == ["3"]
    assert polygons.findtext("srs/spatialrefsys/authid") == "EPSG:4326"
    assert [layer.findtext("layername") for layer in (probability, change)] == ["Probability of change", "Change"]


def test_the_extent_is_that_of_the_map_to_the_last_digit(tmp_path: Path) -> None:
    extent = ET.parse(write_project(write_item(tmp_path, ("labels.tif",)))).find("mapcanvas/extent")
    assert extent is not None
    assert [float(str(side.text)) for side in extent] == BOX


def test_it_goes_when_another_run_takes_the_place() -> None:
    assert PROJECT in FINAL_NAMES


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_project(write_item(tmp_path, ("labels.tif", "polygons.fgb"))).read_bytes()
    assert write_project(tmp_path).read_bytes() == first
    assert str(tmp_path).encode() not in first


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"properties": {}, "assets": {}}',
        '{"properties": {}, "assets": {"labels": {"bands": [{}]}}}',
    ],
)
def test_what_is_no_run_is_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "item.json").write_text(content)
    with pytest.raises(
        SourceError, match=r"item\.json: not the item of a finished run .*name the directory of one"
    ) as told:
        write_project(tmp_path)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run.qgs").exists()


def test_an_unknown_crs_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"item\.json"):
        write_project(write_item(tmp_path, ("labels.tif",), **{"proj:code": "EPSG:1"}))


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    write_item(tmp_path, ("labels.tif",))
    (tmp_path / "run.qgs").mkdir()
    with pytest.raises(SinkError, match=r"run\.qgs"):
        write_project(tmp_path)
