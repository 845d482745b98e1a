"""GDAL's own programs, of Debian's version, read what a run leaves: all features in every format, names and colours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoseg.sink.vector import FORMATS
from tests.gis.tables import assert_all_there
from tests.pairs import read

pytestmark = pytest.mark.system


def gdal(program: str, *arguments: str | Path) -> str:
    """What one of GDAL's programs prints; skips where there is none."""
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed: apt-get install gdal-bin")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def select(path: Path, sql: str) -> list[dict[str, str]]:
    """The rows of a query in SQLite's dialect, with GEOMETRY for the column of geometries."""
    sql = sql.replace("GEOMETRY", "geom" if path.suffix == ".gpkg" else "geometry")
    printed = gdal("ogrinfo", "-q", "-dialect", "SQLite", "-sql", sql, path)
    rows = printed.split("OGRFeature(")[1:]
    return [dict(re.findall(r"^  (\w+) \([^)]*\) = (.*)$", row, re.MULTILINE)) for row in rows]


READABLE = [name for name in FORMATS if name not in {"parquet", "pmtiles"}]
"""Debian's GDAL is built without Arrow, and vector tiles hold pieces of polygons."""


def assert_sound(path: Path, run: Path) -> None:
    """Every polygon is there, valid, with its class and its area."""
    rows = select(path, "SELECT class_name, COUNT(*) AS n, SUM(area_m2) AS area FROM polygons GROUP BY class_name")
    assert_all_there({row["class_name"]: (int(row["n"]), float(row["area"])) for row in rows}, run)
    (row,) = select(path, "SELECT COUNT(*) AS n FROM polygons WHERE NOT ST_IsValid(GEOMETRY) OR GEOMETRY IS NULL")
    assert row == {"n": "0"}


@pytest.mark.parametrize("name", READABLE)
def test_sql_finds_every_polygon_of_every_class(name: str, run: Path) -> None:
    assert_sound(run / f"polygons.{name}", run)


def test_sql_finds_every_change(change_run: Path) -> None:
    assert_sound(change_run / "polygons.geojson", change_run)


def test_planar_areas_are_those_of_the_pixels(run: Path) -> None:
    """In the scene's CRS, a polygon covers exactly its pixels."""
    labels = read(run / "labels.tif")
    for name in ("polygons.gpkg", "polygons.fgb"):
        rows = select(run / name, "SELECT class_id, SUM(ST_Area(GEOMETRY)) AS area FROM polygons GROUP BY class_id")
        found = {int(row["class_id"]): float(row["area"]) for row in rows}
        assert found == {int(value): 100.0 * (labels == value).sum() for value in np.unique(labels[labels != 255])}


def test_a_box_is_looked_up_in_the_index(run: Path) -> None:
    counts = []
    for name in ("polygons.gpkg", "polygons.fgb"):
        box = ["-spat", "600500", "5398500", "601000", "5399000"]
        printed = gdal("ogrinfo", "-q", "-al", *box, run / name)
        counts.append(printed.count("OGRFeature("))
    everything = gdal("ogrinfo", "-q", "-al", run / "polygons.fgb").count("OGRFeature(")
    assert 0 < counts[0] == counts[1] < everything / 2


def test_gdalinfo_tells_names_colors_and_nodata(any_run: Path) -> None:
    item = json.loads((any_run / "item.json").read_text())
    kind = "change" if "change" in item["assets"] else "labels"
    (asset,) = item["assets"][kind]["bands"]
    (band,) = json.loads(gdal("gdalinfo", "-json", any_run / f"{kind}.tif"))["bands"]
    assert (band["type"], band["noDataValue"], band["colorInterpretation"]) == ("Byte", 255.0, "Palette")
    classes = {entry["value"]: entry for entry in asset["classification:classes"]}
    assert {value: name for value, name in enumerate(band["categories"]) if name} == {
        value: entry["title"] for value, entry in classes.items()
    }
    for value, entry in classes.items():
        assert band["colorTable"]["entries"][value] == [*bytes.fromhex(entry["color_hint"]), 255]


def test_gdal_translate_draws_the_colors(any_run: Path, tmp_path: Path) -> None:
    kind = "change" if (any_run / "change.tif").exists() else "labels"
    item = json.loads((any_run / "item.json").read_text())
    gdal("gdal_translate", "-q", "-of", "PNG", "-expand", "rgb", any_run / f"{kind}.tif", tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as file:
        drawn = np.asarray(file.convert("RGB"))
    labels = read(any_run / f"{kind}.tif")
    for entry in item["assets"][kind]["bands"][0]["classification:classes"]:
        assert (drawn[labels == entry["value"]] == [*bytes.fromhex(entry["color_hint"])]).all()
