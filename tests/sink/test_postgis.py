"""Features in PostGIS: typed, indexed, by run, all or nothing, and without a word of the password."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import geopandas
import numpy as np
import pytest
import shapely

from geoseg.errors import ConfigError, SinkError
from geoseg.sink.layer import Layer, gather
from geoseg.sink.postgis import parse_destination, write_postgis
from geoseg.window import GeoBox
from tests.databases import PASSWORD, Server, postgis_server
from tests.sink.layers import ANTIMERIDIAN, TAKEN, UTM, features, nothing, shuffled

psycopg = pytest.importorskip("psycopg", reason="an extra: pip install 'geoseg[postgis]'")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgis_server() as running:
        yield running


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    numbers = getattr(request.config, "databases", None) or itertools.count()
    request.config.databases = numbers  # type: ignore[attr-defined]
    with server.database(f"maps{next(numbers)}") as name:
        yield name


def address(server: Server, database: str, *, user: str = "geoseg", password: str = PASSWORD, port: int = 0) -> str:
    return f"postgresql://{user}:{quote(password, safe='')}@{server.host}:{port or server.port}/{database}"


def layer(folder: Path, frame: geopandas.GeoDataFrame | None = None) -> Layer:
    return gather(shuffled(features() if frame is None else frame, 0), folder)


def rows(server: Server, database: str, query: str) -> list[Any]:
    with psycopg.connect(address(server, database)) as connection:
        return list(connection.execute(query).fetchall())


@pytest.mark.system
def test_every_feature_arrives_as_it_is(server: Server, database: str, tmp_path: Path) -> None:
    frame = features()
    assert write_postgis(layer(tmp_path), parse_destination(address(server, database)), run="a\tb\\") == len(frame)
    found = rows(
        server, database,
        "SELECT id, class_id, class_name, area_m2, perimeter_m, confidence_mean, scene, datetime, model, run_id,"
        " ST_AsBinary(geometry), ST_SRID(geometry), ST_IsValid(geometry) FROM polygons ORDER BY id",
    )  # fmt: skip
    for number, (row, (_, given)) in enumerate(zip(found, frame.iterrows(), strict=True), start=1):
        assert row[:7] == (
            number, given.class_id, given.class_name, given.area_m2, given.perimeter_m, given.confidence_mean, "S2A",
        )  # fmt: skip
        assert row[7:10] == (TAKEN, "cover", "a\tb\\")
        (part,) = shapely.from_wkb(row[10]).geoms
        assert part.equals_exact(given.geometry)
        assert row[11:] == (32633, True)


@pytest.mark.system
def test_columns_have_types_a_key_and_indexes(server: Server, database: str, tmp_path: Path) -> None:
    write_postgis(layer(tmp_path), parse_destination(address(server, database)), run="a")
    types = dict(
        rows(
            server, database,
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'polygons'::regclass AND attnum > 0",
        )
    )  # fmt: skip
    assert types == {
        "run_id": "text", "id": "bigint", "class_id": "integer", "class_name": "text", "area_m2": "double precision",
        "perimeter_m": "double precision", "confidence_mean": "double precision", "scene": "text",
        "datetime": "timestamp with time zone", "model": "text", "geometry": "geometry(MultiPolygon,32633)",
    }  # fmt: skip
    indexes = " ".join(row[0] for row in rows(server, database, "SELECT indexdef FROM pg_indexes"))
    assert "UNIQUE INDEX polygons_pkey ON public.polygons USING btree (run_id, id)" in indexes
    assert "public.polygons USING gist (geometry)" in indexes
    assert "public.polygons USING btree (class_id)" in indexes


@pytest.mark.system
def test_a_repeat_replaces_its_run_alone(server: Server, database: str, tmp_path: Path) -> None:
    to = parse_destination(address(server, database))
    write_postgis(layer(tmp_path), to, run="a")
    query = "SELECT run_id, count(*), sum(area_m2) FROM polygons GROUP BY run_id ORDER BY run_id"
    once = rows(server, database, query)
    write_postgis(layer(tmp_path), to, run="a")
    assert rows(server, database, query) == once
    write_postgis(layer(tmp_path), to, run="b")
    write_postgis(layer(tmp_path, features().iloc[:5]), to, run="a")
    assert [row[:2] for row in rows(server, database, query)] == [("a", 5), ("b", len(features()))]
    write_postgis(layer(tmp_path, nothing()), to, run="b")
    assert [row[:2] for row in rows(server, database, query)] == [("a", 5)]


@pytest.mark.system
def test_a_load_that_fails_leaves_what_was_there(
    server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = parse_destination(address(server, database))
    write_postgis(layer(tmp_path), to, run="a")
    before = rows(server, database, "SELECT * FROM polygons ORDER BY id")
    seen = []

    def halfway(*_: object) -> None:
        seen.append(rows(server, database, "SELECT count(*) FROM polygons"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geoseg.sink.postgis._hexadecimal", halfway)
    with pytest.raises(OSError, match="No space"):
        write_postgis(layer(tmp_path, features().iloc[:5]), to, run="a")
    assert seen == [[(len(before),)]]
    assert rows(server, database, "SELECT * FROM polygons ORDER BY id") == before


@pytest.mark.system
def test_writers_at_once_take_turns(server: Server, database: str, tmp_path: Path) -> None:
    to = parse_destination(address(server, database))
    done = []

    def load(run: str) -> None:
        done.append(write_postgis(layer(tmp_path / run), to, run=run))

    threads = [threading.Thread(target=load, args=(run,)) for run in "abca"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [len(features())] * 4
    assert rows(server, database, "SELECT count(*), count(DISTINCT run_id) FROM polygons") == [(3 * done[0], 3)]


@pytest.mark.system
def test_a_table_gains_the_columns_that_it_lacks(server: Server, database: str, tmp_path: Path) -> None:
    server.psql("CREATE SCHEMA runs", database)
    to = parse_destination(address(server, database) + "?table=runs.all")
    write_postgis(layer(tmp_path), to, run="a")
    write_postgis(layer(tmp_path, features().assign(height_mean=1.5)), to, run="b")
    found = rows(server, database, 'SELECT DISTINCT run_id, height_mean FROM runs."all" ORDER BY run_id')
    assert found == [("a", None), ("b", 1.5)]


@pytest.mark.system
@pytest.mark.parametrize(
    "geobox", [ANTIMERIDIAN, GeoBox(UTM.shape, UTM.transform, "+proj=tmerc +lon_0=15.5 +k=0.9996 +x_0=500000")]
)
def test_a_table_in_wgs_84_takes_any_crs(server: Server, database: str, tmp_path: Path, geobox: GeoBox) -> None:
    to = parse_destination(address(server, database))
    server.psql(
        "CREATE TABLE polygons (run_id text, id bigint, geometry geometry(MultiPolygon, 4326))",
        database,
    )
    write_postgis(layer(tmp_path, features(geobox)), to, run="a")
    ((low, high, area, valid),) = rows(
        server, database,
        "SELECT min(ST_XMin(geometry)), max(ST_XMax(geometry)), sum(ST_Area(geometry::geography)),"
        " bool_and(ST_IsValid(geometry)) FROM polygons",
    )  # fmt: skip
    assert valid
    assert (low, high) == (-180, 180) if geobox is ANTIMERIDIAN else high - low < 1
    np.testing.assert_allclose(area, features(geobox)["area_m2"].sum(), rtol=1e-4)


@pytest.mark.system
def test_a_table_in_another_crs_is_refused(server: Server, database: str, tmp_path: Path) -> None:
    to = parse_destination(address(server, database))
    write_postgis(layer(tmp_path), to, run="a")
    with pytest.raises(SinkError, match=r"holds geometries in EPSG:32633, these are in EPSG:32660"):
        write_postgis(layer(tmp_path, features(ANTIMERIDIAN)), to, run="b")
    server.psql("CREATE TABLE other (id bigint)", database)
    with pytest.raises(SinkError, match="has no column geometry, run_id"):
        write_postgis(layer(tmp_path), parse_destination(address(server, database), "other"), run="a")


@pytest.mark.system
def test_what_keeps_a_load_from_working_is_told_on_one_line(server: Server, database: str, tmp_path: Path) -> None:
    server.psql("CREATE ROLE guest LOGIN PASSWORD 'guest-password'", database)
    server.psql(f'CREATE DATABASE "bare-{database}"')
    quoted = quote(PASSWORD, safe="")
    wrong = {
        "no connection.*refused": address(server, database, port=1),
        "no connection.*password authentication failed": address(server, database, password="not-the-word"),
        "no connection.*does not exist": address(server, "nowhere"),
        "permission denied.*CREATE on the schema": address(server, database, user="guest", password="guest-password"),
        "no PostGIS: CREATE EXTENSION": address(server, f"bare-{database}"),
        "CREATE SCHEMA": address(server, database) + "?table=missing.polygons",
    }
    for expected, to in wrong.items():
        with pytest.raises(SinkError, match=expected) as caught:
            write_postgis(layer(tmp_path), parse_destination(to), run="a")
        said = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
        assert len(str(caught.value).splitlines()) == 1
        assert not [word for word in (PASSWORD, quoted, "not-the-word", "guest-password") if word in said]
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    server.psql(f'DROP DATABASE "bare-{database}"')


@pytest.mark.system
def test_who_may_read_and_write_needs_no_more(server: Server, database: str, tmp_path: Path) -> None:
    write_postgis(layer(tmp_path), parse_destination(address(server, database)), run="a")
    role = f"clerk_{database}"
    server.psql(
        f"CREATE ROLE {role} LOGIN PASSWORD 'clerk'; GRANT SELECT, INSERT, DELETE ON polygons TO {role}", database
    )
    write_postgis(layer(tmp_path), parse_destination(address(server, database, user=role, password="clerk")), run="a")
    assert rows(server, database, "SELECT count(*) FROM polygons") == [(len(features()),)]
    server.psql(f"DROP OWNED BY {role}; DROP ROLE {role}", database)


def test_features_without_a_crs_are_refused(tmp_path: Path) -> None:
    bare = features(GeoBox(UTM.shape, UTM.transform, None))
    with pytest.raises(SinkError, match="without a CRS"):
        write_postgis(layer(tmp_path, bare), parse_destination("postgresql://nobody@nowhere/x"), run="a")


@pytest.mark.parametrize(
    ("text", "table", "shown"),
    [
        ("postgresql://me:secret@host:5433/maps?table=runs.all", "", "host:5433/maps, table runs.all"),
        ("postgres://host/maps?table=runs.all&sslmode=require", "mine", "host/maps, table mine"),
        ("postgresql:///maps", "", "the local server/maps, table polygons"),
    ],
)
def test_an_address_names_server_database_and_table(text: str, table: str, shown: str) -> None:
    to = parse_destination(text, table)
    assert to.shown == shown
    assert "secret" not in repr(to)
    assert "table" not in to.address
    assert ("sslmode" in text) == ("sslmode=require" in to.address)


@pytest.mark.parametrize(
    "text", ["", "maps.gpkg", "mysql://me:hidden@host/x", "postgresql://me:hid/den@host:port/maps"]
)
def test_another_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://USER") as caught:
        parse_destination(text)
    assert "hid" not in f"{caught.value} {caught.value.__cause__}"
