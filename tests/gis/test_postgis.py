"""PostGIS holds what a run leaves: every polygon, valid, with areas as reported, found by its index, once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import geopandas
import pytest

from geoseg.sink.layer import gather
from geoseg.sink.postgis import parse_destination, write_postgis
from tests.databases import Server
from tests.gis.tables import assert_all_there

pytest.importorskip("psycopg", reason="an extra: pip install 'geoseg[postgis]'")
pytestmark = pytest.mark.system

BOX = "ST_MakeEnvelope(500500, 4998000, 500820, 4998300, 32633)"
"""One part in a hundred of the extent of the noise."""


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    with server.database("gis") as name:
        yield name


def load(path: Path, server: Server, database: str, folder: Path) -> None:
    """Our way: the polygons of a file as the run ``one``."""
    address = f"postgresql://{server.user}:{quote(server.password, safe='')}@{server.host}:{server.port}/{database}"
    frame = geopandas.read_parquet(path).drop(columns=["id", "bbox"], errors="ignore")
    write_postgis(gather([frame], folder), parse_destination(address), run="one")


def load_with_ogr2ogr(path: Path, server: Server, database: str) -> None:
    """GDAL's way."""
    if not shutil.which("ogr2ogr"):
        pytest.skip("ogr2ogr is not installed: apt-get install gdal-bin")
    options = ["-f", "PostgreSQL", "-nln", "polygons", "-lco", "GEOMETRY_NAME=geometry"]
    done = subprocess.run(
        ["ogr2ogr", *options, f"PG:dbname={database}", path, "polygons", "--config", "PG_USE_COPY", "YES"],
        env={"PATH": "/usr/bin:/bin", **server.environment(database)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    server.psql("ANALYZE polygons", database)


def assert_as_reported(server: Server, database: str, run: Path, *, rounding: float = 1e-6) -> None:
    """Columns and, but for `rounding`, geometries say the same areas, and no geometry is broken."""
    rows = server.psql("SELECT class_name, count(*), sum(area_m2) FROM polygons GROUP BY class_name", database)
    found = {name: (int(count), float(area)) for name, count, area in rows}
    assert_all_there(found, run)
    rows = server.psql(
        "SELECT class_name, sum(ST_Area(ST_Transform(geometry, 4326)::geography)) FROM polygons GROUP BY class_name",
        database,
    )
    assert {name: float(area) for name, area in rows} == {
        # PostGIS itself is off by some thousandths of a square metre for each polygon.
        name: pytest.approx(area, abs=rounding * area + 0.05 * count)
        for name, (count, area) in found.items()
    }
    assert server.psql("SELECT count(*) FROM polygons WHERE NOT ST_IsValid(geometry)", database) == [["0"]]


def test_areas_by_class_are_those_of_the_report(any_run: Path, server: Server, database: str, tmp_path: Path) -> None:
    load(any_run / "polygons.parquet", server, database, tmp_path)
    assert_as_reported(server, database, any_run)


@pytest.mark.parametrize("name", ["geojson", "gpkg", "fgb"])
def test_ogr2ogr_loads_the_files(name: str, run: Path, server: Server, database: str) -> None:
    load_with_ogr2ogr(run / f"polygons.{name}", server, database)
    centimetres = 1e-4 if name == "geojson" else 1e-6  # seven decimals of a degree
    assert_as_reported(server, database, run, rounding=centimetres)


def test_twice_is_once(run: Path, server: Server, database: str, tmp_path: Path) -> None:
    everything = "SELECT md5(string_agg(polygons::text, ',' ORDER BY run_id, id)), count(*) FROM polygons"
    load(run / "polygons.parquet", server, database, tmp_path / "first")
    once = server.psql(everything, database)
    load(run / "polygons.parquet", server, database, tmp_path / "second")
    assert server.psql(everything, database) == once
    assert int(once[0][1]) > 100


@pytest.mark.parametrize("ours", [True, False], ids=["copy", "ogr2ogr"])
def test_a_box_uses_the_index(ours: bool, noise: Path, server: Server, database: str, tmp_path: Path) -> None:
    if ours:
        load(noise / "polygons.parquet", server, database, tmp_path)
    else:
        load_with_ogr2ogr(noise / "polygons.gpkg", server, database)
    query = f"SELECT class_name, count(*) FROM polygons WHERE geometry && {BOX} GROUP BY class_name"
    plan = "\n".join(line for (line,) in server.psql(f"EXPLAIN {query}", database))
    assert "Index Scan on polygons_geometry" in plan or "Index Scan using polygons_geometry" in plan
    assert "Seq Scan" not in plan
    frame = geopandas.read_parquet(noise / "polygons.parquet", bbox=(500500, 4998000, 500820, 4998300))
    expected = {str(name): len(group) for name, group in frame.groupby("class_name")}
    assert {name: int(count) for name, count in server.psql(query, database)} == expected
    assert sum(expected.values()) > 500
