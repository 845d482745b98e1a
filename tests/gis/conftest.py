"""Two finished runs with every file that a GIS may open, and a database server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

import geoseg
from geoseg.sink.qgis import write_project
from geoseg.sink.vector import FORMATS, write_features
from geoseg.spec import ClassInfo
from geoseg.testing import LinearModel, write_scene
from geoseg.window import GeoBox
from tests.databases import Server, postgis_server
from tests.pairs import write_pair
from tests.sink.layers import make_features

CLASSES = (
    ClassInfo(value=4, name="water", title="Open <water> & ice", color="2b6cb0"),
    ClassInfo(value=1, name="bare", color="aa8855"),
    ClassInfo(value=9, name="field", title="Field", color="33aa33"),
)
"""Of the run on two dates; their values are not their places."""

COVERS = LinearModel([[9.0, 0, 0, 0], [0, 9.0, 0, -2.0], [0, -3.0, 4.0, 3.0]])
COVERS.spec = replace(COVERS.spec, name="covers", classes=CLASSES)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one scene, with a project."""
    folder = tmp_path_factory.mktemp("gis")
    scene = folder / "scene.tif"
    write_scene(scene, 200, 240)
    geoseg.segment(scene, out=folder / "map", datetime="2024-05-06T10:20:30Z", vector=tuple(FORMATS))
    write_project(folder / "map")
    return folder / "map"


@pytest.fixture(scope="session")
def change_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two dates, with a project; polygons as GeoJSON and GeoParquet alone, as no option asks for more."""
    folder = tmp_path_factory.mktemp("gis-change")
    before, after = (date.path for date in write_pair(folder))
    geoseg.detect_change(before, after, out=folder / "change", model=COVERS)
    write_project(folder / "change")
    return folder / "change"


@pytest.fixture(params=["run", "change_run"])
def any_run(request: pytest.FixtureRequest) -> Path:
    """Either run."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some 50,000 polygons of one or a few pixels."""
    folder = tmp_path_factory.mktemp("noise")
    grid = GeoBox((300, 320), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
    labels = np.random.default_rng(0).integers(1, 5, grid.shape).astype(np.uint8)
    classes = [ClassInfo(value=value, name=f"class-{value}") for value in range(1, 5)]
    frame = make_features(labels, geobox=grid, nodata=255, classes=classes)
    write_features(frame, folder, ["parquet", "gpkg"])
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server with PostGIS."""
    with postgis_server() as running:
        yield running
