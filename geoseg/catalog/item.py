"""The STAC item of a run: where and when, which classes, which files, made from what and by which model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import shapely

from geoseg.earth import crs_of, footprint, lonlat_bbox
from geoseg.errors import SinkError
from geoseg.scene import DATES, Scaling, Scene
from geoseg.spec import ClassInfo, ModelSpec
from geoseg.store import Place, Store, open_store
from geoseg.window import GeoBox

__all__ = [
    "EXTENSIONS",
    "Origin",
    "class_fields",
    "describe_run",
    "projection_fields",
    "write_catalog",
    "write_item",
]

_CATALOG = "catalog.json"
_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"

EXTENSIONS = {
    "proj": _SCHEMA.format("projection/v2.0.0"),
    # 1.1.0 asks for a description of each class where 2.0.0 asks for a name: classes here have both, and fit both.
    "classification": _SCHEMA.format("classification/v1.1.0"),
    "processing": _SCHEMA.format("processing/v1.2.0"),
    "file": _SCHEMA.format("file/v2.1.0"),
    "raster": _SCHEMA.format("raster/v2.0.0"),
}
"""Schemas of the extensions that an item may use, by prefix."""

MEDIA_TYPES = {
    ".tif": pystac.MediaType.COG,
    ".png": pystac.MediaType.PNG,
    ".html": pystac.MediaType.HTML,
    ".geojson": pystac.MediaType.GEOJSON,
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": "application/vnd.flatgeobuf",
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".pmtiles": "application/vnd.pmtiles",
    ".xml": pystac.MediaType.XML,
    ".qml": pystac.MediaType.XML,
}

TITLES = {
    "labels": "Class of each pixel",
    "change": "Change of each pixel",
    "confidence": "Probability of the chosen class",
    "change_probability": "Probability of change",
    "probabilities": "Probability of each class",
    "scene": "Scene that each pixel is from",
    "uncertainty": "Uncertainty of the chosen class",
    "polygons": "One polygon per connected region of a class",
    "preview": "Preview with legend",
    "compare": "Page that compares both dates under the change",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One of the scenes that a mosaic was made from."""

    value: int
    """Its number in ``scene.tif``."""
    scene: str
    """Its id."""
    item: str
    """The STAC item of its map: path or URL."""
    datetime: datetime | None
    """Time of acquisition, if known."""
    pixels: int
    """Pixels of the mosaic that are from it."""

    def document(self, home: Place) -> dict[str, Any]:
        """As JSON values, for the report that stands in `home`."""
        when = self.datetime.isoformat() if self.datetime else None
        return {**asdict(self), "item": _from(self.item, home), "datetime": when}


def describe_run(
    scene: Scene[Any],
    spec: ModelSpec,
    files: Iterable[Path],
    *,
    geobox: GeoBox,
    started: datetime,
    software: Mapping[str, str],
    scaling: Scaling | None = None,
    model_href: str | None = None,
    home: Place | None = None,
    origins: Sequence[Origin] = (),
) -> pystac.Item:
    """The STAC 1.1 item of one run, to be written beside its files.

    A function of its arguments and of the bytes of `files` alone.

    Args:
        scene: What was segmented.
        spec: The model's card.
        files: Finished outputs, all in one directory; each becomes an asset with its checksum.
        geobox: Grid of the outputs.
        started: Time of the run, with a time zone; the item's time where the scene declares none.
        software: Name -> version of what the outputs depend on.
        scaling: Probability per stored number of confidence and probabilities.
        model_href: The model's own item (``model.json``): a URL or a path.
        home: Folder, or URL of a prefix, in which item and files will stand, from which links to other paths lead;
            None: where the files are now.
        origins: The scenes of a mosaic; it bears the time of the newest.

    Raises:
        GridError: The grid has no CRS, or corners without longitude and latitude.
        SinkError: A file is missing.
    """
    paths = list(files)
    outline = footprint(geobox)
    times = [origin.datetime for origin in origins if origin.datetime]
    time, time_source = (scene.datetime, scene.datetime_source) if scene.datetime else (started, "run")
    if times:
        time, time_source = max(times), "scenes"
    item = pystac.Item(
        id=f"{scene.id}-{spec.name}",
        geometry=json.loads(shapely.to_geojson(outline)),
        bbox=lonlat_bbox(outline),
        datetime=time.astimezone(UTC),
        properties={
            "title": _title(scene, spec),
            "geoseg:datetime_source": time_source,
            "geoseg:scene": scene.id,
            "geoseg:model": spec.name,
            "geoseg:model_digest": spec.digest,
            **_processing(scene, spec, software),
            **projection_fields(geobox),
            **_range(times or _times(scene)),
            **{f"geoseg:{name}": date.id for name, date in zip(DATES, scene.dates, strict=False)},
        },
    )
    for path in paths:
        item.add_asset(_key(path), _asset(path, spec, scaling))
    if "scene" in item.assets:
        item.assets["scene"].extra_fields["bands"] = [_scene_band(origins)]
    item.stac_extensions = _extensions(item)
    home = home or paths[0].parent
    item.add_links(_links(scene, spec, model_href, home))
    for origin in origins:
        href = _from(origin.item, home)
        item.add_link(pystac.Link("derived_from", href, pystac.MediaType.GEOJSON, origin.scene))
    return item


