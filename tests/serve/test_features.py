"""Polygons over HTTP: what a client gets is what stands in the run's files, chosen as geopandas would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.serve.polygon_file import PolygonFile, open_polygons
from geoseg.serve.polygons import Wish
from geoseg.serve.settings import ServiceSettings
from geoseg.window import GeoBox
from tests.runs import FIRST, make_run
from tests.serve.conftest import Connect, Start

LARGE = GeoBox((900, 880), Affine(10, 0, 600_000, 0, -10, 5_400_000), "EPSG:32632")
"""Enough polygons for several row groups."""
FIJI = GeoBox((60, 60), Affine(1000, 0, 800_000, 0, -1000, 8_080_000), "EPSG:32760")
"""Across the antimeridian."""
ITEMS = "/runs/{}/collections/polygons/items"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder with a large run, one across the antimeridian, and one without GeoParquet."""
    folder = tmp_path_factory.mktemp("service")
    make_run(folder / "runs" / "large", geobox=LARGE, vector=("geojson", "parquet"))
    make_run(folder / "runs" / "fiji", geobox=FIJI, vector=("geojson", "parquet"), when=None)
    make_run(folder / "runs" / "plain", vector=("geojson",))
    return folder


@pytest.fixture(scope="module")
def truth(root: Path) -> geopandas.GeoDataFrame:
    """The polygons of the large run, in longitude and latitude, as another library reads them."""
    features = json.loads((root / "runs" / "large" / "polygons.geojson").read_bytes())["features"]
    frame = geopandas.GeoDataFrame.from_features(features, crs="OGC:CRS84")
    return frame.assign(id=[feature["id"] for feature in features])


@pytest.fixture(scope="module")
def file(root: Path) -> PolygonFile:
    """The GeoParquet of the large run."""
    folder = root / "runs" / "large"
    return open_polygons(folder / "polygons.parquet", json.loads((folder / "item.json").read_bytes())["geometry"])


@pytest.fixture
def api(connect: Connect, root: Path) -> Any:
    """A client of a service over these runs."""
    return connect(ServiceSettings(root=root, rate=1e6, burst=10**6))


def pages(api: Any, url: str) -> Iterator[list[dict[str, Any]]]:
    """The features of a page and of all after it."""
    onward: str | None = url
    while onward:
        answer = api.get(onward)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/geo+json"
        document = answer.json()
        assert document["numberReturned"] == len(document["features"])
        yield document["features"]
        onward = next((link["href"] for link in document["links"] if link["rel"] == "next"), None)


def all_ids(file: PolygonFile, wish: Wish, limit: int) -> list[int]:
    """Ids of everything that is meant, page by page."""
    found, token = list[int](), None
    while True:
        page = file.page(wish, limit, token)
        assert page.count == limit or page.token is None
        found += [polygon for table, _ in page.tables for polygon in table["id"].to_pylist()]
        if page.token is None:
            return found
        token = page.token


@pytest.mark.parametrize("run", ["large", "fiji"])
def test_all_pages_together_are_the_features_of_the_geojson_file(api: Any, root: Path, run: str) -> None:
    written = json.loads((root / "runs" / run / "polygons.geojson").read_bytes())["features"]
    got = [list(page) for page in pages(api, f"{ITEMS.format(run)}?limit=700")]
    assert all(len(page) == 700 for page in got[:-1])
    assert sorted((feature for page in got for feature in page), key=lambda each: each["id"]) == written


def test_a_run_is_an_api_of_its_own(api: Any, truth: geopandas.GeoDataFrame) -> None:
    landing = api.get("/runs/large").json()
    links = {link["rel"]: link["href"] for link in landing["links"]}
    assert {"self", "service-desc", "conformance", "data"} <= set(links)
    for href in links.values():
        assert api.get(href).status_code == 200, href
    (collection,) = api.get(links["data"]).json()["collections"]
    assert collection["geoseg:crs"] == "http://www.opengis.net/def/crs/EPSG/0/32632"
    assert api.get(next(link["href"] for link in collection["links"] if link["rel"] == "self")).json() == collection
    west, south, east, north = collection["extent"]["spatial"]["bbox"][0]
    assert np.allclose(truth.total_bounds, [west, south, east, north], atol=1e-6)


