"""The STAC API over finished runs: what it lists, finds and pages, as its standard, schemas and client see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from geoseg.serve.extents import parse_bbox, parse_interval
from geoseg.serve.problems import Problem
from geoseg.serve.runs import FinishedRun
from geoseg.serve.search import Page, SearchBody, find_runs
from geoseg.serve.settings import ServiceSettings
from tests.runs import FIRST, ZONE_33, make_run
from tests.serve.conftest import Connect, Start

pystac_client = pytest.importorskip("pystac_client", reason="needs the extra catalog")

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder with three runs: two on one scene, and one elsewhere and later."""
    folder = tmp_path_factory.mktemp("service")
    make_run(folder / "runs" / "first", scene="scene", vector=("geojson", "parquet"))
    make_run(folder / "runs" / "again", scene="scene", seed=1)
    make_run(folder / "runs" / "later", geobox=ZONE_33, when=FIRST + timedelta(days=30), seed=2)
    return folder


@pytest.fixture
def api(connect: Connect, root: Path) -> Any:
    """A client of a service over these runs."""
    return connect(ServiceSettings(root=root))


def ids(answer: Any) -> list[str]:
    """Ids of the items on a page."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/geo+json"
    document = answer.json()
    assert document["numberReturned"] == len(document["features"])
    return [item["id"] for item in document["features"]]


def follow(api: Any, answer: Any) -> Iterator[Any]:
    """A page and all that come after it, by their links."""
    while True:
        yield answer
        onward = [link for link in answer.json()["links"] if link["rel"] == "next"]
        if not onward:
            return
        (link,) = onward
        answer = api.post(link["href"], json=link["body"]) if link["method"] == "POST" else api.get(link["href"])


def test_collections_hold_the_runs_of_their_kind_and_are_valid(api: Any) -> None:
    listed = api.get("/collections").json()["collections"]
    assert [each["id"] for each in listed] == ["maps", "changes"]
    for each in listed:
        assert api.get(f"/collections/{each['id']}").json() == each
        JsonSchemaSTACValidator().validate_core(each, pystac.STACObjectType.COLLECTION, "1.1.0")
    assert listed[0]["extent"]["temporal"]["interval"] == [["2024-05-03T10:20:00Z", "2024-06-02T10:20:00Z"]]
    assert ids(api.get("/collections/changes/items")) == []
    assert ids(api.get("/collections/maps/items")) == ["later", "first", "again"]


def test_items_are_valid_and_lead_to_the_files_themselves(api: Any, root: Path) -> None:
    item = api.get("/collections/maps/items/first").json()
    JsonSchemaSTACValidator().validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")
    own = pystac.Item.from_file(root / "runs" / "first" / "item.json")
    assert item["geometry"] == own.geometry
    assert item["properties"] == own.to_dict()["properties"]
    assert set(item["assets"]) == set(own.assets)
    for key, asset in item["assets"].items():
        name = own.assets[key].href.rpartition("/")[2]
        assert api.get(asset["href"]).content == (root / "runs" / "first" / name).read_bytes()
    for link in item["links"]:
        assert api.get(link["href"]).status_code == 200, link
    assert str(root) not in json.dumps(item)


def test_items_are_valid_by_the_schemas_of_their_extensions(api: Any, shared: Path) -> None:
    folder = shared / "stac-schemas"
    if not folder.is_dir():
        pytest.skip(f"no extension schemas at {folder}: only the core of items is validated")
    validator = JsonSchemaSTACValidator()
    for path in folder.glob("*/*/schema.json"):
        uri = f"https://stac-extensions.github.io/{path.parent.relative_to(folder).as_posix()}/schema.json"
        validator.schema_cache[uri] = json.loads(path.read_text(encoding="utf-8"))
    item = api.get("/collections/maps/items/first").json()
    assert item["stac_extensions"]
    for schema in item["stac_extensions"]:
        validator.validate_extension(item, pystac.STACObjectType.ITEM, "1.1.0", schema)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["later", "first", "again"]),
        ({"ids": ["again", "nobody"]}, ["again"]),
        ({"collections": ["changes"]}, []),
        ({"datetime": "2024-05-03T10:20:00Z"}, ["first", "again"]),
        ({"datetime": "2024-05-03"}, ["first", "again"]),
        ({"datetime": "2024-05-04T00:00:00Z/.."}, ["later"]),
        ({"bbox": [10, 48, 11, 49], "limit": 5}, ["later", "first", "again"]),
        ({"bbox": [170, -90, -170, 90]}, []),
        ({"intersects": {"type": "Point", "coordinates": [10.363, 48.7435]}, "ids": ["first"]}, ["first"]),
        ({"intersects": {"type": "Point", "coordinates": [0, 0]}}, []),
    ],
)
def test_searches_by_url_and_by_body_find_the_same(api: Any, query: dict[str, Any], found: list[str]) -> None:
    words = {
        name: ",".join(map(str, value))
        if isinstance(value, list)
        else json.dumps(value)
        if name == "intersects"
        else value
        for name, value in query.items()
    }
    assert ids(api.get("/search", params=words)) == ids(api.post("/search", json=query)) == found


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_by_url_and_by_body_show_each_item_once(api: Any, method: str) -> None:
    first = api.get("/search?limit=1&datetime=../..") if method == "GET" else api.post("/search", json={"limit": 1})
    if method == "GET":
        assert first.status_code == 400  # an interval has one end at least
        first = api.get("/search?limit=1&bbox=10,48,11,49")
    assert [ids(page) for page in follow(api, first)] == [["later"], ["first"], ["again"]]


@pytest.mark.parametrize(
    "query",
    [
        "bbox=1,2,3",
        "bbox=a,b,c,d",
        "bbox=0,50,1,40",
        "bbox=0,0,1,91",
        "bbox=nan,0,1,1",
        "datetime=yesterday",
        "datetime=2024-02-30T00:00:00Z",
        "datetime=2025-01-01T00:00:00Z/2024-01-01T00:00:00Z",
        "limit=0",
        "limit=-1",
        "token=x",
        "intersects=x",
        "intersects=%7B%7D",
        "intersects=%7B%22type%22:%22Point%22,%22coordinates%22:[0,0]%7D&bbox=0,0,1,1",
        "filter=x",
    ],
)
def test_what_makes_no_sense_is_a_problem(api: Any, query: str) -> None:
    answer = api.get(f"/search?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if not query.startswith(("ids", "intersects")):
        assert api.get(f"/collections/maps/items?{query}").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/collections/none",
        "/collections/none/items",
        "/collections/maps/items/none",
        "/collections/changes/items/first",
    ],
)
def test_what_is_not_there_is_a_problem(api: Any, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


def test_a_client_of_the_standard_finds_its_way(start: Start, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "live")
    catalog = pystac_client.Client.open(start(tmp_path / "live").url)
    assert [each.id for each in catalog.get_collections()] == ["maps", "changes"]
    collection = catalog.get_collection("maps")
    assert sorted(item.id for item in collection.get_items()) == ["again", "first", "later"]
    for method in ("GET", "POST"):
        found = catalog.search(method=method, bbox=(10, 48, 11, 49), datetime="2024-05-03/..", limit=1)
        assert [item.id for item in found.items()] == ["later", "first", "again"]
        assert found.matched() == 3
    item = next(catalog.search(ids=["first"]).items())
    assert pystac.Item.from_file(item.get_self_href()).id == "first"


@st.composite
def finished_runs(draw: st.DrawFn) -> list[FinishedRun]:
    """Runs with boxes and times, some of two dates."""
    runs = []
    for number in range(draw(st.integers(0, 12))):
        west, south = draw(st.integers(-180, 170)), draw(st.integers(-90, 80))
        shape = shapely.box(west, south, west + draw(st.integers(1, 10)), south + draw(st.integers(1, 10)))
        first = BEGIN + timedelta(days=draw(st.integers(0, 5)))
        times: dict[str, Any] = {"datetime": first.isoformat()}
        outputs = ["labels.tif"]
        if draw(st.booleans()):
            last = first + timedelta(days=draw(st.integers(0, 5)))
            times = {"datetime": None, "start_datetime": first.isoformat(), "end_datetime": last.isoformat()}
            outputs = ["change.tif"]
        item = {"geometry": shapely.geometry.mapping(shape), "properties": times}
        runs.append(FinishedRun(id=f"run{number}", folder=Path(), item=item, report={"outputs": outputs}))
    return runs


def matches(run: FinishedRun, query: dict[str, Any]) -> bool:
    """What the standard says, word by word."""
    told = run.item["properties"]
    first, last = (datetime.fromisoformat(told["datetime"] or told[f"{end}_datetime"]) for end in ("start", "end"))
    begin, end = (datetime.fromisoformat(word) for word in query["datetime"].split("/"))
    west, south, east, north = query["bbox"]
    a, b, c, d = shapely.geometry.shape(run.item["geometry"]).bounds
    across = (a <= east and c >= west) if west <= east else (c >= west or a <= east)
    return across and b <= north and d >= south and first <= end and last >= begin


@given(runs=finished_runs(), data=st.data())
def test_pages_together_are_what_was_meant_whatever_comes_and_goes(
    runs: list[FinishedRun], data: st.DataObject
) -> None:
    days = sorted(data.draw(st.lists(st.integers(0, 10), min_size=2, max_size=2)))
    low, high = sorted(data.draw(st.lists(st.integers(-90, 90), min_size=2, max_size=2)))
    west, east = (data.draw(st.integers(-180, 180)) for _ in range(2))
    query: dict[str, Any] = {
        "bbox": [west, low, east, high],
        "datetime": "/".join((BEGIN + timedelta(days=day)).isoformat() for day in days),
        "limit": data.draw(st.integers(1, 4)),
    }
    meant = {run.id for run in runs if matches(run, query)}
    there, seen, token = list(runs), list[str](), None
    while True:
        page: Page = find_runs(there, SearchBody(**query, token=token))
        seen += [run.id for run in page.runs]
        if page.token is None:
            break
        assert len(page.runs) == query["limit"]
        token = page.token
        there = [run for run in there if run.id != seen[-1] or data.draw(st.booleans())]
    assert len(seen) == len(set(seen))
    assert set(seen) == meant


@example([0.0, 0.0, 0.0, 1.0])
@example([0.0, 0.0, 1.0, 0.0])
@example([180.0, 1.0, -180.0, 1.0])
@given(st.lists(st.floats(), max_size=7))
def test_a_bbox_is_an_area_or_a_problem(numbers: list[float]) -> None:
    try:
        area = parse_bbox(numbers)
    except Problem:
        return
    assert shapely.is_valid(area)
    assert not area.is_empty


@given(st.text(alphabet="0123456789-/.:TZ+", max_size=45))
def test_an_interval_has_an_order_or_is_a_problem(text: str) -> None:
    try:
        found = parse_interval(text)
    except Problem:
        return
    assert found is None or found[0] <= found[1]
