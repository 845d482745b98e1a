"""Polygons from PostGIS over HTTP: the same answers as from the runs' files, and none of the database's own words."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from geoseg.errors import ConfigError
from geoseg.serve.service import make_service
from geoseg.serve.settings import ServiceSettings
from geoseg.sink.layer import gather
from geoseg.sink.postgis import parse_destination, write_postgis
from tests.databases import PASSWORD, Server, postgis_server
from tests.runs import FIRST, make_run
from tests.serve.conftest import Connect
from tests.serve.test_features import FIJI, ITEMS, pages
from tests.sink.layers import shuffled

psycopg = pytest.importorskip("psycopg", reason="an extra: pip install 'geoseg[postgis]'")


def address(server: Server, database: str, password: str = PASSWORD, port: int = 0) -> str:
    return f"postgresql://{server.user}:{quote(password, safe='')}@{server.host}:{port or server.port}/{database}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgis_server() as running:
        yield running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one across the antimeridian without a time, one of which only a table knows polygons, and one more."""
    folder = tmp_path_factory.mktemp("service")
    make_run(folder / "runs" / "one")
    make_run(folder / "runs" / "fiji", geobox=FIJI, when=None)
    make_run(folder / "runs" / "bare", vector=("geojson",))
    make_run(folder / "runs" / "filed", seed=1)
    return folder


@pytest.fixture(scope="module")
def database(server: Server, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database with the polygons of all runs but the last, in tables of their own CRS and of none."""
    with server.database("served") as name:
        for number, (run, table) in enumerate([("one", "land"), ("bare", "land"), ("fiji", "sea")]):
            item = json.loads((root / "runs" / run / "item.json").read_bytes())
            again = tmp_path_factory.mktemp("again") / run
            made = make_run(again, geobox=FIJI, when=None) if run == "fiji" else make_run(again)
            layer = gather(shuffled(made.frame, number), tmp_path_factory.mktemp("layer"))
            write_postgis(layer, parse_destination(address(server, name), table), run=item["id"])
        yield address(server, name)


@pytest.fixture(scope="module")
def twin(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs in a folder of another service."""
    return Path(shutil.copytree(root, tmp_path_factory.mktemp("twin") / "service"))


@pytest.fixture
def both(connect: Connect, root: Path, twin: Path, database: str) -> tuple[Any, Any]:
    """Clients of a service that reads files, and of one that reads the database."""
    files, table = (
        connect(ServiceSettings(root=folder, features=place, rate=1e6, burst=10**6))
        for folder, place in ((root, None), (twin, f"{database}?table=land"))
    )
    return files, table


def by_id(api: Any, url: str) -> list[dict[str, Any]]:
    return sorted((feature for page in pages(api, url) for feature in page), key=lambda feature: feature["id"])


@st.composite
def queries(draw: st.DrawFn) -> dict[str, str]:
    """Boxes near the run, times, and ranges of attributes, of which some are meant at once."""
    west, east = sorted(draw(st.tuples(*[st.floats(10.3600, 10.3663)] * 2)))
    south, north = sorted(draw(st.tuples(*[st.floats(48.7370, 48.7440)] * 2)))
    low, high = sorted(draw(st.tuples(*[st.integers(0, 9000)] * 2)))
    choices = {
        "bbox": st.just(f"{west:.6f},{south:.6f},{east:.6f},{north:.6f}"),
        "datetime": st.sampled_from([FIRST.isoformat().replace("+00:00", "Z"), "2024-05-04/..", "../2024-05-03"]),
        "class_name": st.sampled_from(["water", "forest", "no'thing", "%s"]),
        "class_id": st.sampled_from(["1", "1/..", "../1", "../.."]),
        "area_m2": st.just(f"{low}/{high}"),
        "perimeter_m": st.sampled_from(["../200", "100/..", "../.."]),
        "scene": st.sampled_from(["one", "two"]),
    }
    names = draw(st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=3))
    return {name: draw(choices[name]) for name in names} | {"limit": str(draw(st.sampled_from([1, 3, 10, 1000])))}