def _times(scene: Scene[Any]) -> list[datetime]:
    """When the dates of a change were; empty unless both are known."""
    known = [date.datetime for date in scene.dates if date.datetime]
    return known if len(known) == len(scene.dates) else []


def _range(times: Sequence[datetime]) -> dict[str, str]:
    """From when to when the scenes of a mosaic, or of a change, were taken."""
    if not times:
        return {}
    first, last = (moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (min(times), max(times)))
    return {"start_datetime": first, "end_datetime": last}


def _scene_band(origins: Sequence[Origin]) -> dict[str, Any]:
    """The band of ``scene.tif``, with a scene where others have a class."""
    scenes = [
        {"value": origin.value, "name": origin.scene, "title": origin.scene, "description": f"from {origin.scene}"}
        for origin in origins
    ]
    return {"name": "scene", "data_type": "uint16", "nodata": 65535, "classification:classes": scenes}


def _title(scene: Scene[Any], spec: ModelSpec) -> str:
    if not scene.dates:
        return f"{scene.id}, segmented by {spec.name}"
    before, after = scene.dates
    return f"Change from {before.id} to {after.id}, found by {spec.name}"


def _processing(scene: Scene[Any], spec: ModelSpec, software: Mapping[str, str]) -> dict[str, Any]:
    what = "Change detection between two dates" if scene.dates else "Semantic segmentation"
    digest = f" (sha256 {spec.digest})" if spec.digest else ""
    return {
        "processing:level": "L4",
        "processing:lineage": f"{what} with the model {spec.name}{digest}",
        "processing:software": dict(sorted(software.items())),
    }


def projection_fields(geobox: GeoBox) -> dict[str, Any]:
    """The fields of the projection extension: a code where the CRS has one, else its WKT."""
    known = crs_of(geobox)
    code = known.to_epsg()
    crs = {"proj:code": f"EPSG:{code}"} if code else {"proj:code": None, "proj:wkt2": known.to_wkt()}
    extent = geobox.extent.geom
    return {
        **crs,
        "proj:shape": [int(side) for side in geobox.shape],
        "proj:transform": [float(number) for number in geobox.transform],
        "proj:bbox": list(extent.bounds),
        "proj:geometry": json.loads(shapely.to_geojson(extent)),
    }


def _key(path: Path) -> str:
    """Asset key: ``labels``, ``preview``; ``polygons_geojson`` where a stem has several files."""
    return path.stem if path.suffix in {".tif", ".png", ".html"} else path.name.replace(".", "_")


def _asset(path: Path, spec: ModelSpec, scaling: Scaling | None) -> pystac.Asset:
    stem = path.name.partition(".")[0]
    title = TITLES.get(stem, stem)
    if path.suffix in {".xml", ".qml"}:
        title, roles = f"Names and colours of the classes ({path.name})", ["metadata"]
    else:
        roles = ["overview"] if path.suffix in {".png", ".html"} else ["data"]
    return pystac.Asset(
        href=f"./{path.name}",
        title=title,
        media_type=MEDIA_TYPES.get(path.suffix),
        roles=roles,
        extra_fields={**_fingerprint(path), **_bands(path, spec, scaling)},
    )


