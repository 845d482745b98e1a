"""What `make data-catalog` runs: writes ``data_catalog/``, which describes what `make demo` makes, and the models.

Nothing is measured: scene, labels and map follow from the generator's arguments, the models' cards from their packages.
So the catalog is the same wherever it is written, and a test holds the committed one against it. Files that `make demo`
makes have no checksum there: their bytes depend on the versions of the libraries that compress them.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import shapely

from geoseg.catalog.collection import Entry, add_entries
from geoseg.catalog.item import EXTENSIONS, class_fields, describe_run, projection_fields
from geoseg.catalog.tree import KINDS
from geoseg.decide import PROBABILITY_SCALE
from geoseg.earth import footprint, lonlat_bbox
from geoseg.models import list_models, package_path, read_spec
from geoseg.scene import Scaling, Scene
from geoseg.spec import ClassInfo
from geoseg.testing import COVERS, SyntheticScene
from geoseg.testing.spectra import Cover
from geoseg.testing.synthetic import SCALE

MODEL = "spectral-baseline"
"""The model of the demo's map."""
TAKEN = datetime(2024, 6, 14, 10, 20, 31, tzinfo=UTC)
"""What the demo scene's file says."""
OUTPUTS = (
    "labels.tif",
    "confidence.tif",
    "labels.tif.aux.xml",
    "labels.qml",
    "polygons.geojson",
    "polygons.parquet",
    "preview.png",
)
"""What a run with default options leaves beside its item and its report."""
CHECKOUT = Path(__file__).resolve().parent.parent

_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
_EO, _LABEL = _SCHEMA.format("eo/v2.0.0"), _SCHEMA.format("label/v1.0.1")
_TIFF = "image/tiff; application=geotiff"


def main() -> None:
    """Writes the catalog of this checkout anew."""
    write_catalog(CHECKOUT)


def write_catalog(home: Path, size: int = 4096) -> Path:
    """Writes ``data_catalog`` in `home`, beside ``demo`` and ``geoseg``, and returns where it is."""
    catalog = home / "data_catalog"
    for kind in KINDS:
        shutil.rmtree(catalog / kind, ignore_errors=True)
    (catalog / "catalog.json").unlink(missing_ok=True)
    add_entries(catalog, entries(home, size))
    return catalog


def entries(home: Path, size: int = 4096) -> list[Entry]:
    """The demo's scene, its labels, its map, and every model that comes with geoseg."""
    demo = home / "demo"
    packages = home / "geoseg" / "models" / "packages"
    found = [
        Entry(kind="scenes", item=scene_item(size), home=demo),
        Entry(kind="labels", item=labels_item(size), home=demo),
        Entry(kind="maps", item=map_item(size), home=demo / "map", file="item.json"),
    ]
    for name, _ in list_models():
        card = json.loads((package_path(name) / "model.json").read_text("utf-8"))
        found.append(Entry(kind="models", item=card, home=packages / name, file="model.json"))
    return found


def scene_item(size: int) -> dict[str, Any]:
    """The item of the scene, whose hrefs count from ``demo``."""
    scene = SyntheticScene(size, size)
    bands = [
        {
            "name": band.name,
            "eo:common_name": band.name,
            "data_type": band.dtype,
            "nodata": band.nodata,
            "raster:scale": SCALE,
            "raster:offset": 0.0,
        }
        for band in scene.bands
    ]
    item = _item(f"scene-{size}", size, "A scene like Sentinel-2's, made by geoseg.testing from a seed")
    item["assets"]["pixels"] = {
        "href": f"./scene-{size}.tif",
        "type": f"{_TIFF}; profile=cloud-optimized",
        "title": "Reflectance in six bands",
        "roles": ["data", "reflectance"],
        "bands": bands,
    }
    item["stac_extensions"] += [EXTENSIONS["raster"], _EO]
    return item


def labels_item(size: int) -> dict[str, Any]:
    """The item of what lies where in the scene, whose hrefs count from ``demo``."""
    classes = [ClassInfo(value=value, name=name) for value, name in COVERS.items() if value != Cover.NODATA]
    item = _item(f"truth-{size}", size, "What lies where in the scene, as its generator knows it")
    item["properties"] |= {
        "label:type": "raster",
        "label:tasks": ["segmentation"],
        "label:methods": ["synthetic"],
        "label:properties": None,
        "label:description": "The cover of each pixel; a cloud before the ground below it",
        "label:classes": [{"name": None, "classes": [info.name for info in classes]}],
    }
    item["assets"]["labels"] = {
        "href": f"./truth-{size}.tif",
        "type": _TIFF,
        "title": "Cover of each pixel",
        "roles": ["data", "labels"],
        "bands": [
            {
                "name": "labels",
                "data_type": "uint8",
                "nodata": int(Cover.NODATA),
                "classification:classes": [class_fields(info) for info in classes],
            }
        ],
    }
    source = f"../data_catalog/scenes/scene-{size}/scene-{size}.json"
    item["links"].append({"rel": "source", "href": source, "type": "application/geo+json", "label:assets": ["pixels"]})
    item["stac_extensions"] += [EXTENSIONS["classification"], _LABEL]
    return item


def map_item(size: int) -> dict[str, Any]:
    """The item that the demo's run leaves in ``demo/map``, without what depends on the machine."""
    spec, source = read_spec(MODEL), SyntheticScene(size, size)
    scene = Scene(
        id=f"scene-{size}",
        source=source,
        geobox=source.geobox,
        bands=source.bands,
        datetime=TAKEN,
        datetime_source="tiff",
        href=f"/demo/scene-{size}.tif",
    )
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in OUTPUTS]
        for file in files:
            file.touch()
        made = describe_run(
            scene,
            spec,
            files,
            geobox=source.geobox,
            started=TAKEN,
            software={},
            scaling=Scaling(scale=PROBABILITY_SCALE),
            model_href=f"/geoseg/models/packages/{MODEL}/model.json",
            home=Path("/demo/map"),
        )
    item: dict[str, Any] = made.to_dict(include_self_link=False, transform_hrefs=False)
    for asset in item["assets"].values():
        del asset["file:size"], asset["file:checksum"]
    del item["properties"]["processing:software"]
    item["stac_extensions"].remove(EXTENSIONS["file"])
    return item


def _item(name: str, size: int, title: str) -> dict[str, Any]:
    geobox = SyntheticScene(size, size).geobox
    outline = footprint(geobox)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EXTENSIONS["proj"]],
        "id": name,
        "geometry": json.loads(shapely.to_geojson(outline)),
        "bbox": lonlat_bbox(outline),
        "properties": {
            "title": title,
            "license": "MIT",
            **projection_fields(geobox),
            "datetime": TAKEN.isoformat().replace("+00:00", "Z"),
        },
        "links": [],
        "assets": {},
    }


if __name__ == "__main__":
    main()
