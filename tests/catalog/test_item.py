"""The STAC item of a run: valid by the schemas, true to the files, the same every time."""

from __future__ import annotations

import hashlib
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely
from affine import Affine
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from geoseg.catalog.item import EXTENSIONS, describe_run, write_item
from geoseg.errors import SinkError
from geoseg.scene import Band, BandSet, Scaling, Scene
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.window import GeoBox

UTM33 = GeoBox((40, 50), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633")
UTM1 = GeoBox((4000, 5000), Affine(10, 0, 340000, 0, -10, 7.2e6), "EPSG:32601")
POLAR = GeoBox((100, 100), Affine(30, 0, -1500, 0, -30, 1500), "EPSG:3413")
CUSTOM = GeoBox((40, 50), Affine(10, 0, 0, 0, -10, 0), "+proj=laea +lat_0=45 +lon_0=12 +ellps=GRS80 +units=m")
ROTATED = GeoBox((40, 50), Affine.translation(500000, 5e6) @ Affine.rotation(20) @ Affine.scale(10, -10), "EPSG:32633")
STARTED = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
FILES = ("labels.tif", "labels.tif.aux.xml", "labels.qml", "confidence.tif", "probabilities.tif", "preview.png")
VECTORS = ("polygons.geojson", "polygons.parquet", "polygons.fgb", "polygons.gpkg", "polygons.pmtiles")

SPEC = ModelSpec(
    name="cover",
    bands=("red",),
    channels=(Channel(name="red"),),
    classes=(
        ClassInfo(value=1, name="water", title="Open water", description="Sea and lakes.", color="0000ff"),
        ClassInfo(value=7, name="snow"),
    ),
    digest="ab" * 32,
)


def scene(**fields: Any) -> Scene[None]:
    bands = BandSet((Band(name="red", dtype="uint16"),))
    return Scene(**({"id": "S2A", "source": None, "geobox": UTM33, "bands": bands} | fields))


def outputs(folder: Path, names: tuple[str, ...] = FILES + VECTORS) -> list[Path]:
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


def describe(folder: Path, geobox: GeoBox = UTM33, **fields: Any) -> pystac.Item:
    return describe_run(
        scene(geobox=geobox, **fields),
        SPEC,
        outputs(folder),
        geobox=geobox,
        started=STARTED,
        software={"torch": "2.0", "geoseg": "0.1"},
        scaling=Scaling(scale=0.004),
        model_href="https://example.com/model.json",
    )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("validation went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("geobox", [UTM33, UTM1, POLAR, CUSTOM, ROTATED])
def test_core_is_valid_by_the_bundled_schemas(tmp_path: Path, geobox: GeoBox) -> None:
    item = describe(tmp_path, geobox).to_dict(include_self_link=False)
    assert item["stac_version"] == "1.1.0"
    JsonSchemaSTACValidator().validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("geobox", [UTM33, UTM1, POLAR, CUSTOM, ROTATED])
def test_extensions_are_valid_by_their_schemas(tmp_path: Path, shared: Path, geobox: GeoBox) -> None:
    item = describe(tmp_path, geobox).to_dict(include_self_link=False)
    assert sorted(item["stac_extensions"]) == sorted(EXTENSIONS.values())
    validator = _validator(shared)
    for schema in item["stac_extensions"]:
        validator.validate_extension(item, pystac.STACObjectType.ITEM, "1.1.0", schema)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("where", "field", "wrong"),
    [
        ("properties", "proj:shape", "large"),
        ("properties", "processing:software", 3),
        ("labels", "file:checksum", "not hexadecimal"),
    ],
)
def test_the_schemas_are_really_applied(tmp_path: Path, shared: Path, where: str, field: str, wrong: object) -> None:
    item = describe(tmp_path).to_dict(include_self_link=False)
    (item["properties"] if where == "properties" else item["assets"][where])[field] = wrong
    schema = EXTENSIONS[field.partition(":")[0]]
    with pytest.raises(pystac.STACValidationError):
        _validator(shared).validate_extension(item, pystac.STACObjectType.ITEM, "1.1.0", schema)


def _validator(shared: Path) -> JsonSchemaSTACValidator:
    folder = shared / "stac-schemas"
    if not folder.is_dir():
        pytest.skip(f"no extension schemas at {folder}: only the core of items is validated")
    validator = JsonSchemaSTACValidator()
    for path in folder.glob("*/*/schema.json"):
        uri = f"https://stac-extensions.github.io/{path.parent.relative_to(folder).as_posix()}/schema.json"
        validator.schema_cache[uri] = json.loads(path.read_text(encoding="utf-8"))
    return validator


def test_labels_carry_the_classes(tmp_path: Path) -> None:
    (band,) = describe(tmp_path).assets["labels"].extra_fields["bands"]
    assert (band["data_type"], band["nodata"]) == ("uint8", 255)
    assert band["classification:classes"] == [
        {"value": 1, "name": "water", "title": "Open water", "description": "Sea and lakes.", "color_hint": "0000FF"},
        {"value": 7, "name": "snow", "title": "snow", "description": "snow", "color_hint": "808080"},
    ]


def test_change_runs_carry_the_classes_in_the_change_asset(tmp_path: Path) -> None:
    files = outputs(tmp_path, ("change.tif", "change_probability.tif"))
    item = describe_run(scene(), SPEC, files, geobox=UTM33, started=STARTED, software={}, scaling=Scaling(scale=0.004))
    (change,) = item.assets["change"].extra_fields["bands"]
    assert [info["value"] for info in change["classification:classes"]] == [1, 7]
    (probability,) = item.assets["change_probability"].extra_fields["bands"]
    assert "classification:classes" not in probability


def test_probabilities_have_a_band_and_a_scale_per_class(tmp_path: Path) -> None:
    assets = describe(tmp_path).assets
    bands = assets["probabilities"].extra_fields["bands"]
    assert [band["name"] for band in bands] == ["water", "snow"]
    for band in [*bands, *assets["confidence"].extra_fields["bands"]]:
        assert (band["raster:scale"], band["raster:offset"]) == (0.004, 0.0)


def test_every_file_is_an_asset_with_its_checksum(tmp_path: Path) -> None:
    item = describe(tmp_path)
    assert sorted(asset.href for asset in item.assets.values()) == sorted(f"./{name}" for name in FILES + VECTORS)
    for asset in item.assets.values():
        content = (tmp_path / asset.href).read_bytes()
        assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert asset.extra_fields["file:size"] == len(content)
        assert asset.media_type
        assert asset.title


def test_the_scenes_time_comes_before_the_runs(tmp_path: Path) -> None:
    taken = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    item = describe(tmp_path, datetime=taken, datetime_source="tiff")
    assert item.datetime == taken
    assert item.properties["geoseg:datetime_source"] == "tiff"
    item = describe(tmp_path)
    assert item.datetime == STARTED
    assert item.properties["geoseg:datetime_source"] == "run"


def test_projection_is_that_of_the_outputs(tmp_path: Path) -> None:
    fields = describe(tmp_path, ROTATED).properties
    assert fields["proj:code"] == "EPSG:32633"
    assert fields["proj:shape"] == [40, 50]
    assert Affine(*fields["proj:transform"]) == ROTATED.transform
    assert shapely.geometry.shape(fields["proj:geometry"]).equals(ROTATED.extent.geom)
    assert fields["proj:bbox"] == list(ROTATED.extent.geom.bounds)
    fields = describe(tmp_path, CUSTOM).properties
    assert fields["proj:code"] is None
    assert "Lambert Azimuthal" in fields["proj:wkt2"]


def test_the_footprint_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    item = describe(tmp_path, UTM1)
    outline = shapely.geometry.shape(item.geometry)
    assert outline.geom_type == "MultiPolygon"
    assert outline.is_valid
    assert outline.bounds[0] == -180
    assert outline.bounds[2] == 180
    assert item.bbox is not None
    west, _, east, _ = item.bbox
    assert west > 170
    assert east < -170


def test_the_footprint_over_a_pole_reaches_it(tmp_path: Path) -> None:
    item = describe(tmp_path, POLAR)
    assert item.bbox is not None
    assert (item.bbox[0], *item.bbox[2:]) == (-180, 180, 90)
    assert item.bbox[1] > 89.9


def test_links_lead_to_scene_and_model(tmp_path: Path) -> None:
    links = [(link.rel, link.href) for link in describe(tmp_path, href=str(tmp_path / "in" / "S2A.tif")).links]
    assert links == [("derived_from", "in/S2A.tif"), ("derived_from", "https://example.com/model.json")]
    item = describe(tmp_path, href="x", item_href="https://example.com/items/S2A")
    assert item.links[0].href == "https://example.com/items/S2A"
    assert item.links[1].extra_fields == {"mlm:name": "cover"}


def test_written_items_are_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    first = write_item(describe(tmp_path), tmp_path / "item.json").read_bytes()
    assert write_item(describe(tmp_path), tmp_path / "item.json").read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert pystac.Item.from_file(str(tmp_path / "item.json")).id == "S2A-cover"
    assert not list(tmp_path.glob(".*"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"labels\.tif"):
        describe_run(scene(), SPEC, [tmp_path / "labels.tif"], geobox=UTM33, started=STARTED, software={})


def test_an_item_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"item\.json"):
        write_item(describe(tmp_path), tmp_path / "missing" / "item.json")
