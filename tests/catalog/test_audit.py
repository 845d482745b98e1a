"""What is wrong with a catalog is found, each thing in a line; nothing is said of one that is right."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pystac.validation import stac_validator

from geoseg.catalog.audit import examine_catalog
from geoseg.catalog.collection import add_runs
from geoseg.catalog.item import write_catalog
from geoseg.errors import ConfigError, MissingExtraError
from geoseg.models import package_path
from tests.buckets import Bucket
from tests.runs import ZONE_33, make_run

ITEM = "maps/may-cover/may-cover.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the examination went to the network")

    if "bucket" not in request.fixturenames:
        monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Two maps whose scene is there, and a model."""
    (tmp_path / "scene.tif").write_bytes(b"a scene")
    make_run(tmp_path / "may")
    make_run(tmp_path / "june", geobox=ZONE_33, seed=1)
    add_runs(tmp_path / "catalog", [tmp_path / "may", tmp_path / "june", package_path("spectral-baseline")])
    return tmp_path / "catalog"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_a_right_catalog_has_no_findings(catalog: Path, shared: Path) -> None:
    assert examine_catalog(catalog) == []
    assert examine_catalog(catalog, schemas=shared / "stac-schemas") == []


def test_a_run_that_vanished_is_told_file_by_file(catalog: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "may")
    findings = examine_catalog(catalog)
    assert len(findings) == 3
    assert all(str(catalog / ITEM) in text for text in findings)
    for name in ("item.json", "labels.tif", "polygons.parquet"):
        assert sum(str(tmp_path / "may" / name) in text for text in findings) == 1


def test_a_file_that_changed_is_told(catalog: Path, tmp_path: Path) -> None:
    labels = tmp_path / "may" / "labels.tif"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    (finding,) = examine_catalog(catalog)
    assert "its asset labels is not the file that it was: another checksum" in finding
    assert examine_catalog(catalog, checksums=False) == []
    labels.write_bytes(content + b"more")
    (finding,) = examine_catalog(catalog, checksums=False)
    assert f"{len(content) + 4} bytes, not {len(content)}" in finding


@pytest.mark.parametrize(
    ("file", "edit", "expected"),
    [
        (ITEM, lambda item: item.pop("properties"), "properties"),
        (ITEM, lambda item: item["properties"].update(datetime="yesterday"), "yesterday"),
        (ITEM, lambda item: item.update(collection="changes"), "of the collection changes, not of maps"),
        (ITEM, lambda item: item["links"][0].update(href="../../../catalog.json"), "its link root leads to"),
        (
            ITEM,
            lambda item: item["links"].append({"rel": "derived_from", "href": "gone.json"}),
            "gone.json, which is gone",
        ),
        ("maps/collection.json", lambda it: it.pop("license"), "license"),
        (
            "maps/collection.json",
            lambda it: it["links"].append({"rel": "item", "href": "./x/x.json"}),
            "x.json: is gone",
        ),
        ("catalog.json", lambda root: root.pop("description"), "description"),
        (ITEM, lambda item: item.update(type="Thing"), "no catalog, collection or item"),
    ],
)
def test_a_wrong_document_is_told(catalog: Path, file: str, edit: Callable[[Any], object], expected: str) -> None:
    change(catalog / file, edit)
    assert any(expected in text for text in examine_catalog(catalog))


def test_extensions_are_checked_where_their_schemas_are(catalog: Path, shared: Path) -> None:
    change(catalog / ITEM, lambda item: item["properties"].update({"proj:shape": "large"}))
    told = examine_catalog(catalog, schemas=shared / "stac-schemas")
    assert any("projection" in text for text in told)
    assert not any("projection" in text for text in examine_catalog(catalog))


def test_a_damaged_document_is_told(catalog: Path) -> None:
    (catalog / ITEM).write_text("{")
    assert any(f"{catalog / ITEM}: cannot be read" in text for text in examine_catalog(catalog))


def test_the_table_must_agree(catalog: Path) -> None:
    change(catalog / ITEM, lambda item: item["properties"].update(title="Another"))
    (finding,) = examine_catalog(catalog)
    assert "items.parquet: says something else of may-cover" in finding
    table = pq.read_table(catalog / "items.parquet")
    pq.write_table(table.slice(0, 1), catalog / "items.parquet")
    assert any("lacks may-cover" in text for text in examine_catalog(catalog))
    (catalog / "items.parquet").write_bytes(b"PAR1")
    assert any("items.parquet: cannot be read" in text for text in examine_catalog(catalog))


def test_a_row_too_many_is_told(catalog: Path) -> None:
    change(
        catalog / "maps/collection.json",
        lambda it: it.update(links=[link for link in it["links"] if "june" not in link["href"]]),
    )
    (finding,) = examine_catalog(catalog)
    assert "lists june-cover, which the catalog does not" in finding


def test_nothing_at_all_is_a_finding(tmp_path: Path) -> None:
    assert examine_catalog(tmp_path) == [f"{tmp_path}/catalog.json: is gone"]


def test_catalogs_of_others_are_examined_too(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "scene.tif").write_bytes(b"a scene")
    runs = [make_run(tmp_path / "maps" / name).folder for name in ("a", "b")]
    write_catalog(tmp_path / "maps", [run / "item.json" for run in runs])
    assert examine_catalog(tmp_path / "maps") == []
    (runs[1] / "labels.tif").unlink()
    (finding,) = examine_catalog(tmp_path / "maps")
    assert "its asset labels is gone" in finding


def test_in_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
    run = make_run(tmp_path / "may").folder
    for path in run.iterdir():
        bucket.put(f"maps/may/{path.name}", path.read_bytes())
    bucket.put("maps/scene.tif", b"a scene")
    place = f"s3://{bucket.name}/catalog"
    add_runs(place, [f"s3://{bucket.name}/maps/may"])
    assert examine_catalog(place) == []
    bucket.put("maps/may/labels.tif", bucket.objects()["maps/may/labels.tif"][:-1] + b"x")
    (finding,) = examine_catalog(place)
    assert f"another checksum: s3://{bucket.name}/maps/may/labels.tif" in finding


def test_schemas_are_in_a_folder(catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        examine_catalog(catalog, schemas=tmp_path / "nowhere")


def test_a_validator_is_asked_for(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac_validator, "HAS_JSONSCHEMA", False)
    with pytest.raises(MissingExtraError, match=r"pip install 'geoseg\[catalog\]'"):
        examine_catalog(catalog)