@pytest.mark.system
@tries(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(query=queries())
def test_both_backends_answer_alike(both: tuple[Any, Any], query: dict[str, str]) -> None:
    url = f"{ITEMS.format('one')}?{urlencode(query)}"
    first, second = (api.get(url).json() for api in both)
    assert first.get("numberMatched", -1) == second.get("numberMatched", -1)
    assert set(first) == set(second)
    if "bbox" not in query:
        assert first["numberReturned"] == second["numberReturned"]
    assert by_id(both[0], url) == by_id(both[1], url)


@pytest.mark.system
def test_a_feature_and_its_collection_are_alike(both: tuple[Any, Any]) -> None:
    for path in ("one", "one/conformance", "one/collections", "one/collections/polygons"):
        assert both[0].get(f"/runs/{path}").json() == both[1].get(f"/runs/{path}").json()
    for polygon in ("1", "7", "0", "9" * 18, "x"):
        first, second = (api.get(f"{ITEMS.format('one')}/{polygon}") for api in both)
        assert (first.status_code, first.json()) == (second.status_code, second.json())


@pytest.mark.system
def test_what_the_antimeridian_cuts_is_alike(connect: Connect, root: Path, twin: Path, database: str) -> None:
    file, table = (
        connect(ServiceSettings(root=folder, features=place, rate=1e6, burst=10**6))
        for folder, place in ((root, None), (twin, f"{database}?table=sea"))
    )
    for query in ("limit=7", "bbox=179,-18,-179,-16&limit=1000", "bbox=179.5,-17.5,180,-17"):
        assert by_id(file, f"{ITEMS.format('fiji')}?{query}") == by_id(table, f"{ITEMS.format('fiji')}?{query}")


@pytest.mark.system
def test_a_table_serves_runs_without_geoparquet_and_files_what_it_lacks(both: tuple[Any, Any], root: Path) -> None:
    written = json.loads((root / "runs" / "bare" / "polygons.geojson").read_bytes())["features"]
    got = by_id(both[1], ITEMS.format("bare"))
    assert [feature["id"] for feature in got] == [feature["id"] for feature in written]
    assert [feature["geometry"] for feature in got] == [feature["geometry"] for feature in written]
    assert both[0].get(ITEMS.format("bare")).status_code == 404
    links = both[1].get("/runs/bare/collections/polygons").json()["links"]
    assert all(both[1].get(link["href"]).status_code == 200 for link in links)
    assert len(by_id(both[1], ITEMS.format("filed"))) == pq.read_metadata(root / "runs/filed/polygons.parquet").num_rows


@pytest.mark.system
@pytest.mark.parametrize("query", ["colour=red", "class_id=1/2/3", "run_id=one", "geometry=x", "datetime=x", "token=1"])
def test_what_makes_no_sense_is_the_same_problem(both: tuple[Any, Any], query: str) -> None:
    first, second = (api.get(f"{ITEMS.format('one')}?{query}") for api in both)
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert first.status_code == 400


@pytest.mark.system
@pytest.mark.parametrize("trouble", ["nobody listens", "wrong password", "no such table", "no such database"])
def test_a_database_that_does_not_answer_is_told_in_our_words(
    trouble: str, server: Server, root: Path, database: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {
            "nobody listens": address(server, "served", port=probe.getsockname()[1]),
            "wrong password": address(server, "served", "s3cret"),
            "no such table": f"{database}?table=none",
            "no such database": address(server, "none"),
        }[trouble]
        with caplog.at_level(logging.DEBUG):
            api = connect(ServiceSettings(root=root, features=place))
            for path in (ITEMS.format("one"), "/health/ready", "/runs/one/collections"):
                answer = api.get(path)
                assert answer.status_code == 503
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["retry-after"]
                assert answer.json()["detail"] == "the database of polygons does not answer; ask again later"
    assert api.get("/health/live").status_code == 200
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "s3cret"):
        assert secret not in caplog.text
        assert secret not in repr(api.app.state.service.settings)  # type: ignore[attr-defined]


@pytest.mark.system
def test_it_is_well_again_when_the_database_is(both: tuple[Any, Any], server: Server) -> None:
    assert both[1].get("/health/ready").status_code == 200
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'geoseg'", "served")
    assert both[1].get("/health/ready").status_code == 200
    assert len(by_id(both[1], ITEMS.format("one"))) > 10


@pytest.mark.system
def test_no_question_writes_or_lasts(both: tuple[Any, Any]) -> None:
    database = both[1].app.state.service.database
    assert database.ask("SHOW statement_timeout") == [("15s",)]
    with pytest.raises(Exception, match="does not answer"):
        database.ask("DELETE FROM {table}")
    assert len(by_id(both[1], ITEMS.format("one"))) > 10


def test_what_is_no_address_is_refused_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="postgresql://") as caught:
        make_service(ServiceSettings(root=tmp_path, features="mysql://me:s3cret@host/db"))
    assert "s3cret" not in str(caught.value)
