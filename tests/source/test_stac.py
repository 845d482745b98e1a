"""STAC items: bands by name in assets of STAC 0.9 to 1.1, their scaling, and where hrefs lead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geoseg.errors import BandError, SourceError
from geoseg.source.location import parse_location
from geoseg.source.stac import Item, read_item
from geoseg.testing.server import Fault, range_server

TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def item_of(assets: dict[str, Any], properties: dict[str, Any] | None = None, version: str = "1.1.0") -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": version,
        "id": "scene-1",
        "geometry": None,
        "properties": {"datetime": "2024-06-01T10:20:30Z", **(properties or {})},
        "links": [{"rel": "self", "href": "https://elsewhere.example/items/scene-1.json"}],
        "assets": assets,
    }


def saved(path: Path, document: Any) -> Item:
    path.write_text(json.dumps(document))
    return read_item(parse_location(path))


def test_bands_of_stac_1_0_come_from_eo_and_raster_together(tmp_path: Path) -> None:
    assets = {
        "B04": {
            "href": "./R10m/B04.tif",
            "type": TIFF,
            "eo:bands": [{"name": "B04", "common_name": "red"}],
            "raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0, "spatial_resolution": 10}],
        },
        "stack": {
            "href": "stack.tif",
            "type": TIFF,
            "eo:bands": [{"common_name": "blue"}, {"name": "B8A"}, {"common_name": "swir16"}],
        },
    }
    item = saved(tmp_path / "item.json", item_of(assets, {"platform": "sentinel-2b"}, "1.0.0"))
    red = item.find("RED")
    assert (red.index, red.listed, red.scale, red.offset, red.nodata) == (1, 1, 0.0001, -0.1, 0.0)
    assert item.locate(red).path == tmp_path / "R10m" / "B04.tif"
    assert item.find("nir08").index == 2
    assert item.find("swir16").index == 3
    assert item.find("swir16").scale is None
    assert item.id == "scene-1"
    assert item.datetime is not None
    assert item.datetime.isoformat() == "2024-06-01T10:20:30+00:00"


def test_bands_of_stac_1_1_inherit_from_their_asset(tmp_path: Path) -> None:
    assets = {
        "all": {
            "href": "all.tif",
            "type": TIFF,
            "raster:scale": 0.5,
            "nodata": "nan",
            "bands": [
                {"name": "one", "eo:common_name": "red"},
                {"name": "two", "eo:common_name": "nir", "raster:scale": 2, "raster:offset": 1, "nodata": 7},
            ],
        }
    }
    item = saved(tmp_path / "item.json", item_of(assets))
    red, nir = item.find("red"), item.find("nir")
    assert (red.scale, red.offset) == (0.5, 0.0)
    assert red.nodata != red.nodata
    assert (nir.index, nir.scale, nir.offset, nir.nodata) == (2, 2.0, 1.0, 7.0)
    assert item.find("two") == nir


@pytest.mark.parametrize(("applied", "offset"), [(True, 0.0), (False, -0.1), (None, -0.1)])
def test_an_offset_that_is_in_the_pixels_already_is_not_applied_again(
    tmp_path: Path, applied: bool | None, offset: float
) -> None:
    assets = {"red": {"href": "B04.tif", "type": TIFF, "raster:bands": [{"scale": 1e-4, "offset": -0.1}]}}
    properties = {} if applied is None else {"earthsearch:boa_offset_applied": applied}
    band = saved(tmp_path / "item.json", item_of(assets, properties, "1.0.0")).find("red")
    assert (band.scale, band.offset) == (1e-4, offset)


def test_the_best_of_several_assets_is_taken(tmp_path: Path) -> None:
    red = [{"eo:common_name": "red"}]
    picture = [*red, {"eo:common_name": "green"}, {"eo:common_name": "blue"}]
    assets = {
        "visual": {"href": "TCI.tif", "type": TIFF, "roles": ["data"], "bands": picture},
        "preview": {"href": "P.tif", "type": TIFF, "roles": ["overview"], "bands": picture},
        "thumbnail": {"href": "T.png", "type": "image/png", "roles": ["thumbnail"], "bands": picture},
        "red-jp2": {"href": "B04.jp2", "type": "image/jp2", "roles": ["data"], "bands": red, "gsd": 10},
        "red60": {"href": "B04_60.tif", "type": TIFF, "roles": ["data"], "bands": red, "gsd": 60},
        "red": {"href": "B04_20.tif", "type": TIFF, "roles": ["data"], "bands": red, "gsd": 20},
        "red10": {"href": "B04_10.tif", "type": TIFF, "roles": ["data"], "bands": red, "gsd": 10},
    }
    item = saved(tmp_path / "item.json", item_of(assets))
    assert item.find("red").asset == "red10"
    assert item.find("green").asset == "visual"
    assert item.find("red", "red-jp2").href == "B04.jp2"
    assert item.find("red", "visual").index == 1
    assert not item.has("thumbnail")
    with pytest.raises(BandError, match="thumbnail"):
        item.find("red", "thumbnail")
    with pytest.raises(BandError, match="holds 3 bands"):
        item.find("nir", "visual")
    with pytest.raises(BandError, match=r"no asset holds 'nir'.*red10 \(red"):
        item.find("nir")


def test_red_edges_are_told_apart_by_wavelength_or_not_at_all(tmp_path: Path) -> None:
    def edge(name: str, wavelength: float | None) -> dict[str, Any]:
        band: dict[str, Any] = {"name": name, "common_name": "rededge"}
        if wavelength:
            band["center_wavelength"] = wavelength
        return {"href": f"{name}.tif", "type": TIFF, "eo:bands": [band]}

    assets = {name: edge(name, wavelength) for name, wavelength in (("re1", 0.704), ("re2", 0.74), ("re3", 0.783))}
    item = saved(tmp_path / "item.json", item_of(assets, version="1.0.0"))
    assert [item.find(name).asset for name in ("rededge071", "rededge075", "rededge078")] == ["re1", "re2", "re3"]
    with pytest.raises(BandError, match="re1, re2, re3"):
        item.find("rededge")
    blind = saved(tmp_path / "blind.json", item_of({"re1": edge("re1", None), "re2": edge("re2", None)}))
    with pytest.raises(BandError, match="no asset holds"):
        blind.find("rededge071")


def test_names_that_fit_no_band_by_position_are_not_used(tmp_path: Path) -> None:
    """Three names for twelve bands: nothing says which three."""
    asset = {
        "href": "scene.tif",
        "type": TIFF,
        "eo:bands": [{"common_name": name} for name in ("blue", "green", "red")],
        "raster:bands": [{"data_type": "int16"}] * 12,
    }
    band = saved(tmp_path / "item.json", item_of({"scene": asset}, version="1.0.0")).find("red")
    assert band.index is None


def test_keys_name_bands_only_where_an_asset_has_one(tmp_path: Path) -> None:
    assets = {"red": {"href": "red.tif"}, "nir": {"href": "two.tif", "bands": [{"name": "a"}, {"name": "b"}]}}
    item = saved(tmp_path / "item.json", item_of(assets))
    assert item.find("red").index is None
    assert item.find("b").index == 2
    assert item.find("nir").asset == "red"  # the only asset that does not list its bands: its file is asked


@pytest.mark.parametrize(
    ("place", "href", "expected"),
    [
        ("https://a.example/x/item.json?sig=1", "b/red.tif", "https://a.example/x/b/red.tif"),
        ("https://a.example/x/item.json", "../red.tif?sig=2", "https://a.example/red.tif?sig=2"),
        ("https://a.example/x/item.json", "/root/red.tif", "https://a.example/root/red.tif"),
        ("https://a.example/x/item.json", "s3://bucket/red.tif", "s3://bucket/red.tif"),
        ("s3://bucket/x/item.json", "../y/red.tif", "s3://bucket/y/red.tif"),
        ("s3://bucket/x/item.json", "https://b.example/red.tif", "https://b.example/red.tif"),
        ("/data/x/item.json", "./red.tif", "/data/x/red.tif"),
        ("/data/x/item.json", "/other/red.tif", "/other/red.tif"),
        ("/data/x/item.json", "file:///other/red.tif", "/other/red.tif"),
        ("/data/x/item.json", "https://b.example/red.tif", "https://b.example/red.tif"),
    ],
)
def test_hrefs_count_from_where_the_item_was_read(tmp_path: Path, place: str, href: str, expected: str) -> None:
    item = saved(tmp_path / "item.json", item_of({"red": {"href": href, "type": TIFF}}))
    moved = Item(id=item.id, location=parse_location(place), datetime=None, bands=item.bands)
    assert moved.locate(moved.find("red")).href == expected


def remote_item(tmp_path: Path, href: str) -> Item:
    item = saved(tmp_path / "item.json", item_of({"red": {"href": href, "type": TIFF}}))
    return Item(id="x", location=parse_location("https://a.example/item.json"), datetime=None, bands=item.bands)


@pytest.mark.parametrize("href", ["file:///etc/passwd", "FILE:///etc/passwd", "gs://b/c.tif", "https://u:p@h/x.tif"])
def test_a_remote_item_cannot_name_what_a_user_could_not(tmp_path: Path, href: str) -> None:
    item = remote_item(tmp_path, href)
    with pytest.raises(SourceError, match="asset 'red'"):
        item.locate(item.find("red"))


@pytest.mark.parametrize(
    "href", ["/vsicurl/http://x/y.tif", "/etc/passwd", "<VRTDataset/>", "a b.tif", "../../../x.tif"]
)
def test_a_relative_href_stays_with_its_server(tmp_path: Path, href: str) -> None:
    item = remote_item(tmp_path, href)
    assert item.locate(item.find("red")).href.startswith("https://a.example/")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"3",
        b"\xff\xfe",
        b"[" * 100000,
        b'{"type": "Collection", "assets": {}}',
        b'{"type": "FeatureCollection", "features": []}',
        b'{"type": "Feature", "assets": {}}',
        json.dumps(item_of({}, {"datetime": "yesterday"})).encode(),
        json.dumps({**item_of({}), "assets": 3}).encode(),
        json.dumps(item_of({"red": {"href": "r.tif", "gsd": "fine"}})).encode(),
    ],
)
def test_what_is_no_item_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "item.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"item\.json") as caught:
        read_item(parse_location(path))
    assert "\n" not in str(caught.value)


def test_items_are_fetched_from_servers_without_ranges() -> None:
    document = item_of({"red": {"href": "red.tif", "type": TIFF}})
    with range_server({"/items/a": json.dumps(document).encode()}) as server:
        server.fault = lambda asked: Fault(status=503) if asked.number == 0 else Fault(whole=True)
        item = read_item(parse_location(f"{server.url}/items/a?token=secret"))
        assert str(item.locate(item.find("red"))) == f"{server.url}/items/red.tif"
        assert len(server.asked) == 2
        server.fault = lambda _: Fault(status=404)
        with pytest.raises(SourceError, match="404") as caught:
            read_item(parse_location(f"{server.url}/items/a?token=secret"))
        assert "secret" not in str(caught.value)


def items(shared: Path) -> list[Path]:
    found = sorted((shared / "data" / "stac_samples").rglob("*.json"))
    documents = [(path, json.loads(path.read_text())) for path in found]
    return [path for path, document in documents if document.get("type") == "Feature" and "assets" in document]


def test_every_public_item_parses(shared: Path) -> None:
    paths = items(shared)
    assert len(paths) > 20
    for path in paths:
        item = read_item(parse_location(path))
        assert item.datetime is not None
        assert item.datetime.tzinfo is not None
        for band in item.bands:
            item.locate(band)


@pytest.mark.parametrize(
    ("name", "band", "expected"),
    [
        ("stac-spec/extended-item.json", "nir", ("analytic", 4)),
        ("stac-spec/extended-item.json", "red", ("analytic", 3)),
        ("stac-spec/extensions-collection/proj-example/proj-example.json", "coastal", ("B1", 1)),
        ("rio-tiler/stac_raster.json", "green", ("green", 1)),
        ("rio-tiler/stac_wrong_stats.json", "red", ("goodstat", 1)),
        ("rio-tiler/stac_bands_v1.json", "blue", ("rgb", 3)),
        ("rio-tiler/stac_no_ext.json", "red", ("red", None)),
        ("eotdl_jaca/jaca_dataset_stac_labels/sentinel-2-l2a/Jaca_1/Jaca_1.json", "red", ("Jaca_1", None)),
    ],
)
def test_bands_of_public_items(shared: Path, name: str, band: str, expected: tuple[str, int | None]) -> None:
    found = read_item(parse_location(shared / "data" / "stac_samples" / name)).find(band)
    assert (found.asset, found.index) == expected
