"""SQL behind closed doors: what a query may say, what it can never reach, and geometry as shapely has it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.catalog.functions import ellipsoid_area, lonlat_shapes
from geoseg.catalog.sql import Database, database
from geoseg.errors import ConfigError, MissingExtraError

SECRET = pa.table({"word": ["not for you"]})
"""A variable that a query must not see."""


@pytest.fixture
def opened() -> Iterator[Database]:
    with database({"numbers": pa.table({"n": range(5000)})}, {"even": "SELECT n FROM numbers WHERE n % 2 = 0"}) as made:
        yield made


def value(opened: Database, sql: str, **parameters: object) -> object:
    (row,) = opened.select(sql, parameters).read_all().to_pylist()
    (only,) = row.values()
    return only


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(n) FROM even",
        "WITH all_of AS (FROM even) SELECT sum(n) FROM all_of",
        "SELECT sum(n) FROM even -- and that is all;",
        "SELECT sum(n) FROM even;",
    ],
)
def test_a_select_is_answered(opened: Database, sql: str) -> None:
    assert value(opened, sql) == sum(range(0, 5000, 2))


def test_tables_describe_themselves(opened: Database) -> None:
    assert opened.select("DESCRIBE numbers").read_all()["column_name"].to_pylist() == ["n"]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY numbers TO 'out.csv'",
        "CREATE TABLE mine AS SELECT 1",
        "INSERT INTO numbers VALUES (1)",
        "ATTACH 'file.db'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "INSTALL spatial",
        "LOAD spatial",
        "EXPORT DATABASE 'there'",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE COPY numbers TO 'out.csv'",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY numbers TO 'out.csv'",
        "DROP VIEW even",
        "",
    ],
)
def test_what_is_no_select_is_refused(
    opened: Database, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="must be one SELECT"):
        opened.select(sql)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "source",
    [
        "'{file}'",
        "read_parquet('{file}')",
        "read_csv('{file}')",
        "read_text('{file}')",
        "read_blob('{file}')",
        "read_json('{file}')",
        "sniff_csv('{file}')",
        "parquet_metadata('{file}')",
        "parquet_schema('{file}')",
        "glob('{folder}/*')",
        "'http://127.0.0.1:9/x.parquet'",
        "'s3://bucket/x.parquet'",
        "query('COPY numbers TO ''{folder}/out.csv''')",
        "SECRET",
        "secret",
        "sqlite_scan('{file}', 'x')",
        "duckdb_secrets()",
    ],
)
def test_nothing_else_can_be_read(opened: Database, source: str, tmp_path: Path) -> None:
    file = tmp_path / "private.parquet"
    pq.write_table(SECRET, file)
    secret = SECRET  # noqa: F841 - what must not be seen
    with pytest.raises(ConfigError, match="cannot be answered"):
        opened.select(f"SELECT * FROM {source.format(file=file, folder=tmp_path)}").read_all()
    assert list(tmp_path.iterdir()) == [file]


def test_the_doors_cannot_be_opened_from_outside_either(opened: Database) -> None:
    for setting in ("enable_external_access = true", "python_enable_replacements = true", "lock_configuration = false"):
        with pytest.raises(duckdb.Error, match=r"locked|Cannot change"):
            opened._connection.execute(f"SET {setting}")


def test_mistakes_are_one_line(opened: Database) -> None:
    with pytest.raises(ConfigError, match=r'"m" not found') as caught:
        opened.select("SELECT m FROM numbers")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="Conversion Error"):
        opened.select("SELECT n, CAST('x' || n AS INTEGER) FROM numbers").read_all()


def test_parameters_that_are_not_named_are_left_out(opened: Database) -> None:
    assert value(opened, "SELECT $a + 1", a=2, b=3) == 3


def test_the_program_ends_quietly() -> None:
    code = (
        "from geoseg.catalog.sql import database\n"
        "with database({}, {}) as opened:\n    print(opened.select('SELECT 1 AS n').read_all().to_pylist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[{'n': 1}]\n", "")


def test_duckdb_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'geoseg\[catalog\]'"), database({}, {}):
        pass


# --- geometry ---

SHAPES = [shapely.box(x, y, x + 0.6, y + 0.6) for x in np.arange(5, 9, 0.5) for y in np.arange(45, 48, 0.5)]
SHAPES.append(shapely.Polygon(shapely.box(5, 45, 9, 48).exterior, [shapely.box(6, 46, 7, 47).exterior]))
SHAPES.append(shapely.MultiPolygon([shapely.box(5, 45, 5.2, 45.2), shapely.box(8, 47, 8.2, 47.2)]))
ASKED = shapely.Polygon([(5.3, 45.1), (8.4, 45.7), (7.9, 47.6), (6.1, 46.2)])


@pytest.fixture
def shapes() -> Iterator[Database]:
    table = pa.table({"i": range(len(SHAPES)), "wkb": [*shapely.to_wkb(SHAPES)]})
    view = "SELECT i, ST_GeomFromWKB(wkb) AS geometry FROM _shapes UNION ALL SELECT -1, NULL"
    with database({"_shapes": table}, {"shapes": view}) as made:
        yield made


@pytest.mark.parametrize(
    ("call", "predicate"),
    [
        ("ST_Intersects(geometry, $asked)", shapely.intersects),
        ("ST_Intersects(geometry, ST_GeomFromText($asked))", shapely.intersects),
        ("ST_Within(geometry, $asked)", shapely.within),
        ("ST_Contains(geometry, 'POINT (6.5 46.5)')", lambda a, _: shapely.contains(a, shapely.Point(6.5, 46.5))),
        ("ST_Contains($asked, geometry)", lambda a, b: shapely.contains(b, a)),
    ],
)
def test_predicates_are_shapelys(shapes: Database, call: str, predicate: object) -> None:
    found = shapes.select(f"SELECT i FROM shapes WHERE {call} ORDER BY i", {"asked": ASKED.wkt}).read_all()
    expected = [i for i, shape in enumerate(SHAPES) if predicate(shape, ASKED)]  # type: ignore[operator]
    assert found["i"].to_pylist() == expected
    assert 0 < len(expected) < len(SHAPES)


def test_shapes_that_are_made_are_shapelys(shapes: Database) -> None:
    sql = "SELECT ST_AsWKB(ST_Intersection(geometry, $asked)) AS cut, ST_AsWKB(ST_Centroid(geometry)) AS centre, "
    sql += "ST_Area(geometry) AS area FROM shapes WHERE i >= 0 ORDER BY i"
    found = shapes.select(sql, {"asked": ASKED.wkt}).read_all()
    assert shapely.equals(shapely.from_wkb(found["cut"].to_numpy()), shapely.intersection(SHAPES, ASKED)).all()
    assert shapely.equals(shapely.from_wkb(found["centre"].to_numpy()), shapely.centroid(SHAPES)).all()
    np.testing.assert_array_equal(found["area"].to_numpy(), shapely.area(SHAPES))


def test_what_is_null_stays_null(shapes: Database) -> None:
    assert value(shapes, "SELECT area_inside(geometry, $asked) FROM shapes WHERE i = -1", asked=ASKED.wkt) is None


def test_areas_inside_add_up(shapes: Database) -> None:
    sql = "SELECT area_inside(geometry, $asked) AS inside, area_on_ellipsoid(ST_Intersection(geometry, $asked)) AS cut "
    found = shapes.select(sql + "FROM shapes WHERE i >= 0", {"asked": ASKED.wkt}).read_all()
    np.testing.assert_allclose(found["inside"].to_numpy(), found["cut"].to_numpy(), rtol=1e-12)
    cells = [shapely.box(x, y, x + 0.5, y + 0.5) for x in np.arange(5, 9, 0.5) for y in np.arange(45, 48, 0.5)]
    whole = ellipsoid_area(np.array([ASKED], object))[0]
    parts = ellipsoid_area(shapely.intersection(np.array(cells, object), ASKED)).sum()
    assert parts == pytest.approx(whole, rel=1e-7)


@settings(max_examples=25)
@given(
    lon=st.floats(-179, 179),
    lat=st.floats(-85, 85),
    size=st.floats(1e-4, 0.5),
)
def test_areas_are_those_of_geodesics_where_lines_are_short(lon: float, lat: float, size: float) -> None:
    box = shapely.segmentize(shapely.box(lon, lat, lon + size, lat + size), size / 50)
    expected = abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(box)[0])
    assert ellipsoid_area(np.array([box], object))[0] == pytest.approx(expected, rel=1e-5)


def test_a_zone_has_its_share_of_the_earth() -> None:
    zones = np.array([shapely.box(6 * i - 180, -90, 6 * i - 174, 90) for i in range(60)], object)
    areas = ellipsoid_area(zones)
    assert areas.sum() == pytest.approx(510_065_621_724_088.44, rel=1e-12)
    assert math.isclose(areas.min(), areas.max(), rel_tol=1e-12)


def test_multipolygons_are_turned_whole() -> None:
    one = shapely.box(600_000, 5e6, 600_100, 5e6 + 100)
    two = shapely.MultiPolygon([one, shapely.box(601_000, 5e6, 601_100, 5e6 + 9)])
    turned = lonlat_shapes(np.array([one, two], object), "EPSG:32632")
    assert [shape.geom_type for shape in turned] == ["Polygon", "MultiPolygon"]
    assert turned[1].geoms[0].equals(turned[0])
    assert len(turned[1].geoms) == 2


def test_the_spatial_extension_is_asked_for() -> None:
    with duckdb.connect() as connection:
        try:
            connection.execute("LOAD spatial")
        except duckdb.Error:
            with pytest.raises(ConfigError, match="INSTALL spatial"), database({}, {}, spatial=True):
                pass
            return
    with database({}, {}, spatial=True) as made:
        assert value(made, "SELECT ST_Area(ST_Buffer('POINT (0 0)'::GEOMETRY, 1))") == pytest.approx(math.pi, rel=0.01)
        assert value(made, "SELECT area_on_ellipsoid('POLYGON ((0 0, 1 0, 1 1, 0 0))')")
