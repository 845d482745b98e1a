"""Lists of items: catalogs with relative links, saved searches, stac-geoparquet; and scenes opened from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from geoseg.errors import SourceError
from geoseg.source import open_scene
from geoseg.source.items import ListedItem, list_items
from geoseg.testing.server import range_server
from geoseg.window import whole


def raster(path: Path, value: int) -> Path:
    """One band whose every pixel is `value`."""
    profile = {"driver": "GTiff", "height": 4, "width": 5, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile, transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(np.full((1, 4, 5), value, np.uint8))
    return path


def item(name: str, href: str, *, own: str | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2024-05-17T10:20:31Z"} | properties,
        "links": [{"rel": "self", "href": own}] if own else [],
        "assets": {"red": {"href": href, "type": "image/tiff; application=geotiff", "eo:bands": [{"name": "red"}]}},
    }


def written(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def link(rel: str, href: str, **rest: Any) -> dict[str, Any]:
    return {"rel": rel, "href": href} | rest


def catalog(*links: Mapping[str, Any], kind: str = "Catalog") -> dict[str, Any]:
    return {"type": kind, "stac_version": "1.0.0", "id": "c", "description": "c", "links": list(links)}


def value_of(listed: ListedItem) -> int:
    scene = open_scene(listed, bands=["red"])
    pixels, _ = scene.source.read(whole(scene.geobox))
    [value] = np.unique(pixels)
    return int(value)


def test_a_catalog_is_walked_depth_first_in_the_order_of_its_links_each_item_once(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("c", 3)):
        raster(tmp_path / name / "red.tif", value)
        written(tmp_path / name / "item.json", item(name, "./red.tif"))
    written(
        tmp_path / "below" / "collection.json",
        catalog(
            link("root", "../catalog.json"),
            link("item", "../c/item.json"),
            link("item", "../a/item.json"),
            link("child", "../catalog.json"),  # a circle
            kind="Collection",
        ),
    )
    root = written(
        tmp_path / "catalog.json",
        catalog(
            link("child", "below/collection.json"), link("item", "./b/item.json"), link("item", "b/../b/item.json")
        ),
    )
    found = list_items(str(root))
    assert [Path(each.label).parent.name for each in found] == ["b", "c", "a"]
    assert [value_of(each) for each in found] == [2, 3, 1]
    assert open_scene(found[0], bands=["red"]).item_href == str(tmp_path / "b" / "item.json")


def test_a_saved_search_holds_its_items(tmp_path: Path) -> None:
    near, far = raster(tmp_path / "near.tif", 7), raster(tmp_path / "far" / "far.tif", 9)
    features = [
        item("near", "near.tif"),
        item("far", str(far), own="https://example.org/items/far?token=secret"),
        {"type": "Feature", "id": "broken"},
    ]
    search = written(tmp_path / "search.json", {"type": "FeatureCollection", "features": features})
    found = list_items(str(search))
    assert [each.label for each in found] == ["near", "far", "broken"]
    assert [value_of(each) for each in found[:2]] == [7, 9]
    scenes = [open_scene(each, bands=["red"]) for each in found[:2]]
    assert [scene.item_href for scene in scenes] == [str(search), "https://example.org/items/far"]
    assert [scene.datetime for scene in scenes] == [datetime(2024, 5, 17, 10, 20, 31, tzinfo=UTC)] * 2
    with pytest.raises(SourceError, match=r"search\.json: is no STAC item"):
        open_scene(found[2], bands=["red"])
    assert near.exists()


def test_relative_hrefs_of_an_item_count_from_where_it_says_that_it_stands(tmp_path: Path) -> None:
    raster(tmp_path / "items" / "red.tif", 3)
    features = [item("a", "./red.tif", own="items/a.json")]
    search = written(tmp_path / "search.json", {"type": "FeatureCollection", "features": features})
    assert value_of(list_items(str(search))[0]) == 3
    features = [item("a", "./red.tif", own="https://example.org/items/a.json")]
    written(search, {"type": "FeatureCollection", "features": features})
    assert list_items(str(search))[0].location.href == "https://example.org/items/a.json"


def test_one_item_is_a_list_of_one(tmp_path: Path) -> None:
    raster(tmp_path / "red.tif", 4)
    [found] = list_items(str(written(tmp_path / "item.json", item("a", "red.tif"))))
    assert value_of(found) == 4


def table(path: Path, items: list[dict[str, Any]]) -> Path:
    """A stac-geoparquet file as the specification lays it out: properties beside members, nulls for what is missing."""
    keys = sorted({key for each in items for key in each["assets"]})
    rows = [
        {name: each[name] for name in ("type", "stac_version", "id", "links")}
        | {"geometry": b"\x01\x01", "bbox": {"xmin": 0.0, "ymin": 0.0, "xmax": 1.0, "ymax": 1.0}}
        | {"assets": {key: each["assets"].get(key) for key in keys}}
        | each["properties"]
        | {"datetime": datetime.fromisoformat(each["properties"]["datetime"])}
        for each in items
    ]
    names = {name: None for row in rows for name in row}
    pq.write_table(pa.Table.from_pylist([names | row for row in rows]), path)
    return path


def test_a_geoparquet_of_items(tmp_path: Path) -> None:
    one, two = item("a", str(raster(tmp_path / "a.tif", 1))), item("b", "b.tif", gsd=10.0)
    raster(tmp_path / "b.tif", 2)
    two["assets"]["extra"] = {"href": "extra.json", "type": "application/json", "title": "T"}
    found = list_items(str(table(tmp_path / "items.parquet", [one, two])))
    assert [each.label for each in found] == ["a", "b"]
    assert [value_of(each) for each in found] == [1, 2]
    assert open_scene(found[1], bands=["red"]).datetime == datetime(2024, 5, 17, 10, 20, 31, tzinfo=UTC)
    assert found[1].document is not None
    assert found[1].document["properties"]["gsd"] == 10.0
    assert "extra" not in (found[0].document or {})["assets"]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"type": "FeatureCollection", "features": []}, "lists no STAC items"),
        ({"type": "Catalog", "links": []}, "lists no STAC items"),
        ({"type": "Polygon"}, "its type is 'Polygon'"),
        ([1, 2], "lists no STAC items"),
        ({"type": "Catalog", "links": [link("item", "/vsicurl/http://x/a.json")]}, "virtual paths are not read"),
        ({"type": "Catalog", "links": [link("child", "missing.json")]}, "missing.json"),
        ({"type": "Catalog", "links": [link("child", "ftp://host/c.json")]}, "neither a path nor"),
        (
            {"type": "FeatureCollection", "features": [], "links": [link("next", "http://h/s", method="POST")]},
            "one page of a longer answer",
        ),
    ],
    ids=["no-features", "no-links", "polygon", "array", "vsi", "missing", "scheme", "post"],
)
def test_what_lists_no_items_is_refused_with_its_name(tmp_path: Path, document: Any, says: str) -> None:
    path = written(tmp_path / "list.json", document)
    with pytest.raises(SourceError, match=says):
        list_items(str(path))


@pytest.mark.parametrize("body", [b"PAR1", b"PAR1" + b"\0" * 64 + b"PAR1", b"{", b"", b"II*\0"])
def test_damaged_lists_are_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(body)
    with pytest.raises(SourceError, match=r"items\.parquet"):
        list_items(str(path))


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "geometry": [b""]}), tmp_path / "roads.parquet")
    with pytest.raises(SourceError, match="no columns id and assets"):
        list_items(str(tmp_path / "roads.parquet"))


def test_real_catalogs_are_read(shared: Path) -> None:
    samples = shared / "data" / "stac_samples"
    found = list_items(str(samples / "eotdl_jaca" / "jaca_dataset_stac_labels" / "catalog.json"))
    assert len(found) == 8
    assert len({each.location for each in found}) == 8
    spec = list_items(str(samples / "stac-spec" / "catalog.json"))
    assert {Path(each.label).name for each in spec} >= {"collectionless-item.json", "proj-example.json"}


def test_pages_and_relative_links_of_a_server_are_followed() -> None:
    def body(document: Any) -> bytes:
        return json.dumps(document).encode()

    def page(name: str, *links: dict[str, Any]) -> bytes:
        return body({"type": "FeatureCollection", "features": [item(name, f"./{name}.tif")], "links": list(links)})

    files = {
        "/search.json": page("a", link("next", "page2.json")),
        "/page2.json": page("b", link("next", "/search.json")),  # a circle
        "/deep/catalog.json": body(catalog(link("item", "../items/c.json"))),
        "/items/c.json": body(item("c", "./c.tif")),
        "/evil.json": body(catalog(link("item", "file:///etc/passwd"))),
        "/trap.json": body({"type": "FeatureCollection", "features": [item("x", "./x.tif", own="file:///etc/x.json")]}),
    }
    with range_server(files) as server:
        found = list_items(f"{server.url}/search.json")
        assert [each.label for each in found] == ["a", "b"]
        assert [str(each.location) for each in found] == [f"{server.url}/search.json", f"{server.url}/page2.json"]
        assert [str(each.location) for each in list_items(f"{server.url}/deep/catalog.json")] == [
            f"{server.url}/items/c.json"
        ]
        with pytest.raises(SourceError, match="links to a file of this machine"):
            list_items(f"{server.url}/evil.json")
        [trapped] = list_items(f"{server.url}/trap.json")
        assert trapped.location.kind == "http"
