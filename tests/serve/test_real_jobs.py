"""Jobs that compute: their results are those of the command line, to the byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import rasterio
from starlette.testclient import TestClient

from geoseg.cli import run
from geoseg.serve.service import Service
from geoseg.serve.settings import ServiceSettings
from geoseg.testing.server import Fault, range_server
from geoseg.testing.spectra import BANDS
from tests.serve.conftest import Connect


def asked(client: TestClient, process: str, **inputs: Any) -> Any:
    response = client.post(f"/processes/{process}/execution", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_map_its_polygons_its_scores(client: TestClient, service: Service, catalog: Path, tmp_path: Path) -> None:
    found = asked(client, "segment", scene="before", tile=64, vector=["geojson"])
    job_id = found["labels"]["href"].split("/")[-3]
    made = {name: client.get(link["href"]).content for name, link in found.items()}

    own = tmp_path / "own"
    scene = catalog / "before" / "item.json"
    words = ["segment", str(scene), "--out", str(own), "--tile", "64", "--vector", "geojson", "--device", "cpu", "-q"]
    assert run(words) == 0
    for name, file in (
        ("labels", "labels.tif"),
        ("confidence", "confidence.tif"),
        ("polygons_geojson", "polygons.geojson"),
    ):
        assert made[name] == (own / file).read_bytes(), name
    with rasterio.open(own / "labels.tif") as labels:
        assert labels.shape == (160, 160)
    item = client.get(found["item"]["href"]).json()
    assert item["assets"]["labels"]["file:checksum"][4:] == hashlib.sha256(made["labels"]).hexdigest()
    for name in ("item", "report"):
        text = client.get(found[name]["href"]).text
        assert str(service.settings.root) not in text
        assert str(catalog) not in text

    drawn = asked(client, "vectorize", run=job_id, vector=["geojson", "fgb"], min_area=1000)
    assert set(drawn) == {"polygons_geojson", "polygons_fgb"}
    polygons = client.get(drawn["polygons_geojson"]["href"]).json()
    assert 0 < len(polygons["features"]) < len(client.get(found["polygons_geojson"]["href"]).json()["features"])

    truth = client.get(found["polygons_geojson"]["href"]).json()
    scores = asked(client, "evaluate", run=job_id, truth=truth, class_column="class_id", draws=0)["scores"]
    assert scores["overall"]["accuracy"] > 0.99
    assert str(service.settings.root) not in json.dumps(scores)


def test_a_job_that_cannot_be_done_says_why_without_paths(connect: Connect, service: Service) -> None:
    client = connect(service.settings.model_copy(update={"root": service.settings.root.with_name("second")}))
    inputs = {"scene": "before", "bands": {"red": 9}}
    response = client.post("/processes/segment/execution", json={"inputs": inputs})
    assert response.status_code == 422
    assert response.json()["title"] == "The job failed"
    assert "red" in response.json()["detail"]
    assert "/tmp" not in response.text


def test_a_scene_of_an_allowed_host_is_read_and_no_other(
    connect: Connect, settings: ServiceSettings, catalog: Path
) -> None:
    """The job's own process reads through the service's proxy, GDAL included."""
    content = (catalog / "before" / "scene.tif").read_bytes()
    with range_server({"/scene.tif": content}) as allowed, range_server({"/scene.tif": content}) as other:
        listed = allowed.url.removeprefix("http://")
        client = connect(settings.model_copy(update={"hosts": (listed,)}))
        inputs = {"tile": 64, "vector": [], "bands": {name: n for n, name in enumerate(BANDS, 1)}}
        found = asked(client, "segment", scene={"href": f"{allowed.url}/scene.tif"}, **inputs)
        assert client.get(found["labels"]["href"]).status_code == 200
        assert len(allowed.asked) > 1, "the header, then what GDAL reads"

        allowed.fault = lambda _: Fault(status=302, headers={"Location": f"{other.url}/scene.tif"})
        body = {"inputs": {"scene": {"href": f"{allowed.url}/scene.tif"}, **inputs}}
        refused = client.post("/processes/segment/execution", json=body)
        assert refused.status_code == 422
        assert other.asked == []
