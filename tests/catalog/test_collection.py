"""A catalog of runs: what is put in stands in it once, loads in other tools, and is not lost when others write too."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import odc.stac
import pyarrow.parquet as pq
import pystac
import pytest
from stac_geoparquet.arrow import stac_table_to_items

from geoseg.catalog import collection
from geoseg.catalog.collection import add_runs, remove_items
from geoseg.catalog.item import write_catalog
from geoseg.errors import ConfigError, MissingExtraError, SinkError
from geoseg.models import package_path
from geoseg.source.items import list_items
from geoseg.store import open_store
from geoseg.store.lock import locked
from tests.buckets import Bucket
from tests.runs import SPEC, ZONE_33, make_run

JUNE = datetime(2024, 6, 3, tzinfo=UTC)


def content(catalog: Path) -> dict[str, bytes]:
    return {str(path.relative_to(catalog)): path.read_bytes() for path in catalog.rglob("*") if path.is_file()}


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Two runs in two zones."""
    make_run(tmp_path / "may")
    make_run(tmp_path / "june", geobox=ZONE_33, when=JUNE, seed=1)
    add_runs(tmp_path / "catalog", [tmp_path / "may", tmp_path / "june"])
    return tmp_path / "catalog"


def test_the_layout_is_that_of_a_static_catalog(catalog: Path) -> None:
    assert set(content(catalog)) == {
        "catalog.json",
        "items.parquet",
        "maps/collection.json",
        "maps/may-cover/may-cover.json",
        "maps/june-cover/june-cover.json",
    }


def test_pystac_walks_it(catalog: Path) -> None:
    root = pystac.Catalog.from_file(str(catalog / "catalog.json"))
    items = {item.id: item for item in root.get_items(recursive=True)}
    assert set(items) == {"may-cover", "june-cover"}
    for item in items.values():
        assert item.get_root() is root
        assert item.get_collection() is not None
        assert item.collection_id == "maps"
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href() or "").is_file()
    (maps,) = root.get_children()
    assert isinstance(maps, pystac.Collection)
    assert maps.extent.temporal.intervals == [[items["may-cover"].datetime, JUNE]]
    boxes = np.array([item.bbox for item in items.values()])
    np.testing.assert_allclose(maps.extent.spatial.bboxes[0], [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)])


def test_odc_stac_reads_the_labels_through_it(catalog: Path) -> None:
    made = make_run(catalog.parent / "again", scene="again", seed=4)
    add_runs(catalog, [made.folder])
    item = pystac.Item.from_file(str(catalog / "maps/again-cover/again-cover.json"))
    loaded = odc.stac.load([item], bands=["labels"], chunks=None)
    np.testing.assert_array_equal(loaded["labels"].to_numpy()[0], made.labels)
    assert loaded.odc.geobox.crs.to_epsg() == 32632


def test_the_table_says_what_the_items_say(catalog: Path) -> None:
    table = pq.read_table(catalog / "items.parquet")
    rows = {item["id"]: item for item in stac_table_to_items(table)}
    for name in ("may-cover", "june-cover"):
        item, row = read(catalog / f"maps/{name}/{name}.json"), rows[name]
        assert row["properties"]["proj:code"] == item["properties"]["proj:code"]
        assert row["bbox"] == item["bbox"]
        assert {key: asset["href"] for key, asset in row["assets"].items()} == {
            key: asset["href"] for key, asset in item["assets"].items()
        }
    frame = geopandas.read_parquet(catalog / "items.parquet")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.is_valid.all()


@pytest.mark.parametrize("file", ["items.parquet", "catalog.json"])
def test_it_is_a_list_of_scenes_for_geoseg_itself(catalog: Path, file: str) -> None:
    listed = list_items(str(catalog / file))
    places = {Path(item.location.display) for item in listed}
    assert places == {catalog / f"maps/{name}/{name}.json" for name in ("may-cover", "june-cover")}


def test_the_same_run_again_changes_no_byte(catalog: Path) -> None:
    before = content(catalog)
    times = {path: path.stat().st_mtime_ns for path in catalog.rglob("*")}
    add_runs(catalog, [catalog.parent / "june"])
    assert content(catalog) == before
    assert {path: path.stat().st_mtime_ns for path in catalog.rglob("*.json")}.items() <= times.items()


