"""The committed catalog is what the code generates, and what `make demo` makes is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pystac
import pytest
import rasterio

import geoseg
from geoseg.catalog.audit import examine_catalog
from geoseg.models import list_models
from geoseg.source import open_scene
from geoseg.testing import write_scene, write_truth
from pipelines import data_catalog, demo

COMMITTED = data_catalog.CHECKOUT / "data_catalog"
SIZE = 600
LAYOUT = {"root", "parent", "collection", "canonical"}


def documents(catalog: Path) -> dict[str, str]:
    return {str(path.relative_to(catalog)): path.read_text() for path in catalog.rglob("*.json")}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_catalog.write_catalog(tmp_path_factory.mktemp("checkout"))


def test_the_committed_catalog_is_what_the_code_generates(generated: Path) -> None:
    assert documents(COMMITTED) == documents(generated), "make data-catalog writes it anew"
    tables = [pq.read_table(folder / "items.parquet") for folder in (COMMITTED, generated)]
    rows = [table.to_pylist() for table in tables]  # the order of fields depends on pyarrow
    assert rows[0] == rows[1], "make data-catalog writes it anew"


def test_it_is_written_anew_over_what_was_there(generated: Path) -> None:
    before = documents(generated)
    (generated / "maps" / "old").mkdir()
    data_catalog.write_catalog(generated.parent)
    assert documents(generated) == before
    assert not (generated / "maps" / "old").exists()


def test_it_is_valid_and_lacks_only_what_the_demo_makes(shared: Path) -> None:
    demo_folder = str(data_catalog.CHECKOUT / "demo")
    findings = examine_catalog(COMMITTED, schemas=shared / "stac-schemas", checksums=False)
    assert [text for text in findings if demo_folder not in text] == []


def test_it_is_small_and_holds_every_model() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file()) < 300_000
    items = pystac.Catalog.from_file(str(COMMITTED / "catalog.json")).get_items(recursive=True)
    assert {name for name, _ in list_models()} <= {item.id for item in items}


def test_no_path_of_a_machine_is_in_it() -> None:
    for text in documents(COMMITTED).values():
        assert str(data_catalog.CHECKOUT) not in text
        assert '"/' not in text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo makes, on a small scene, and its catalog."""
    home = tmp_path_factory.mktemp("demo")
    (home / "demo").mkdir()
    scene = write_scene(home / "demo" / f"scene-{SIZE}.tif", SIZE, SIZE)
    write_truth(home / "demo" / f"truth-{SIZE}.tif", SIZE, SIZE)
    geoseg.segment(scene, out=home / "demo" / "map")
    data_catalog.write_catalog(home, SIZE)
    return home


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_the_map_is_described_as_its_run_describes_it(made: Path) -> None:
    name = f"scene-{SIZE}-{data_catalog.MODEL}"
    told = read(made / "data_catalog" / "maps" / name / f"{name}.json")
    left = read(made / "demo" / "map" / "item.json")
    for asset in left["assets"].values():
        del asset["file:size"], asset["file:checksum"]
    del left["properties"]["processing:software"]
    assert told["properties"] == left["properties"]
    for item in (told, left):
        for asset in item["assets"].values():
            asset["href"] = Path(asset["href"]).name
    assert told["assets"] == left["assets"]
    assert (told["bbox"], told["geometry"]) == (left["bbox"], left["geometry"])


def test_scene_and_labels_are_described_as_they_are(made: Path) -> None:
    name = f"scene-{SIZE}"
    scene = open_scene(str(made / "data_catalog" / "scenes" / name / f"{name}.json"), bands=["red", "nir"])
    assert scene.datetime == data_catalog.TAKEN
    item = pystac.Item.from_file(str(made / "data_catalog" / "labels" / f"truth-{SIZE}" / f"truth-{SIZE}.json"))
    (band,) = item.assets["labels"].extra_fields["bands"]
    with rasterio.open(item.assets["labels"].get_absolute_href()) as labels:
        assert labels.shape == tuple(item.properties["proj:shape"])
        assert (labels.nodata, labels.dtypes[0]) == (band["nodata"], band["data_type"])
        classes = {info["value"] for info in band["classification:classes"]}
        assert set(map(int, set(labels.read(1).ravel()))) <= classes | {band["nodata"]}
    with rasterio.open(made / "demo" / f"scene-{SIZE}.tif") as pixels:
        described = read(made / "data_catalog" / "scenes" / name / f"{name}.json")
        assert list(pixels.descriptions) == [each["name"] for each in described["assets"]["pixels"]["bands"]]


def test_after_the_demo_only_files_of_the_package_are_missing(made: Path) -> None:
    """The models lie in the checkout, which is elsewhere here."""
    packages = str(made / "geoseg" / "models" / "packages")
    findings = examine_catalog(made / "data_catalog", checksums=False)
    missing = [text for text in findings if packages not in text]
    assert missing == []


def test_the_demo_writes_the_truth_once(tmp_path: Path) -> None:
    path = demo.make_truth(tmp_path / "truth.tif", 64)
    before = path.stat().st_mtime_ns
    assert demo.make_truth(path, 64).stat().st_mtime_ns == before
