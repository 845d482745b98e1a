"""A real scene, in degrees, with some thousand polygons, goes through every program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import geoseg
from geoseg.sink.qgis import write_project
from tests.databases import Server
from tests.gis import test_ogr, test_postgis, test_qgis

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def flood(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flood in Spain, 512 x 512 pixels."""
    out = tmp_path_factory.mktemp("real") / "map"
    scene = shared / "data" / "s2_scenes" / "spain_segura_l1c_13band.tif"
    geoseg.segment(scene, out=out, vector=("geojson", "parquet", "fgb", "gpkg"))
    write_project(out)
    return out


def test_qgis_draws_every_pixel(flood: Path, tmp_path: Path) -> None:
    shown = test_qgis.show(flood, tmp_path)
    assert shown.facts["crs"] == "EPSG:4326"
    assert [layer["valid"] for layer in shown.facts["layers"]] == [True, True, True]
    np.testing.assert_array_equal(test_qgis.middles(shown.picture("map")), shown.colors())
    np.testing.assert_array_equal(test_qgis.middles(shown.picture("Polygons")), shown.colors())


@pytest.mark.parametrize("name", ["geojson", "fgb", "gpkg"])
def test_ogr_finds_every_polygon(name: str, flood: Path) -> None:
    test_ogr.assert_sound(flood / f"polygons.{name}", flood)


def test_postgis_measures_what_was_reported(flood: Path, server: Server, tmp_path: Path) -> None:
    with server.database("real") as database:
        test_postgis.load(flood / "polygons.parquet", server, database, tmp_path)
        test_postgis.assert_as_reported(server, database, flood)