def test_the_order_of_adding_does_not_matter(catalog: Path, tmp_path: Path) -> None:
    add_runs(tmp_path / "other", [tmp_path / "june"])
    add_runs(tmp_path / "other", [tmp_path / "may"])
    assert content(tmp_path / "other") == content(catalog)


def test_a_run_made_anew_takes_its_own_place(catalog: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "may")
    make_run(tmp_path / "may", seed=9, when=datetime(2024, 4, 1, tzinfo=UTC))
    add_runs(catalog, [tmp_path / "may"])
    assert read(catalog / "maps/may-cover/may-cover.json")["properties"]["datetime"] == "2024-04-01T00:00:00Z"
    assert len(list(catalog.glob("maps/*/*.json"))) == 2
    assert read(catalog / "maps/collection.json")["extent"]["temporal"]["interval"][0][0] == "2024-04-01T00:00:00Z"


def test_another_run_of_the_same_scene_gets_a_name_of_its_own(catalog: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "else" / "may", seed=3)
    for _ in range(2):
        (place,) = add_runs(catalog, [tmp_path / "else" / "may"])
    assert place == catalog / "maps/may-cover-2/may-cover-2.json"
    assert read(Path(place))["id"] == "may-cover-2"
    assert read(catalog / "maps/may-cover/may-cover.json")["assets"]["labels"]["href"] == "../../../may/labels.tif"


@pytest.mark.usefixtures("catalog")
def test_catalog_and_runs_move_together(tmp_path: Path) -> None:
    target = tmp_path / "moved"
    target.mkdir()
    for name in ("catalog", "may", "june"):
        shutil.move(tmp_path / name, target / name)
    for item in pystac.Catalog.from_file(str(target / "catalog" / "catalog.json")).get_items(recursive=True):
        assert all(Path(asset.get_absolute_href() or "").is_file() for asset in item.assets.values())


def test_links_on_the_way_do_not_lead_astray(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    make_run(tmp_path / "may")
    (place,) = add_runs(tmp_path / "near" / "catalog", [tmp_path / "may"])
    item = pystac.Item.from_file(str(place))
    assert Path(item.assets["labels"].get_absolute_href() or "").is_file()


def test_what_a_person_wrote_into_it_stays(catalog: Path, tmp_path: Path) -> None:
    for name in ("catalog.json", "maps/collection.json"):
        document = read(catalog / name)
        (catalog / name).write_text(json.dumps(document | {"title": "Ours", "keywords": ["water"]}))
    make_run(tmp_path / "july")
    add_runs(catalog, [tmp_path / "july"])
    for name in ("catalog.json", "maps/collection.json"):
        document = read(catalog / name)
        assert (document["title"], document["keywords"]) == ("Ours", ["water"])
    assert len([link for link in read(catalog / "maps/collection.json")["links"] if link["rel"] == "item"]) == 3


def test_kinds_have_collections_of_their_own(catalog: Path, tmp_path: Path) -> None:
    change = make_run(tmp_path / "change").folder
    item = read(change / "item.json")
    item["assets"]["change"] = item["assets"].pop("labels")
    (change / "item.json").write_text(json.dumps(item))
    add_runs(catalog, [change, package_path("spectral-baseline")])
    root = pystac.Catalog.from_file(str(catalog / "catalog.json"))
    assert [child.id for child in root.get_children()] == ["changes", "maps", "models"]
    assert set(pq.read_table(catalog / "items.parquet")["id"].to_pylist()) == {
        "change-cover",
        "june-cover",
        "may-cover",
    }
    card = pystac.Item.from_file(str(catalog / "models/spectral-baseline/spectral-baseline.json"))
    assert Path(card.assets["model"].get_absolute_href() or "").is_file()


def test_the_runs_of_one_call_are_added_by_its_catalog(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "maps" / name).folder for name in ("a", "b")]
    write_catalog(tmp_path / "maps", [run / "item.json" for run in runs])
    assert len(add_runs(tmp_path / "catalog", [tmp_path / "maps"])) == 2


