"""The pipelines that are shipped as examples, and those of the page on pipelines, on small scenes made here."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from geoseg.testing import write_scene
from tests.cli.conftest import Call
from tests.source import test_search as searched
from tests.test_house import CHECKOUT, blocks, command_lines

PIPELINES = CHECKOUT / "pipelines"
PAGE = CHECKOUT / "docs" / "how-to" / "pipelines.md"


def box_of(path: Path) -> tuple[float, ...]:
    """West, south, east, north in degrees."""
    with rasterio.open(path) as file:
        return tuple(transform_bounds(file.crs, "EPSG:4326", *file.bounds))


def shape_of(box: tuple[float, ...]) -> dict[str, Any]:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def item(path: Path, day: int) -> dict[str, Any]:
    """A scene as a STAC API tells of it."""
    with rasterio.open(path) as file:
        bands = [{"name": name, "common_name": name} for name in file.descriptions]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": path.stem,
        "geometry": shape_of(box_of(path)),
        "bbox": list(box_of(path)),
        "properties": {"datetime": f"2024-06-{day:02}T10:00:00Z"},
        "links": [],
        "assets": {"data": {"href": str(path), "eo:bands": bands}},
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three scenes of one place."""
    for seed, name in enumerate(("before", "after", "scene")):
        write_scene(tmp_path / f"{name}.tif", 128, 112, seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def published(folder: Path) -> list[dict[str, Any]]:
    """The items that a step has published."""
    told = json.loads((folder / "listed" / "published.json").read_text())
    assert all(Path(page).is_file() for page in told["pages"])
    return [json.loads(Path(each).read_text()) for each in told["items"]]


@pytest.fixture
def api(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[searched.Server]:
    """A STAC API that finds two of the scenes."""
    pytest.importorskip("pystac_client", reason="pystac-client is not installed: pip install 'geoseg[catalog]'")
    found = [item(place / f"{name}.tif", day) for day, name in enumerate(("before", "after"), start=3)]
    monkeypatch.setattr(searched, "ITEMS", found)
    with searched.Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_land_cover(call: Call, place: Path, api: searched.Server) -> None:
    west, south, east, north = box_of(place / "scene.tif")
    area = f"{west + (east - west) / 4},{south},{east},{north}"
    words = ("--set", f"area={area}", "--set", "dates=2024-06", "--set", f"api={api.url}", "--set", "catalog=shelf")
    ended = call("run", PIPELINES / "land-cover.yaml", "--out", "cover", *words, "--json")
    assert ended.code == 0, ended.err
    assert api.asked[0]["filter"] == "eo:cloud_cover < 30"
    assert api.asked[0]["bbox"] == pytest.approx([float(word) for word in area.split(",")])
    assert [found["id"] for found in json.loads((place / "cover/scenes/search.json").read_text())["features"]] == [
        "before",
        "after",
    ]
    assert {path.name for path in (place / "cover/cover").iterdir()} >= {"before", "after", "mosaic", "catalog.json"}
    with rasterio.open(place / "cover/cover/mosaic/labels.tif") as file:
        assert 70 < file.width < 112, "only the box is mapped"
    assert {path.name for path in (place / "cover/regions").iterdir()} == {"regions.parquet", "regions.gpkg"}
    assert len(published(place / "cover")) == 3
    assert len(list((place / "cover/listed").glob("*.html"))) == 3
    asked = len(api.asked)
    ended = call("run", PIPELINES / "land-cover.yaml", "--out", "cover", *words, "--json")
    assert [step["state"] for step in json.loads(ended.out)["steps"]] == ["skipped"] * 4
    assert len(api.asked) == asked


@pytest.mark.parametrize("model", ["index-change", pytest.param("flood-s2", marks=pytest.mark.slow)])
def test_flood_change(call: Call, place: Path, model: str) -> None:
    feature = {"type": "Feature", "properties": {}, "geometry": shape_of(box_of(place / "scene.tif"))}
    (place / "ems.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    words = [*(f"{name}={name}.tif" for name in ("before", "after")), f"model={model}"]
    words += ["known=ems.geojson", "catalog=shelf"]
    sets = [word for each in words for word in ("--set", each)]
    ended = call("run", PIPELINES / "flood-change.yaml", "--out", "flood", *sets)
    assert ended.code == 0, ended.err
    with rasterio.open(place / "flood/flood/change.tif") as file:
        change = file.read(1)
    scores = json.loads((place / "flood/agreement/scores.json").read_text())
    assert scores["pixels"] == int(np.sum(change != 255))
    assert {path.name for path in (place / "flood/outlines").iterdir()} == {"flood.geojson", "flood.gpkg"}
    assert (place / "flood/agreement/agreement.html").stat().st_size > 1000
    assert [each["collection"] for each in published(place / "flood")] == ["changes"]


def test_country(call: Call, place: Path) -> None:
    features = [item(place / f"{name}.tif", day) for day, name in enumerate(("scene", "after", "before"), start=3)]
    (place / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    sets = ["--set", "items=search.json", "--set", "crs=EPSG:3035", "--set", "workers=2", "--set", "catalog=shelf"]
    ended = call("run", PIPELINES / "country.yaml", "--out", "country", *sets, "--json")
    assert ended.code == 0, ended.err
    runs = json.loads(ended.out)["steps"][0]["result"]["runs"]
    assert [Path(run["out"]).name for run in runs] == ["scene", "after", "before", "mosaic"]
    with rasterio.open(place / "country/cover/mosaic/labels.tif") as file:
        assert (file.crs.to_epsg(), file.res) == (3035, (10, 10))
    assert json.loads((place / "country/cover/scene/run.json").read_text())["request"]["workers"] == 2
    assert len(published(place / "country")) == 4


def test_the_page_on_pipelines(call: Call, place: Path) -> None:
    """Its file, then its commands in their order."""
    (place / "fields.yaml").write_text(blocks(PAGE, "yaml")[0])
    lines = [words for words in command_lines(PAGE, "geoseg") if "pipelines/" not in shlex.join(words)]
    assert len(lines) >= 5
    for words in lines:
        ended = call(*words[1:])
        assert ended.code == 0, (words, ended.err)
    assert (place / "out" / "fields" / "fields.gpkg").is_file()