def _fingerprint(path: Path) -> dict[str, Any]:
    """Size, and checksum as a multihash: 12 (SHA-256), 20 (its 32 bytes), the digest."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}
    except OSError as error:
        raise SinkError(f"{path}: an output of the run cannot be read back: {error.strerror}") from error


def _bands(path: Path, spec: ModelSpec, scaling: Scaling | None) -> dict[str, Any]:
    """The `bands` of a raster; nothing for other files."""
    if path.suffix != ".tif":
        return {}
    if path.stem in {"labels", "change"}:
        written = spec.written
        classes = [class_fields(info) for info in written.classes]
        return {
            "bands": [
                {
                    "name": path.stem,
                    "data_type": written.label_dtype,
                    "nodata": written.label_nodata,
                    "classification:classes": classes,
                }
            ]
        }
    names = spec.probability_names if path.stem == "probabilities" else (path.stem,)
    stored = {"data_type": "uint8", "nodata": 255}
    if scaling is not None:
        stored |= {"raster:scale": scaling.scale, "raster:offset": scaling.offset}
    return {"bands": [{"name": name, **stored} for name in names]}


def class_fields(info: ClassInfo) -> dict[str, Any]:
    """A class as the classification extension has it."""
    title = info.title or info.name
    return {
        "value": info.value,
        "name": info.name,
        "title": title,
        "description": info.description or title,
        "color_hint": info.color.upper(),
    }


def _extensions(item: pystac.Item) -> list[str]:
    """Those of `EXTENSIONS` whose prefix occurs."""
    text = json.dumps([item.properties, {key: asset.to_dict() for key, asset in item.assets.items()}])
    return [schema for prefix, schema in EXTENSIONS.items() if f'"{prefix}:' in text]


def _links(scene: Scene[Any], spec: ModelSpec, model_href: str | None, home: Place) -> list[pystac.Link]:
    """What the outputs derive from: the scene (its item, or else its file) and the model."""
    links = []
    for one in scene.dates or (scene,):
        if source := one.item_href or one.href:
            kind = pystac.MediaType.GEOJSON if one.item_href else None
            links.append(pystac.Link("derived_from", _from(source, home), media_type=kind, title=one.id))
    if model_href:
        fields = {"mlm:name": spec.name}
        href = _from(model_href, home)
        links.append(pystac.Link("derived_from", href, pystac.MediaType.GEOJSON, f"Model {spec.name}", fields))
    return links


def _from(href: str, home: Place) -> str:
    """A URL as it is; a path as seen from the folder `home`, or whole where there is no way from a bucket to it."""
    if "://" in href:
        return href
    return (Path(href).absolute() if "://" in str(home) else Path(os.path.relpath(href, home))).as_posix()


def write_item(item: pystac.Item, path: Path) -> Path:
    """Writes `item` as JSON, under a temporary name first, and returns `path`.

    Raises:
        SinkError: The file cannot be written.
    """
    text = json.dumps(item.to_dict(include_self_link=False, transform_hrefs=False), indent=2, ensure_ascii=False)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        return part.replace(path)
    except OSError as error:
        raise SinkError(f"{path}: the STAC item cannot be written: {error.strerror}") from error


def write_catalog(out: Place, items: Iterable[Place]) -> Place:
    """Writes ``catalog.json``, a STAC catalog of the runs in the folders below `out`; returns where it is.

    It lists the runs that it listed before, as far as they are there, and `items`, in the order of their folders.

    Raises:
        SinkError: It cannot be written.
    """
    store = open_store(out)
    folders = {str(item).split("/")[-2] for item in items} | set(_listed_before(store))
    links = [{"rel": "root", "href": "./catalog.json", "type": pystac.MediaType.JSON.value}]
    links += [
        {"rel": "item", "href": f"./{folder}/item.json", "type": pystac.MediaType.GEOJSON.value, "title": folder}
        for folder in sorted(folders)
    ]
    catalog = {
        "type": "Catalog",
        "stac_version": pystac.get_stac_version(),
        "id": "maps",
        "title": "Maps of several scenes",
        "description": "One item for each scene that geoseg mapped, and one for their mosaic, if there is one.",
        "links": links,
    }
    store.put(_CATALOG, (json.dumps(catalog, indent=2, ensure_ascii=False) + "\n").encode())
    return store.href(_CATALOG)


def _listed_before(store: Store) -> Iterator[str]:
    """The folders that the catalog of an earlier call lists and that still hold an item."""
    if _CATALOG not in store.entries():
        return
    with store.open(_CATALOG) as file, suppress(ValueError, KeyError, TypeError, AttributeError):
        for link in json.load(file)["links"]:
            folder = str(link["href"]).removeprefix("./").partition("/")[0]
            if link["rel"] == "item" and "item.json" in store.below(folder).entries():
                yield folder