def test_items_are_taken_out_and_files_stay(catalog: Path, tmp_path: Path) -> None:
    assert remove_items(catalog, ["may-cover"]) == [catalog / "maps/may-cover/may-cover.json"]
    assert pq.read_table(catalog / "items.parquet")["id"].to_pylist() == ["june-cover"]
    assert (tmp_path / "may" / "labels.tif").is_file()
    with pytest.raises(ConfigError, match="lists no may-cover"):
        remove_items(catalog, ["may-cover", "june-cover"])
    remove_items(catalog, ["june-cover"])
    assert set(content(catalog)) == {"catalog.json"}


@pytest.mark.parametrize("missing", ["run.json", "item.json"])
def test_what_is_no_finished_run_is_refused(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "may").folder
    (run / missing).unlink()
    with pytest.raises(ConfigError, match=r"may: holds no finished run"):
        add_runs(tmp_path / "catalog", [run])
    assert not (tmp_path / "catalog").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"links": []}', '{"links": [], "id": "x", "assets": {}}'])
def test_what_is_no_item_is_refused(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "may").folder
    (run / "item.json").write_text(text)
    with pytest.raises(ConfigError, match=r"may/item\.json: "):
        add_runs(tmp_path / "catalog", [run])
    assert not (tmp_path / "catalog").exists()


def test_a_catalog_of_another_make_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "maps" / "a").folder
    write_catalog(tmp_path / "maps", [run / "item.json"])
    before = content(tmp_path / "maps")
    with pytest.raises(ConfigError, match="the catalog of one call"):
        add_runs(tmp_path / "maps", [run])
    foreign = {"type": "Catalog", "links": [{"rel": "child", "href": "../elsewhere/collection.json"}]}
    (tmp_path / "catalog.json").write_text(json.dumps(foreign))
    with pytest.raises(ConfigError, match="no catalog of geoseg's making"):
        add_runs(tmp_path, [run])
    assert content(tmp_path / "maps") == before


def test_nothing_is_begun_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "may").folder
    monkeypatch.setitem(sys.modules, "stac_geoparquet.arrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'geoseg\[catalog\]'"):
        add_runs(tmp_path / "catalog", [run])
    assert not (tmp_path / "catalog").exists()


def test_none_of_many_that_add_at_once_is_lost(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{number}", seed=number).folder for number in range(6)]
    with ThreadPoolExecutor(6) as pool:  # each opens the lock itself, as processes do
        list(pool.map(lambda run: add_runs(tmp_path / "catalog", [run]), runs))
    names = {f"run{number}-{SPEC.name}" for number in range(6)}
    root = pystac.Catalog.from_file(str(tmp_path / "catalog/catalog.json"))
    assert {item.id for item in root.get_items(recursive=True)} == names
    assert set(pq.read_table(tmp_path / "catalog/items.parquet")["id"].to_pylist()) == names


def test_patience_ends(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "PATIENCE", 0.3)
    before = content(catalog)
    with locked(open_store(catalog)), pytest.raises(SinkError, match="others are at work on this catalog"):
        add_runs(catalog, [catalog.parent / "may"])
    assert content(catalog) == before


def test_a_catalog_in_a_bucket_lists_runs_in_buckets(tmp_path: Path, bucket: Bucket) -> None:
    run = make_run(tmp_path / "may").folder
    for path in run.iterdir():
        bucket.put(f"maps/may/{path.name}", path.read_bytes())
    place, source = f"s3://{bucket.name}/catalog", f"s3://{bucket.name}/maps/may"
    assert add_runs(place, [source]) == [f"{place}/maps/may-cover/may-cover.json"]
    item = json.loads(bucket.objects()["catalog/maps/may-cover/may-cover.json"])
    assert item["assets"]["labels"]["href"] == "../../../maps/may/labels.tif"
    before = bucket.objects()
    assert set(before) >= {"catalog/catalog.json", "catalog/maps/collection.json", "catalog/items.parquet"}
    add_runs(place, [source])
    assert bucket.objects() == before
    add_runs(tmp_path / "here", [source])
    item = read(tmp_path / "here/maps/may-cover/may-cover.json")
    assert item["assets"]["labels"]["href"] == f"{source}/labels.tif"
    with pytest.raises(ConfigError, match="copy the run to one first"):
        add_runs(place, [run])