def test_each_feature_has_an_address(api: Any, truth: geopandas.GeoDataFrame) -> None:
    for polygon in (1, len(truth) // 2, len(truth)):
        feature = api.get(f"{ITEMS.format('large')}/{polygon}").json()
        assert feature["id"] == polygon
        assert shapely.geometry.shape(feature["geometry"]).equals(truth.set_index("id").geometry[polygon])
    for wrong in (0, len(truth) + 1, "x", "1.0", "9" * 40, "-1"):
        assert api.get(f"{ITEMS.format('large')}/{wrong}").status_code == 404


@given(data=st.data())
def test_a_bbox_finds_what_touches_it(file: PolygonFile, truth: geopandas.GeoDataFrame, data: st.DataObject) -> None:
    west, south, east, north = truth.total_bounds
    xs = sorted(data.draw(st.lists(st.floats(west - 0.02, east + 0.02), min_size=2, max_size=2)))
    ys = sorted(data.draw(st.lists(st.floats(south - 0.02, north + 0.02), min_size=2, max_size=2)))
    area = shapely.box(xs[0], ys[0], xs[1], ys[1])
    found = all_ids(file, Wish(area=area), data.draw(st.integers(200, 5000)))
    assert len(found) == len(set(found))
    assert set(found) == set(truth.id[truth.intersects(area)])


def test_a_small_bbox_reads_few_row_groups(file: PolygonFile, truth: geopandas.GeoDataFrame) -> None:
    groups = pq.ParquetFile(file.path).metadata.num_row_groups
    assert groups >= 3
    west, south, *_ = truth.total_bounds
    corner = shapely.box(west, south, west + 1e-3, south + 1e-3)
    asked = file._expression(Wish(area=corner))
    assert len(file.fragment.split_by_row_group(filter=asked, schema=file.schema)) < groups


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ({"class_name": "water"}, lambda frame: frame.class_name == "water"),
        ({"class_id": "2"}, lambda frame: frame.class_id == 2),
        ({"class_id": "1/.."}, lambda frame: frame.class_id >= 1),
        ({"area_m2": "5000/20000"}, lambda frame: frame.area_m2.between(5000, 20000)),
        ({"perimeter_m": "../300"}, lambda frame: frame.perimeter_m <= 300),
        ({"area_m2": "5000/..", "class_id": "2"}, lambda frame: (frame.area_m2 >= 5000) & (frame.class_id == 2)),
        ({"class_name": "nothing"}, lambda frame: frame.class_id < 0),
        ({"datetime": FIRST.isoformat()}, lambda frame: frame.class_id >= 0),
        ({"datetime": "2024-05-04/.."}, lambda frame: frame.class_id < 0),
        ({"datetime": "../2024-05-03"}, lambda frame: frame.class_id >= 0),
    ],
)  # fmt: skip
def test_attributes_choose(api: Any, truth: geopandas.GeoDataFrame, query: dict[str, str], chosen: Any) -> None:
    url, wanted = f"{ITEMS.format('large')}?{urlencode(query | {'limit': 10_000})}", set(truth.id[chosen(truth)])
    assert {feature["id"] for page in pages(api, url) for feature in page} == wanted
    assert api.get(url).json()["numberMatched"] == len(wanted)


def test_polygons_across_the_antimeridian_are_found_on_both_sides(api: Any) -> None:
    west = {feature["id"] for page in pages(api, f"{ITEMS.format('fiji')}?bbox=179,-18,180,-16") for feature in page}
    east = {feature["id"] for page in pages(api, f"{ITEMS.format('fiji')}?bbox=-180,-18,-179,-16") for feature in page}
    both = {feature["id"] for page in pages(api, f"{ITEMS.format('fiji')}?bbox=179,-18,-179,-16") for feature in page}
    assert west & east
    assert both == west | east


@pytest.mark.parametrize(
    "query",
    [
        "bbox=1,2,3",
        "datetime=x",
        "limit=0",
        "token=x",
        "colour=red",
        "class_id=x",
        "area_m2=1/2/3",
        "scene=a&geometry=b",
    ],
)
def test_what_makes_no_sense_is_a_problem(api: Any, query: str) -> None:
    answer = api.get(f"{ITEMS.format('large')}?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_token_of_nowhere_is_the_end(api: Any) -> None:
    assert api.get(f"{ITEMS.format('large')}?token=99-0").json()["features"] == []


@pytest.mark.parametrize("path", ["/runs/none", ITEMS.format("none"), ITEMS.format("plain"), "/runs/plain/collections"])
def test_what_is_not_there_is_a_problem(api: Any, path: str) -> None:
    assert (api.get(path).status_code, api.get(path).json()["status"]) == (404, 404)


def test_gdal_reads_the_service_as_what_it_is(
    start: Start, root: Path, truth: geopandas.GeoDataFrame, tmp_path: Path
) -> None:
    if "OAPIF" not in pyogrio.list_drivers():
        pytest.skip("this GDAL has no driver OAPIF")
    shutil.copytree(root, tmp_path / "live")
    live = start(tmp_path / "live", rate=10_000, burst=10_000)
    read = pyogrio.read_dataframe(f"OAPIF:{live.url.rstrip('/')}/runs/large", layer="polygons")
    assert len(read) == len(truth)
    assert read.area_m2.sum() == pytest.approx(truth.area_m2.sum())
    assert read.crs.to_epsg() == 4326
